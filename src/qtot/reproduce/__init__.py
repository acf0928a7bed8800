"""Published experiments, each one command and one module. Importing this loads no JAX."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Experiment:
    """A module with ``run(Settings) -> Page``."""

    module: str
    about: str
    full: str
    """how long it takes on 2 cores"""
    quick: str
    """the same of the quick form"""


EXPERIMENTS: dict[str, Experiment] = {
    "two-step": Experiment(
        "two_step",
        "the two-step game (Rashid et al. 2018): Q_tot tables and returns",
        "5 min",
        "1 min",
    ),
    "random-matrix": Experiment(
        "random_matrix",
        "random single-state games, as agents and actions grow",
        "11 min",
        "2 min",
    ),
    "non-monotonic": Experiment(
        "non_monotonic",
        "the games of QTRAN and QPLEX, which no monotone mixer represents",
        "7 min",
        "4 min",
    ),
    "climbing-penalty": Experiment(
        "climbing_penalty",
        "the climbing and penalty games (Claus & Boutilier 1998)",
        "30 min",
        "3 min",
    ),
    "predator-prey": Experiment(
        "predator_prey",
        "a hunt in which catching alone is punished (Rashid et al. 2020b)",
        "4 h",
        "5 min",
    ),
    "ablations": Experiment(
        "ablations",
        "QMIX, its ablations, VDN, IQL and COMA on SMAX 2s3z and 3s5z",
        "6 h",
        "6 min",
    ),
}


def reproduce(
    name: str, *, quick: bool = False, seeds: int | None = None, out: str | None = None
) -> int:
    """Run an experiment; print and write its page.

    Args:
        name: one of ``EXPERIMENTS``.
        quick: the smaller form.
        seeds: independent seeds (for random games: games); None for the experiment's own number.
        out: its folder; None for ``runs/reproduce-NAME``.

    Returns:
        0 when what should come out came out, else 1.

    Raises:
        QtotError: no positive number of seeds, or a folder that cannot be written.
    """
    import importlib
    import time
    from pathlib import Path

    from qtot.reproduce.page import Settings, check_seeds, publish
    from qtot.store.files import make_folder

    check_seeds(seeds)
    folder = make_folder(Path(out or f"runs/reproduce-{name}{'-quick' * quick}"))
    settings = Settings(folder, quick=quick, seeds=seeds)
    chosen = EXPERIMENTS[name]
    settings.say(f"{name} takes about {chosen.quick if quick else chosen.full} on 2 cores")
    experiment = importlib.import_module(f"qtot.reproduce.{chosen.module}")
    began = time.perf_counter()
    page = experiment.run(settings)
    publish(page, settings, name, time.perf_counter() - began)
    return 0 if page.agrees else 1
