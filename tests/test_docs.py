"""What the README says works."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from command import run
from extras import needs
from qtot.cli import _command
from qtot.store.run_folder import METRICS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_every_command_of_the_readme_parses():
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    commands = [shlex.split(line, comments=True) for line in lines if line.startswith("qtot ")]
    assert len(commands) >= 6
    for _, *args in commands:
        _command(args)


def test_every_make_target_of_the_readme_exists():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"(?:`|^)make ([a-z-]+)", README, flags=re.MULTILINE))
    assert {"train", "test", "bench"} <= targets
    for target in targets:
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target


def test_every_metric_is_in_the_readme():
    for key in METRICS:
        assert f"| `{key}` |" in README, key


def test_the_python_tour_runs(tmp_path, monkeypatch):
    """On a task of seconds instead of minutes, with the network of one's own."""
    monkeypatch.chdir(tmp_path)
    eyes, _, code = blocks("python")
    Path("eyes.py").write_text(eyes, encoding="utf-8")
    for old, new in (
        ("smax/3m", "matrix/two_step"),
        ("steps=100_000", "steps=500"),
        ("ally_0", "agent_0"),
        ("episodes=256", "episodes=8"),
        ('{"hidden": 64}', '{"hidden": 64, "module": "eyes:make"}'),
        ('load("runs/py")', 'load("runs/py", trust=True)'),  # that module, named in the folder
    ):
        assert old in code
        code = code.replace(old, new)
    names: dict = {}
    exec(code, names)
    assert names["action"] in (0, 1)


@needs("pettingzoo")
def test_the_tour_of_an_environment_of_your_own_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(ROOT / "examples")
    code = blocks("python")[1].replace("25_000", "300").replace("make, data", "make, **FEW, data")
    assert "FEW" in code
    few = {"episodes": 8, "final_episodes": 8}
    names: dict = {"FEW": {"host": {"workers": 0}, "evaluation": few}}
    exec(code, names)
    assert names["left"].obs_size == 12


@pytest.mark.parametrize("name", ["environments", "deploy", "migrate", "report", "sweep"])
def test_every_command_of_a_page_parses(name: str):
    page = (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")
    shown = "".join(re.findall(r"```(?:sh|text)\n(.*?)```", page, flags=re.DOTALL))
    found = re.findall(r"^(?:\$ )?qtot (.*)$", shown, flags=re.MULTILINE)
    assert len(found) >= 4
    for line in found:
        _command(shlex.split(line, comments=True))


@pytest.mark.parametrize("name", ["environments", "deploy", "migrate", "report", "sweep"])
def test_links_of_a_page_lead_somewhere(name: str):
    page = (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)\)", page):
        assert (ROOT / "docs" / target).exists(), target
    assert "@@" not in page


def test_the_page_on_reliability_names_tests_that_there_are():
    page = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    files = {path.name: path.read_text(encoding="utf-8") for path in ROOT.glob("tests/test_*.py")}
    named = re.findall(r"`(test_\w+)(\.py)?`", page)
    assert len(named) > 20
    for name, is_file in named:
        there = (
            f"{name}.py" in files if is_file else any(f"def {name}(" in x for x in files.values())
        )
        assert there, name
    for line in re.findall(r"^qtot (.*)$", page, flags=re.MULTILINE):
        _command(shlex.split(line, comments=True))


def test_the_page_for_who_comes_from_pymarl_names_options_that_there_are():
    page = (ROOT / "docs" / "migrate.md").read_text(encoding="utf-8")
    commands = ("train", "resume", "eval", "import-pymarl")
    text = "".join(run(f"{command} --help").out for command in commands)
    for flag in sorted(set(re.findall(r"--[a-z][a-z.-]+", page)) - {"--env-config", "--config"}):
        assert flag in text, flag


def test_nothing_is_left_to_fill_in():
    assert "@@" not in README
    assert "RESULTS_TABLE" not in README


def test_links_of_the_readme_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("http") or (ROOT / target).exists(), target
