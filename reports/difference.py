"""What two runs have in common, and what not."""

from collections.abc import Iterator, Mapping
from typing import Any

from roundel.core.history import History
from roundel.core.runfiles import SECRETS
from roundel.reports.details import flat, settings
from roundel.reports.listing import number, total_seconds
from roundel.reports.text import NONE, figure, literal, table

_IDENTITY = ("run_id",)
"""What differs between any two runs and means nothing."""
_COUNTED = ("bytes_up", "bytes_down", "failures")


def difference(first: History, second: History) -> dict[str, Any]:
    """Compare two runs.

    Returns:
        ``identical`` (whether they have the same parameters after every round), ``settings`` and
        ``environment`` (each key that differs with its two values, None where one has none),
        ``secure_noise`` (whether one of them has noise that no other run has), ``rounds`` (see
        `compare_hashes`), ``final`` (each figure of the last rounds with its two values).
    """
    rounds = compare_hashes(first.hashes, second.hashes)
    done = [len(first.rounds), len(second.rounds)]
    return {
        "runs": [str(first.path), str(second.path)],
        "identical": rounds["first"] is None and done[0] == done[1] > 0,
        "settings": _differing(settings(first.experiment), settings(second.experiment)),
        "environment": _differing(_environment(first), _environment(second)),
        "secure_noise": _has_secure_noise(first) or _has_secure_noise(second),
        "rounds": {"done": done, **rounds},
        "final": _side_by_side(_final(first), _final(second)),
    }


def compare_hashes(first: list[str], second: list[str]) -> dict[str, Any]:
    """Compare the parameters after each round that both runs have.

    Returns:
        How many rounds are ``common``, the ``first`` one that differs (None if none does), and in
        how many of the common rounds the parameters are ``different``.
    """
    unequal = [n for n, (a, b) in enumerate(zip(first, second, strict=False), start=1) if a != b]
    return {
        "common": min(len(first), len(second)),
        "first": unequal[0] if unequal else None,
        "different": len(unequal),
    }


def _has_secure_noise(history: History) -> bool:
    """Tell whether a run draws noise by keys of its own.

    A strategy that was given as an object is not in the settings, and keys that nodes keep to
    themselves are not in the directory.
    """
    strategy = history.experiment.strategy
    sections = (strategy.knobs, *(part for part in strategy.parts if isinstance(part, Mapping)))
    said = (s.get("noise") == "secure" and s.get("noise_multiplier") != 0 for s in sections)
    return (history.path / SECRETS).exists() or any(said)


def _environment(history: History) -> dict[str, Any]:
    return {k: v for k, v in flat(history.environment).items() if k not in _IDENTITY}


def _differing(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, list[Any]]:
    both = _side_by_side(first, second)
    return {key: pair for key, pair in both.items() if pair[0] != pair[1]}


def _side_by_side(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, list[Any]]:
    return {key: [first.get(key), second.get(key)] for key in {**first, **second}}


def _final(history: History) -> dict[str, float]:
    """Return the figures after the last round, and what all rounds took together."""
    if not history.rounds:
        return {}
    last = {k: v for k, v in history.rounds[-1].items() if k not in _COUNTED}
    for name in ("round", "cohort", "completed", "seconds", "health", "confusion"):
        last.pop(name, None)
    if isinstance(clients := last.get("clients"), Mapping):
        last["clients"] = {k: v for k, v in clients.items() if isinstance(v, Mapping)}
    totals = {
        name: sum(number(line.get(name)) or 0 for line in history.rounds) for name in _COUNTED
    }
    figures = {k: n for k, v in flat(last).items() if (n := number(v)) is not None}
    return {**figures, **totals, "seconds": total_seconds(history.rounds)}


def difference_text(found: Mapping[str, Any]) -> str:
    """Return a comparison in words and tables."""
    names = ["A", "B"]
    blocks = [
        [f"{name}  {run}" for name, run in zip(names, found["runs"], strict=True)],
        list(_verdicts(found)),
        list(_pairs("settings that differ", found["settings"])),
        list(_pairs("environment that differs", found["environment"])),
        list(_pairs("figures after the last round", found["final"], numbers=True)),
    ]
    return "\n\n".join("\n".join(block) for block in blocks if block)


def _verdicts(found: Mapping[str, Any]) -> Iterator[str]:
    yield _verdict(found["rounds"])
    if found["secure_noise"] and found["rounds"]["first"] is not None:
        yield (
            "noise = 'secure' is drawn by keys of each run's own, so that runs with it differ even "
            "where settings and seeds are the same; noise = 'seeded' makes runs that can be "
            "compared, and protects nobody from those who know the seed"
        )


def _verdict(rounds: Mapping[str, Any]) -> str:
    common, first, (a, b) = rounds["common"], rounds["first"], rounds["done"]
    if not common:
        return "there is no round that both have finished"
    if first is None:
        same = f"the same parameters through round {common}"
        return same if a == b else f"{same}, where {'A' if a < b else 'B'} ends; the other goes on"
    before = f"the same parameters through round {first - 1}; " if first > 1 else ""
    if rounds["different"] == common - first + 1:
        return f"{before}different from round {first} on"
    return f"{before}different first in round {first}, in {rounds['different']} of {common} rounds"


def _pairs(title: str, pairs: Mapping[str, Any], *, numbers: bool = False) -> Iterator[str]:
    if not pairs:
        return
    yield title
    if numbers:
        rows = [[key, *map(figure, pair), _change(*pair)] for key, pair in pairs.items()]
        lines = table(["", "A", "B", "B - A"], rows, right=("A", "B", "B - A"))
    else:
        rows = [[key, *map(literal, pair)] for key, pair in pairs.items()]
        lines = table(["", "A", "B"], rows)
    yield from (f"  {line}" for line in lines)


def _change(first: float | None, second: float | None) -> str:
    if first is None or second is None:
        return NONE
    change = second - first
    return "0" if change == 0 else f"{'+' if change > 0 else '-'}{figure(abs(change))}"
