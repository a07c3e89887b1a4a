"""Figures of a round by name: where they stand, and whether they should be large or small."""

from collections.abc import Mapping
from typing import Any, Literal

Goal = Literal["max", "min"]


def lower_is_better(name: str) -> bool:
    """Tell from a metric's name whether small values are good: losses, errors, perplexities."""
    return name.endswith(("loss", "error", "perplexity")) or name in {"mae", "mse", "rmse"}


def value_at(line: Mapping[str, Any], key: str) -> Any:  # noqa: ANN401 - any value of JSON
    """Return what a key leads to; None if it leads nowhere.

    Args:
        line: As in ``metrics.jsonl``.
        key: Dots lead inside, as in ``clients.accuracy.p10``.

    >>> value_at({"clients": {"loss": {"p10": 2.0}}}, "clients.loss.p10")
    2.0
    """
    value: Any = line
    for step in key.split("."):
        value = value.get(step) if isinstance(value, Mapping) else None
    return value


def goal_of(key: str) -> Goal:
    """Return whether a figure of a round's line should be large or small.

    Args:
        key: Dots lead inside, as in ``clients.accuracy.p10``.

    >>> goal_of("accuracy"), goal_of("clients.loss.p90"), goal_of("clients.accuracy.variance")
    ('max', 'min', 'min')
    """
    parts = key.split(".")
    less = parts[-1] == "variance" or any(lower_is_better(part) for part in parts)
    return "min" if less else "max"
