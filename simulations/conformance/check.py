"""The check of one strategy against all laws."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from roundel.core.errors import RoundelError
from roundel.core.usercode import story
from roundel.simulations.conformance.calls import (
    arguments,
    cohorts,
    documented,
    kinds,
    repeats,
    stacks,
)
from roundel.simulations.conformance.rounds import (
    equal_clients,
    gets_through,
    links_remember,
    no_push,
    nobody,
    one_client,
    order_of_arrival,
    poison,
    same_run,
    several_workers,
    state_kept,
    state_names,
    wire,
)
from roundel.simulations.conformance.runs import learns, resumes
from roundel.simulations.conformance.subject import (
    Beside,
    Broken,
    Doubtful,
    Law,
    Make,
    Subject,
    sentence_of,
)
from roundel.simulations.conformance.trial import Trial
from roundel.strategies.compose import Part, Strategy

Outcome = Literal["PASS", "FAIL", "WARN", "SKIP"]

UNTRIED = "it does not get through a round"
"""Why a law is skipped that only whole rounds can be held against."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What became of one law.

    Attributes:
        outcome: ``PASS``, ``FAIL``, ``WARN`` (worth mending, and no failure) or ``SKIP`` (the law
            does not apply).
        law: The law, in a few words.
        reason: Why, with the smallest counter-example; empty where it passes.
    """

    outcome: Outcome
    law: str
    reason: str = ""


def check(
    make: Make, knobs: Mapping[str, Any] | None = None, laws: Collection[str] = ()
) -> Iterator[Verdict]:
    """Try every law on a strategy; yield the verdicts one after another.

    Args:
        make: Makes the strategy, or a part that is then composed with federated averaging. It is
            called several times and must not remember.
        knobs: Its keyword arguments.
        laws: Names of laws to try; all unless some are named.
    """
    subject = Subject(make, knobs or {})
    first = _verdict("It can be made", subject, _made)
    yield first
    if first.outcome == "FAIL":
        return
    stopped = subject.stopped
    for law in _LAWS:
        if laws and _name(law) not in laws:
            continue
        needs_rounds = law not in _OF_THE_LOG
        if needs_rounds and law is not gets_through and stopped:
            yield Verdict(outcome="SKIP", law=_name(law), reason=UNTRIED)
        else:
            yield _verdict(_name(law), subject, law)


def _verdict(name: str, subject: "Subject", law: "Law") -> Verdict:
    outcome: Outcome = "FAIL"
    try:
        law(subject)
    except Broken as broken:
        reason = str(broken)
    except Doubtful as doubtful:
        outcome, reason = "WARN", str(doubtful)
    except Beside as beside:
        outcome, reason = "SKIP", str(beside)
    except RoundelError as error:
        reason = sentence_of(error)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - the strategy is somebody's own code
        reason = story(error)
    else:
        return Verdict(outcome="PASS", law=name)
    return Verdict(outcome=outcome, law=name, reason=reason)


def _name(law: "Law") -> str:
    """Return a law's words, which are its docstring."""
    return (law.__doc__ or "").strip().rstrip(".")


def _made(subject: Subject) -> None:
    made: object = subject.make(**subject.knobs)
    if not isinstance(made, Part | Strategy):
        raise Broken(f"it returned {type(made).__name__}; return a Part or a Strategy")
    Trial(subject.fresh())


_OF_THE_LOG: Sequence[Law] = (arguments, repeats, kinds, cohorts, documented)
"""Laws that can be tried even where a round fails."""

_LAWS: Sequence[Law] = (
    gets_through,
    kinds,
    arguments,
    repeats,
    same_run,
    order_of_arrival,
    several_workers,
    one_client,
    nobody,
    equal_clients,
    no_push,
    poison,
    stacks,
    wire,
    state_names,
    state_kept,
    links_remember,
    resumes,
    cohorts,
    learns,
    documented,
)
