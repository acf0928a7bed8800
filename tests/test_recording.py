"""Records of environments that Python steps: what evaluation plays, and what they draw."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import qtot
from extras import needs
from qtot.envs import make_env
from qtot.reporting.page import make_report
from small import small_config
from untrained import MEMORY, untrained

pytestmark = needs("gymnasium")
PAINTER = "host_envs:Painter"


def recorded(path: Path, *args: str) -> tuple[qtot.Run, dict[str, Any], dict[str, np.ndarray]]:
    config = small_config(PAINTER, collect={"envs": 4}, host={"args": args}, **MEMORY)
    run = untrained(path, config)
    (one,) = qtot.record(run, 9, env=PAINTER)
    facts, arrays = run._folder.read_record(0)
    assert one.episodes == len(arrays["lengths"])
    return run, facts, arrays


def test_episodes_are_those_of_evaluation_and_pictures_those_of_their_steps(tmp_path: Path):
    run, facts, arrays = recorded(tmp_path / "run")
    lengths, returns = arrays["lengths"], arrays["returns"]
    assert len(lengths) == 4  # as many as it collects from
    (played,) = qtot.evaluate(run, 4, env=PAINTER)
    assert played["length"] == lengths.mean()
    assert played["return"] == pytest.approx(returns.mean())
    assert played["return_std"] == pytest.approx(returns.std())
    assert len(set(lengths.tolist())) > 1
    for e, length in enumerate(lengths):
        # paid with one's own action, and with twice the other's
        paid = arrays["slots/action"][:length, e] @ np.array([1, 2])
        np.testing.assert_allclose(arrays["slots/reward"][:length, e], paid)
        assert returns[e] == paid.sum()
        assert arrays["slots/valid"][:, e].tolist() == [t < length for t in range(max(lengths) + 1)]
    assert facts["scene"] is None
    assert arrays["frames"].shape[1:] == (2, 8, 3)
    for t in range(lengths[0] + 1):
        assert (arrays["frames"][t] == 255).all(axis=(0, 2)).sum() == t


def test_pictures_reach_the_page_and_the_film(tmp_path: Path):
    run, _, arrays = recorded(tmp_path / "run")
    (run.path / "metrics.jsonl").touch()
    shown = make_report([run.path]).data["episodes"]
    assert [len(one.get("frames", [])) for one in shown] == [arrays["lengths"][0] + 1, 0, 0, 0]
    assert shown[0]["frames"][0].startswith("data:image/jpeg;base64,")
    qtot.render(run, tmp_path / "e.gif")
    with Image.open(tmp_path / "e.gif") as film:
        for t in range(film.n_frames):
            film.seek(t)
            row = np.asarray(film.convert("L"))[30, :480].astype(int)  # eight pixels made sixty
            assert ((row > 127).sum() + 30) // 60 == t


def test_an_episode_that_fails_is_left_out(tmp_path: Path):
    arrays = recorded(tmp_path / "run", "frail=true")[2]
    whole = recorded(tmp_path / "whole")[2]
    kept = whole["lengths"] != 5
    assert 0 < kept.sum() < 4
    np.testing.assert_array_equal(arrays["lengths"], whole["lengths"][kept])
    np.testing.assert_array_equal(arrays["returns"], whole["returns"][kept])
    assert ("frames" in arrays) == kept[0]


def test_another_environment_of_the_same_shape_is_shown_by_its_own_names(tmp_path: Path):
    """As after import-pymarl, which does not know what agents are called."""
    run = untrained(tmp_path / "run", small_config("matrix/climbing", **MEMORY))
    (run.path / "metrics.jsonl").touch()
    config = json.loads((run.path / "config.json").read_text())
    config["env"]["agents"] = ["left", "right"]
    (run.path / "config.json").write_text(json.dumps(config))
    run = qtot.load(run.path)
    assert run.spec.agents == ("left", "right")
    qtot.record(run, 1, env="matrix/penalty-0")
    (stage,) = make_report([run.path]).data["stages"]
    assert stage["agents"] == list(make_env("matrix/penalty-0").spec.agents)
    assert qtot.render(run, tmp_path / "e.gif", env="matrix/penalty-0") > 1
