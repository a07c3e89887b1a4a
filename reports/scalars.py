"""What of a round's line is a number, and what trackers call it."""

from collections.abc import Mapping
from math import isfinite
from typing import Any

_GROUPS: Mapping[str, str] = {
    "train_loss": "train/loss",
    **{key: f"round/{key}" for key in ("cohort", "completed", "failures", "seconds")},
    **{key: f"round/{key}" for key in ("bytes_up", "bytes_down")},
}
"""Where keys of a round's line go that are no figure over examples."""
_NESTED = ("clients", "health")


def scalars(line: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of a round's line by their tag; the part before the slash groups them.

    >>> scalars({"round": 3, "accuracy": 0.5, "train_loss": 1.0, "clients": {"loss": {"p10": 2.0}}})
    {'test/accuracy': 0.5, 'train/loss': 1.0, 'clients/loss/p10': 2.0}
    """
    found: dict[str, float] = {}
    for key, value in line.items():
        if key in _NESTED and isinstance(value, Mapping):
            found |= _leaves(value, key)
        elif key != "round" and _is_number(value):
            found[_GROUPS.get(key, f"test/{key}")] = float(value)
    return found


def _leaves(tree: Mapping[str, Any], prefix: str) -> dict[str, float]:
    found: dict[str, float] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            found |= _leaves(value, f"{prefix}/{key}")
        elif _is_number(value):
            found[f"{prefix}/{key}"] = float(value)
    return found


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)
