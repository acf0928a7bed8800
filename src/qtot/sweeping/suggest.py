"""What to try next, by Optuna's TPE (Bergstra et al. 2011)."""

from __future__ import annotations

import random
import warnings
from types import ModuleType
from typing import Any

from qtot.extras import extra_module
from qtot.space import Choices, Params, Range, size
from qtot.store.sweep_folder import Sweep, Trial

TRIES = 20
"""suggestions after which one that was tried before is replaced by chance"""
ENOUGH = 5
"""finished trials from which what matters is judged"""


def optuna() -> ModuleType:
    """The package, and nothing of what it likes to say.

    Raises:
        QtotError: it is missing; says how to install it.
    """
    package = extra_module("optuna", "sweep", "qtot sweep")
    package.logging.set_verbosity(package.logging.ERROR)
    return package


def suggest(sweep: Sweep) -> Params:
    """The parameters of the next trial. They follow from the sweep alone: its seed, and its trials
    so far.

    A combination comes again only where no other was found.
    """
    tried = [trial.params for trial in sweep.trials]
    at = f"{sweep.config.seed} {len(tried)}"
    params: Params = {}
    for attempt in range(TRIES):
        params = _asked(sweep, random.Random(f"{at} {attempt}").randrange(2**32))
        if params not in tried:
            return params
    rng = random.Random(at)
    for _ in range(int(min(100 * size(sweep.space), 10_000))):
        drawn = {name: dimension.draw(rng) for name, dimension in sweep.space.items()}
        if drawn not in tried:
            return drawn
    return params


def importance(sweep: Sweep) -> dict[str, float]:
    """Each field's share of what makes values differ (PED-ANOVA, Watanabe et al. 2023), the largest
    first; empty while too few trials are finished.
    """
    values = {trial.value for trial in sweep.ranked()}
    if len(sweep.ranked()) < ENOUGH or len(values) < 2:
        return {}
    package = optuna()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is experimental
        judge = package.importance.PedAnovaImportanceEvaluator()
        found = package.importance.get_param_importances(_study(sweep, 0), evaluator=judge)
    return {name: float(share) for name, share in found.items()}


def _asked(sweep: Sweep, seed: int) -> Params:
    """By Optuna, from ``seed``."""
    asked = _study(sweep, seed).ask(_distributions(sweep)).params
    return {name: _outside(sweep.space[name], asked[name]) for name in sweep.space}


def _study(sweep: Sweep, seed: int) -> Any:
    """All trials so far, as Optuna sees them."""
    package = optuna()
    study = package.create_study(
        direction="maximize" if sweep.goal == "max" else "minimize",
        sampler=package.samplers.TPESampler(seed=seed),
    )
    distributions, states = _distributions(sweep), package.trial.TrialState
    for trial in sweep.trials:
        done = trial.state == "finished"
        study.add_trial(
            package.trial.create_trial(
                # What did not work, or is not known yet, counts as worse than all that is.
                state=states.COMPLETE if done else states.PRUNED,
                value=trial.value if done else None,
                intermediate_values=_partial(trial),
                params={k: _inside(sweep.space[k], v) for k, v in trial.params.items()},
                distributions=distributions,
            )
        )
    return study


def _partial(trial: Trial) -> dict[int, float]:
    """Of a pruned trial: how far it got."""
    return {0: trial.value} if trial.state == "pruned" and trial.value is not None else {}


def _distributions(sweep: Sweep) -> dict[str, Any]:
    package = optuna().distributions
    found = {}
    for name, dimension in sweep.space.items():
        if isinstance(dimension, Choices):
            found[name] = package.CategoricalDistribution(tuple(range(len(dimension.values))))
        else:
            kind = package.IntDistribution if dimension.whole else package.FloatDistribution
            found[name] = kind(dimension.low, dimension.high, log=dimension.log)
    return found


def _inside(dimension: Range | Choices, value: Any) -> Any:
    """For Optuna, which knows choices by their places."""
    return dimension.values.index(value) if isinstance(dimension, Choices) else value


def _outside(dimension: Range | Choices, value: Any) -> Any:
    """From Optuna."""
    if isinstance(dimension, Choices):
        return dimension.values[value]
    return int(value) if dimension.whole else float(value)
