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


def first_frame(run: qtot.Run, tmp_path: Path) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """And what was recorded: rendering records by itself."""
    assert qtot.render(run, tmp_path / "e.gif") > 1
    with Image.open(tmp_path / "e.gif") as film:
        picture = np.asarray(film.convert("RGB")).astype(int)
    return picture, run._folder.read_record(0)[1]


def share(picture: np.ndarray, tone: tuple[int, int, int]) -> float:
    return float((np.abs(picture - tone).max(axis=-1) < 40).mean())


BLUE, ORANGE = (0, 114, 178), (196, 79, 0)


def test_a_game_is_drawn_as_its_tables(tmp_path: Path):
    """The greedy joint action is framed, in the payoffs and in what was learned."""
    made = untrained(tmp_path / "run", small_config("matrix/climbing", **MEMORY))
    picture, record = first_frame(made, tmp_path)
    u, v = record["said/greedy"][0, 0]
    for i in range(3):
        for j in range(3):
            for table in (40, 40 + 3 * 55 + 48):
                left, top = 16 + j * 88, table + i * 55
                edge = picture[top + 8 : top + 44, left - 1 : left + 3]
                assert (share(edge, BLUE) > 0.2) == ((i, j) == (u, v))


def test_what_has_no_scene_is_drawn_as_bars_of_what_is_seen(tmp_path: Path):
    made = untrained(tmp_path / "run", small_config("probe/memory", **MEMORY))
    picture, record = first_frame(made, tmp_path)
    obs = record["slots/obs"][0, 0]
    assert obs.any()
    for i, tone in enumerate((BLUE, ORANGE)):
        high, wide = 480 / len(obs), (480 - 16) / obs.shape[1]
        for j, value in enumerate(obs[i]):
            column = picture[:480, int(8 + (j + 0.5) * wide)]
            tall = (np.abs(column - tone).max(axis=-1) < 40).sum()
            assert tall == pytest.approx(abs(value) / np.abs(obs).max() * (high / 2 - 4), abs=4)


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
