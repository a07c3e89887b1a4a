"""Which figures the rounds of a run will have, found out before it begins."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch

from roundel.core.data import Examples
from roundel.core.errors import ConfigError, DataError
from roundel.core.goals import value_at
from roundel.core.metrics import SPREAD
from roundel.core.seeds import isolated_rng
from roundel.core.suggest import suggest
from roundel.core.usercode import user_code
from roundel.server.evaluation import figures
from roundel.simulations.prepare import Simulation

_ALWAYS = ("loss", "train_loss", "bytes_up", "bytes_down", "completed", "failures")
_PRIVACY = ("epsilon", "delta")
_OPEN = ("health", "topology")
"""Sections of a round's line whose keys depend on what happens."""


def check_figures(simulation: Simulation, keys: Sequence[str]) -> None:
    """Refuse keys that no line of ``metrics.jsonl`` will have.

    Args:
        simulation: The experiment with its data at hand.
        keys: Dots lead inside, as in ``clients.accuracy.p10``.

    Raises:
        ConfigError: A key is none of them.
    """
    measured = _measured(simulation)
    if measured is None:
        return
    asked = simulation.plan.experiment.evaluation.clients > 0
    of_clients = [f"clients.{name}.{part}" for name in measured for part in ("mean", *SPREAD)]
    known = [*measured, *_ALWAYS, *_PRIVACY, *(of_clients if asked else ())]
    for key in keys:
        if key not in known and key.split(".")[0] not in _OPEN:
            if key in of_clients:
                hint = "it is measured on clients, and evaluation.clients = 0 asks none; raise it"
            else:
                hint = suggest(key, known, f"choose from {', '.join(measured)}, or {_EXAMPLE}")
            raise ConfigError(
                f"the metric {key!r} is not among the figures of a round; {hint} (--metric, or "
                "report.metrics in a file)"
            )


_EXAMPLE = "one inside clients, such as clients.loss.p90"


def figure_of(line: Mapping[str, Any], key: str) -> float | None:
    """Return a figure of a round's line; None if it was not measured.

    Args:
        line: As in ``metrics.jsonl``.
        key: Dots lead inside.

    >>> figure_of({"accuracy": 0.5, "clients": {"loss": {"p10": 2.0}}}, "clients.loss.p10")
    2.0
    """
    value = value_at(line, key)
    return float(value) if isinstance(value, int | float) else None


def _measured(simulation: Simulation) -> Collection[str] | None:
    """Return what an evaluation gives; None if there is no example to find out with."""
    one = _one(simulation)
    if one is None:
        return None
    learner = simulation.learner
    with isolated_rng(0), user_code("evaluating the initial model on an example", ConfigError):
        return figures(learner.evaluate(learner.initial, learner.initial_integers, one))


def _one(simulation: Simulation) -> Examples | None:
    """Return an example to judge a model by."""
    if simulation.test is not None:
        return simulation.test.take(torch.zeros(1, dtype=torch.int64))
    with isolated_rng(0), user_code("making the first client's data", DataError):
        train = simulation.population.client(0).train
    return train.take(torch.zeros(1, dtype=torch.int64)) if len(train) else None
