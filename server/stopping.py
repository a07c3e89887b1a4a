"""When a run ends before its last round: a target is reached, or nothing improves any more."""

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any

from roundel.core.config import StopConfig
from roundel.core.errors import ConfigError
from roundel.core.goals import goal_of, value_at
from roundel.core.metrics import SPREAD

_SECONDS = "seconds"


def reason_to_stop(lines: Sequence[Mapping[str, Any]], config: StopConfig) -> str | None:
    """Say why the run is over, or None if it goes on.

    A pure function of what is recorded, so a resumed run stops where it would have stopped.

    Args:
        lines: The lines of ``metrics.jsonl`` up to the newest round.
        config: What to watch.

    Raises:
        ConfigError: The newest round was evaluated and has no such figure.
    """
    if not config.is_set:
        return None
    name = config.metric
    newest = _value(lines[-1], name)
    if newest is None:
        check_known(lines[-1], name)
        return None
    sign = -1.0 if _wants_less(config) else 1.0
    if config.target is not None and sign * newest >= sign * config.target:
        return f"{name} = {newest:g} reached the target of {config.target:g}"
    if config.patience is not None:
        values = [value for line in lines if (value := _value(line, name)) is not None]
        best, since = _best(values, sign, config.min_delta)
        if since >= config.patience:
            return f"{name} did not improve on {best:g} in {since} evaluations"
    return None


def _best(values: Sequence[float], sign: float, min_delta: float) -> tuple[float, int]:
    """Return the best value, and how many values came after it without being better."""
    best, since = values[0], 0
    for value in values[1:]:
        if sign * (value - best) > min_delta:
            best, since = value, 0
        else:
            since += 1
    return best, since


def _wants_less(config: StopConfig) -> bool:
    return (goal_of(config.metric) if config.goal == "auto" else config.goal) == "min"


def _value(line: Mapping[str, Any], name: str) -> float | None:
    """Return the figure that a dotted name leads to; None if the line has none.

    What is not finite is none: it is written down as null, and a resumed run must see the same.
    How long a round took is none either: it differs from run to run.
    """
    found = None if name == _SECONDS else value_at(line, name)
    return float(found) if isinstance(found, int | float) and isfinite(found) else None


def check_known(line: Mapping[str, Any], name: str) -> None:
    """Refuse a name that no round will ever have.

    Raises:
        ConfigError: It is none of those in a line of ``metrics.jsonl``.
    """
    head, *inside = name.split(".")
    if head == "clients":
        known = _may_come_of_clients(line.get(head), inside)
    elif isinstance(section := line.get(head), Mapping):
        known = len(inside) > 0 and inside[0] in section
    else:
        known = not inside and _may_come(line, head)
    if known:
        return
    figures = [key for key, value in line.items() if isinstance(value, float) and key != _SECONDS]
    raise ConfigError(
        f"stop.metric = {name!r} is not among the figures of a round; choose from "
        f"{', '.join(figures)}, or one inside clients, such as clients.loss.p90"
    )


def _may_come(line: Mapping[str, Any], name: str) -> bool:
    """Tell whether a figure that a line lacks may stand in another one."""
    if line["loss"] is None and name != _SECONDS:
        return line.get(name) is None  # this round was not evaluated
    value = line.get(name, "absent")
    return name != _SECONDS and (isinstance(value, float) or name == "train_loss")


def _may_come_of_clients(section: Mapping[str, Any] | None, inside: Sequence[str]) -> bool:
    """Tell the same of a figure over clients."""
    if not section or not section["examples"]:
        return True  # they were not asked, or had nothing to say
    figure = section.get(inside[0]) if inside else None
    return (
        isinstance(figure, Mapping)
        and len(figure) == 1  # the mean: too few clients have figures of their own
        and inside[1:] in [[name] for name in SPREAD]
    )
