"""What is tuned unless it is said: which knobs of a strategy, and between which values.

Learning rates are tuned for every strategy, around that of the experiment. What else matters is in
`KNOBS`: about the ranges that the papers search, always with the default well inside.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import exp, log
from typing import Any

import numpy as np

from roundel.core.errors import ConfigError
from roundel.core.seeds import derive


def rounded(value: float) -> float:
    """Return a value to three significant digits, so that it can be read, and typed again."""
    return float(f"{value:.3g}")


@dataclass(frozen=True)
class Span:
    """Every value between two, both above 0, each of its decades as likely as the others.

    Attributes:
        low: The smallest.
        high: The largest.
    """

    low: float
    high: float

    def at(self, place: float) -> float:
        """Return a value.

        Args:
            place: From 0, the smallest, to 1, the largest.

        >>> Span(0.01, 1.0).at(0.5)
        0.1
        """
        value = exp(log(self.low) + place * (log(self.high) - log(self.low)))
        return rounded(value)

    def points(self, count: int) -> list[float]:
        """Return so many values, from the smallest to the largest in equal steps.

        >>> Span(0.01, 1.0).points(3)
        [0.01, 0.1, 1.0]
        """
        if count == 1:
            return [self.at(0.5)]
        return [self.at(place / (count - 1)) for place in range(count)]


Space = Mapping[str, Span]
"""Dotted key of an experiment to its values."""

KNOBS: Mapping[str, Space] = {
    "fedavgm": {"strategy.server_lr": Span(0.03, 3.0)},
    "fedadagrad": {"strategy.server_lr": Span(0.003, 1.0)},
    "fedadam": {"strategy.server_lr": Span(0.003, 1.0)},
    "fedyogi": {"strategy.server_lr": Span(0.003, 1.0)},
    "fedprox": {"strategy.mu": Span(0.001, 1.0)},
    "prox": {"strategy.mu": Span(0.001, 1.0)},
    "feddyn": {"strategy.alpha": Span(0.001, 1.0)},
    "moon": {"strategy.mu": Span(0.1, 10.0)},
    "qfedavg": {"strategy.q": Span(0.001, 10.0)},
    "ditto": {"strategy.lam": Span(0.01, 10.0)},
    "pfedme": {"strategy.lam": Span(1.0, 50.0)},
    "centred_clipping": {"strategy.tau": Span(0.1, 100.0)},
    "fltrust": {"strategy.server_lr": Span(0.03, 3.0)},
}
"""By the name of a strategy, its knobs besides ``client.lr``."""

_BELOW, _ABOVE = 20.0, 5.0
"""How far the learning rate goes: plain SGD fails suddenly above, and slowly below."""


def space_of(strategy: str, lr: float) -> Space:
    """Return what is tuned of a strategy.

    Args:
        strategy: Its name.
        lr: The learning rate of the experiment.
    """
    if strategy == "fedsgd":  # clients take no steps
        return {"strategy.server_lr": Span(lr / _BELOW, lr * _ABOVE)}
    return {"client.lr": Span(lr / _BELOW, lr * _ABOVE), **KNOBS.get(strategy, {})}


def grid_points(space: Space, count: int) -> list[dict[str, Any]]:
    """Return a full grid of exactly so many configurations, the first key the finest.

    Raises:
        ConfigError: No grid with at least two values of each key has so many.
    """
    sides = _sides(count, len(space))
    if sides is None:
        raise ConfigError(
            f"{count} trials are no grid over {len(space)} knobs ({', '.join(space)}) with two or "
            f"more values of each; take {2 ** len(space)} or a multiple of it, or --search random"
        )
    values = [span.points(side) for span, side in zip(space.values(), sides, strict=True)]
    return [dict(zip(space, point, strict=True)) for point in product(*values)]


def _sides(count: int, dimensions: int) -> list[int] | None:
    """Return the sides of the most even box of a volume, the longest first."""
    if dimensions == 1:
        return [count] if count > 1 else None
    for side in sorted(_divisors(count), key=lambda side: abs(side - count ** (1 / dimensions))):
        rest = _sides(count // side, dimensions - 1)
        if rest is not None:
            return sorted([side, *rest], reverse=True)
    return None


def _divisors(count: int) -> Sequence[int]:
    return [side for side in range(2, count + 1) if count % side == 0]


def random_points(space: Space, count: int, seed: int) -> list[dict[str, Any]]:
    """Return so many configurations, spread over the space at random.

    Each key's span is cut into as many parts as there are configurations, and each part is drawn
    from once (McKay, Beckman and Conover 1979): few values leave no gap. Strategies that share a
    key get the same values of it.

    Args:
        space: What is drawn.
        count: How many.
        seed: Decides which.
    """
    columns = {}
    for key, span in space.items():
        generator = np.random.default_rng(derive(seed, f"tuning {key}"))
        places = (generator.permutation(count) + generator.random(count)) / max(1, count)
        columns[key] = [span.at(float(place)) for place in places]
    return [{key: column[place] for key, column in columns.items()} for place in range(count)]
