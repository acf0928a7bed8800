"""``qtot envs``: every task, in full, with the facts that its EnvSpec states."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from command import run
from qtot.envs import FAMILIES, make_env, tasks
from qtot.envs.spec import EnvSpec
from qtot.errors import QtotError
from qtot.listing import facts_table


@pytest.mark.parametrize("family", ["matrix", "probe"])
def test_every_task_is_listed_in_full_when_piped(family: str):
    got = run(f"envs {family}", columns=40)
    assert (got.code, got.err) == (0, "")
    rows = {line.split()[0]: line for line in got.out.splitlines() if line.startswith(f"{family}/")}
    assert list(rows) == [f"{family}/{task}" for task in tasks(family)]
    for name, row in rows.items():
        assert make_env(name).spec.about in row


def test_the_facts():
    rows = [line.split() for line in run("envs probe").out.splitlines()]
    facts = {row[0]: row[1:10] for row in rows if row}
    assert facts["probe/own_obs"] == ["2", "2-4", "1-3", "2", "own", "1", "sum", "all", "-"]
    assert facts["probe/masks"][7:] == ["env", "-"]
    assert facts["probe/distinct"][8] == "id"


def test_all_families_the_tests_own_last(monkeypatch: pytest.MonkeyPatch):
    def refuse(name: str) -> None:
        raise QtotError("this needs the package 'x'; pip install 'x[y]'")

    monkeypatch.setattr("qtot.listing.make_env", refuse)
    got = run("envs")
    heads = [line.partition(":")[0] for line in got.out.splitlines() if ": " in line]
    assert [head for head in heads if head in FAMILIES] == list(FAMILIES)
    assert list(FAMILIES)[-1] == "probe"
    # a family whose package is missing does not hide the others
    assert got.code == 0
    assert got.out.count("not available: this needs the package 'x'; pip install 'x[y]'") == len(
        FAMILIES
    )


@pytest.mark.parametrize(("width", "about"), [(80, False), (140, True)])
def test_it_fits_the_terminal(width: int, about: bool):
    longest = EnvSpec(
        name="mpe/simple_speaker_listener",
        agents=("a",) * 27,
        n_actions=(3, 35),
        obs_sizes=(11, 738),
        state_size=684,
        episode_limit=100,
        state_source="concatenated observations",
        info=("won",),
        about="a speaker who sees the goal, a listener who moves",
    )
    said = io.StringIO()
    screen = Console(width=width, file=said, force_terminal=True, color_system=None)
    screen.print(facts_table([longest], screen))
    head, row = said.getvalue().rstrip().splitlines()
    assert max(len(head), len(row)) <= width
    facts = [longest.name, "27", "3-35", "11-738", "684", "obs", "100", "given", "env", "won"]
    assert row.split() == facts + (longest.about.split() if about else [])
