"""Every known silent bug, planted in a copy of the sources, is caught by the tests named for it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

import qtot
from planted import BUGS

TESTS = Path(__file__).parent
SOURCES = Path(qtot.__file__).parent


def copied(to: Path) -> Path:
    """A copy of the sources, to be put on the path."""
    shutil.copytree(SOURCES, to / "qtot", ignore=shutil.ignore_patterns("__pycache__"))
    return to


def run_tests(nodes: Iterable[str], path: Path) -> subprocess.CompletedProcess[str]:
    """The tests, importing qtot from ``path`` even if another is installed."""
    before = os.environ.get("PYTHONPATH")
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(path), *([before] if before else [])])}

    def python(*args: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *args],
            cwd=TESTS.parent,
            env=env,
            capture_output=True,
            text=True,
            check=False,
        )

    imported = python("-c", "import qtot; print(qtot.__file__)").stdout.strip()
    assert Path(imported).parent == path / "qtot"
    return python("-m", "pytest", "-rf", *(str(TESTS / node) for node in nodes))


@pytest.mark.long
@pytest.mark.parametrize("name", BUGS)
def test_a_planted_bug_is_caught(name: str, tmp_path: Path):
    bug, path = BUGS[name], copied(tmp_path)
    file = path / "qtot" / bug.file
    text = file.read_text(encoding="utf-8")
    assert text.count(bug.old) == 1, f"{bug.file} has changed: bring tests/planted.py up to date"
    file.write_text(text.replace(bug.old, bug.new), encoding="utf-8")
    compile(file.read_text(encoding="utf-8"), str(file), "exec")

    done = run_tests(bug.caught_by, path)
    assert done.returncode == 1, f"pytest's exit code is {done.returncode}:\n{done.stdout}"
    failed = re.findall(r"^FAILED \S*?(test_\w+\.py::.+?)(?: - .*)?$", done.stdout, re.MULTILINE)
    for node in bug.caught_by:
        assert any(one.startswith(node) for one in failed), f"{node} passes:\n{done.stdout}"


@pytest.mark.long
def test_without_a_planted_bug_all_of_these_tests_pass(tmp_path: Path):
    nodes = sorted({node for bug in BUGS.values() for node in bug.caught_by})
    done = run_tests(nodes, copied(tmp_path))
    assert done.returncode == 0, done.stdout
