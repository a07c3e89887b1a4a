"""Whether a figure is to be large or small, by its name alone."""

from typing import Literal

Goal = Literal["max", "min"]


def lower_is_better(name: str) -> bool:
    """Tell from a metric's name whether small values are good: losses, errors, perplexities."""
    return name.endswith(("loss", "error", "perplexity")) or name in {"mae", "mse", "rmse"}


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
