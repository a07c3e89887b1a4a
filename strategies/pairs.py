"""Which strategies can be composed with which, found out by composing them."""

import re
from collections.abc import Mapping, Sequence
from itertools import permutations
from string import ascii_letters

from roundel.core.errors import CompositionError
from roundel.core.job import Phase
from roundel.strategies.compose import Strategy, compose
from roundel.strategies.registry import STRATEGIES, constructor

Refusals = Mapping[tuple[str, str], str | None]
"""Two names to why the first cannot be composed with the second after it; None if it can."""


def composed(*names: str) -> Strategy:
    """Compose strategies with their default knobs, in this order.

    Raises:
        CompositionError: They contradict each other, or local training by SGD.
    """
    strategy = compose(*(constructor(name, "the strategy")() for name in names))
    strategy.phases([Phase()])
    return strategy


def refusals(names: Sequence[str] | None = None) -> Refusals:
    """Compose every two strategies, in both orders.

    Args:
        names: Of which strategies; of all by default.
    """
    return {pair: _refusal(*pair) for pair in permutations(names or list(STRATEGIES), 2)}


def _refusal(*names: str) -> str | None:
    try:
        composed(*names)
    except CompositionError as error:
        return str(error)
    return None


def partners(name: str) -> str:
    """Say with which strategies one goes together, and why it does not with the others."""
    lines: list[str] = []
    works: list[str] = []
    for other in STRATEGIES:
        if other == name:
            continue
        first, second = _refusal(name, other), _refusal(other, name)
        if first is None and second is None:
            works.append(other)
        elif first is None or second is None:
            order = f"{name}, {other}" if first is None else f"{other}, {name}"
            lines.append(f"{other}: only as {order}: {first or second}")
        else:
            lines.append(f"{other}: not at all: {first}")
    return "\n".join([f"{name} works with {', '.join(works)}", *lines])


def table(found: Refusals) -> str:
    """Lay all pairs out: a square of marks, and what each mark stands for.

    A row's strategy comes first, a column's after it; columns are in the order of the rows. A dot
    says that the two work together, a letter stands for a reason below the square.
    """
    names = list(dict.fromkeys(one for one, _ in found))
    reasons = {pair: _reason(text) for pair, text in found.items() if text is not None}
    letters = dict(zip(dict.fromkeys(reasons.values()), ascii_letters, strict=False))
    width = max(map(len, names))
    rows = [
        f"{one:{width}} " + "".join(_mark((one, two), reasons, letters) for two in names)
        for one in names
    ]
    legend = [f"{letter}  {reason}" for reason, letter in letters.items()]
    return "\n".join([*rows, "", "·  they work together", *legend])


def _mark(
    pair: tuple[str, str], reasons: Mapping[tuple[str, str], str], letters: Mapping[str, str]
) -> str:
    if pair[0] == pair[1]:
        return " "
    return letters[reasons[pair]] if pair in reasons else "·"


def _reason(text: str) -> str:
    """Return what a refusal says about the two, without their names."""
    both = re.search(r" both (set|bring) (.*)", text)
    return f"both {both[1]} {both[2]}" if both else text.partition(": ")[2]
