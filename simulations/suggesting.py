"""Let Optuna suggest the next configuration from those that were tried.

Nothing is kept between two suggestions: what was tried goes in, the next one comes out, so that a
search that was interrupted goes on the same way.
"""

from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from roundel.core.errors import ConfigError
from roundel.core.goals import Goal
from roundel.simulations.spaces import Space, rounded

_RANDOM = 3
"""One in so many trials is drawn at random, at the beginning."""

Tried = tuple[Mapping[str, Any], float | None]
"""A configuration and what it is worth; None if it failed or diverged."""


def check_optuna() -> None:
    """Refuse what needs Optuna where it is not installed.

    Raises:
        ConfigError: It is not.
    """
    if find_spec("optuna") is None:
        raise ConfigError(
            "--search optuna needs the package optuna, which is not installed; install it with "
            "`pip install optuna`, or take --search random"
        )


def suggestion(
    space: Space, tried: Sequence[Tried], *, trials: int, goal: Goal, seed: int
) -> dict[str, Any]:
    """Return what to try next, by the tree-structured Parzen estimator (Bergstra et al. 2011).

    Args:
        space: What is tuned.
        tried: What was tried before, in order.
        trials: How many there will be in all.
        goal: Whether what they are worth should be large or small.
        seed: Decides the draws.
    """
    optuna: Any = import_module("optuna")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    distributions = {
        key: optuna.distributions.FloatDistribution(span.at(0.0), span.at(1.0), log=True)
        for key, span in space.items()
    }
    study = optuna.create_study(
        direction="maximize" if goal == "max" else "minimize",
        sampler=optuna.samplers.TPESampler(
            seed=(seed + len(tried)) % 2**32, n_startup_trials=max(1, trials // _RANDOM)
        ),
    )
    failed = optuna.trial.TrialState.FAIL
    for values, score in tried:
        outcome = {"state": failed} if score is None else {"value": score}
        study.add_trial(
            optuna.trial.create_trial(params=dict(values), distributions=distributions, **outcome)
        )
    return {key: rounded(value) for key, value in study.ask(distributions).params.items()}
