"""Episodes as moving pictures."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import qtot
from command import run as command
from extras import package
from qtot.errors import QtotError
from small import small_config
from untrained import MEMORY, untrained

HUNT = "predator_prey/4x4-2v1-p2-t6"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> qtot.Run:
    made = untrained(tmp_path_factory.mktemp("film") / "run", small_config(HUNT, **MEMORY))
    qtot.record(made, 2)
    return made


def test_a_gif_has_a_frame_for_each_step_and_shows_who_is_where(run: qtot.Run, tmp_path: Path):
    got = command(f"render {run.path} --out {tmp_path / 'e.gif'} --episode 1 --fps 4")
    assert got.code == 0, got.err
    length = int(run._folder.read_record(0)[1]["lengths"][1])
    assert f"{length + 1} frames" in got.out
    looks = run._folder.read_record(0)[1]
    with Image.open(tmp_path / "e.gif") as film:
        assert film.info["duration"] == 250
        # Frames that are alike are shown longer; a moving hunt has none.
        assert film.n_frames == length + 1
        for t in range(length + 1):
            film.seek(t)
            picture = np.asarray(film.convert("RGB")).astype(int)
            for i, tone in enumerate(((0, 114, 178), (196, 79, 0))):
                if looks["look/shown"][t, 1, i]:
                    x, y = (int((looks[f"look/{axis}"][t, 1, i] + 0.5) * 120) for axis in "xy")
                    assert np.abs(picture[y, x] - tone).max() < 40


def test_an_mp4_has_the_same_frames(run: qtot.Run, tmp_path: Path):
    ffmpeg = package("imageio_ffmpeg", "video")
    frames = qtot.render(run, tmp_path / "e.mp4")
    look = [ffmpeg.get_ffmpeg_exe(), "-i", tmp_path / "e.mp4", "-f", "null", "-"]
    said = subprocess.run(look, check=True, capture_output=True, text=True).stderr
    assert int(said.rpartition("frame=")[2].split()[0]) == frames
    assert [path.name for path in tmp_path.iterdir()] == ["e.mp4"]


def test_games_and_bars_are_drawn_too(tmp_path: Path):
    for env in ("matrix/climbing", "probe/memory"):
        made = untrained(tmp_path / env.replace("/", "-"), small_config(env, **MEMORY))
        assert qtot.render(made, tmp_path / "e.gif") > 1  # which records by itself
        with Image.open(tmp_path / "e.gif") as film:
            assert len(np.unique(np.asarray(film.convert("RGB")).reshape(-1, 3), axis=0)) > 5


def test_what_cannot_be_drawn_is_refused(run: qtot.Run, tmp_path: Path):
    for changes, message in (
        ({"out": tmp_path / "e.avi"}, "ends in .gif or .mp4"),
        ({"episode": 9}, "there is no episode 9; 2 were recorded"),
        ({"policy_seed": 3}, "has no seed 3"),
        ({"fps": 0}, "fps must be a number above 0"),
        ({"fps": 60}, "of at most 50"),
        ({"episode": -1}, "expected numbers"),
        ({"out": tmp_path / "nowhere" / "e.gif"}, "cannot write"),
    ):
        with pytest.raises(QtotError, match=message):
            qtot.render(run, **{"out": tmp_path / "e.gif", **changes})


def test_a_film_is_of_the_parameters_that_are_there(tmp_path: Path):
    """A record of others is made anew."""
    config = small_config(HUNT, **MEMORY)
    made, other = (untrained(tmp_path / f"run{i}", config, scale=0.4 + i) for i in (0, 1))
    qtot.render(made, tmp_path / "e.gif")
    before = made._folder.read_record(0)[0]["params"]
    file = Path("params", "seed-0", "last.npz")
    (made.path / file).write_bytes((other.path / file).read_bytes())
    qtot.render(made, tmp_path / "f.gif")
    assert made._folder.read_record(0)[0]["params"] == made.digest(0) != before
