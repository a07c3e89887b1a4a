"""Which strategies can be composed with which, found out by composing them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from roundel.core.errors import CompositionError
from roundel.core.learning import Phase
from roundel.strategies.compose import Strategy, compose
from roundel.strategies.registry import STRATEGIES

_WORKS, _ORDER = "·", "<"


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two strategies, each with its default knobs.

    Attributes:
        one: The name of the first.
        two: The name of the second.
        refusal: Why they cannot be composed with `one` before `two`; None if they can.
        reversed: Why they cannot with `two` before `one`; None if they can.
    """

    one: str
    two: str
    refusal: str | None
    reversed: str | None

    @property
    def works(self) -> bool:
        """Whether there is an order in which they can be composed."""
        return self.refusal is None or self.reversed is None


def composed(*names: str) -> Strategy:
    """Compose strategies with their default knobs, in this order.

    Raises:
        CompositionError: They contradict each other, or local training by SGD.
    """
    strategy = compose(*(STRATEGIES[name]() for name in names))
    strategy.phases([Phase()])
    return strategy


def pairs(names: Sequence[str] | None = None) -> Iterator[Pair]:
    """Compose every two strategies, in both orders.

    Args:
        names: Of which strategies; of all by default.
    """
    for one, two in combinations(names or list(STRATEGIES), 2):
        yield Pair(one=one, two=two, refusal=_refusal(one, two), reversed=_refusal(two, one))


def _refusal(*names: str) -> str | None:
    try:
        composed(*names)
    except CompositionError as error:
        return str(error)
    return None


def table(found: Sequence[Pair]) -> str:
    """Lay all pairs out: a square of marks, and what each mark stands for.

    A dot says that a pair works, ``<`` that it works in one order only, and a letter stands for the
    reason below, in which X and Y are the two parts.
    """
    names = list(dict.fromkeys([*(p.one for p in found), *(p.two for p in found)]))
    reasons = sorted({_reason(pair) for pair in found} - {""})
    letters = {reason: _letter(place) for place, reason in enumerate(reasons)}
    marks: dict[tuple[str, str], str] = {}
    for pair in found:
        reason = _reason(pair)
        mark = letters[reason] if reason else _WORKS
        if reason and pair.works:
            mark = _ORDER
        marks[pair.one, pair.two] = marks[pair.two, pair.one] = mark
    width = max(map(len, names))
    rows = [
        f"{name:{width}} " + "".join(marks.get((name, other), " ") for other in names)
        for name in names
    ]
    refused = {_reason(pair) for pair in found if not pair.works}
    legend = [f"{letters[reason]}  {reason}" for reason in reasons if reason in refused]
    ordered = [
        f"{_ORDER}  {pair.refusal or pair.reversed}"
        for pair in found
        if pair.works and _reason(pair)
    ]
    return "\n".join([*rows, "", *legend, *dict.fromkeys(ordered)])


def _reason(pair: Pair) -> str:
    """Return why a pair is refused in some order, with X and Y for the parts."""
    text = (pair.refusal or pair.reversed) or ""
    if not text:
        return ""
    return _anonymous(text, {name: _parts(name) for name in (pair.one, pair.two)})


def _parts(name: str) -> list[str]:
    return [part.name for part in compose(STRATEGIES[name]()).parts]


def _anonymous(text: str, parts: Mapping[str, Sequence[str]]) -> str:
    for letter, own in zip("XY", parts.values(), strict=True):
        for part in sorted(own, key=len, reverse=True):
            text = text.replace(f"{part} ", f"{letter} ").replace(f"after {part}:", f"after {letter}:")
    return text


def _letter(place: int) -> str:
    return chr(ord("a") + place) if place < 26 else chr(ord("A") + place - 26)
