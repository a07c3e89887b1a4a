"""A strategy on trial, and what laws say about it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import isfinite
from typing import Any

import torch
from torch import Tensor

from roundel.core.errors import RoundelError
from roundel.core.usercode import story
from roundel.server.aggregation import ServerState
from roundel.simulations.conformance.observed import Log, observed
from roundel.simulations.conformance.trial import ROUNDS, Answers, Moment, Trial
from roundel.strategies.compose import Part, Strategy, compose

Make = Callable[..., Part | Strategy]
"""Makes a strategy, or a part of one, anew with each call."""

DTYPES = (torch.float32, torch.float64)

_TOLERANCE = 1e-9


class Broken(Exception):
    """A law is broken; the message says how."""


class Doubtful(Exception):
    """Something is worth mending."""


class Beside(Exception):
    """A law does not apply."""


class Subject:
    """A strategy on trial, and what was found out in its watched rounds."""

    def __init__(self, make: Make, knobs: Mapping[str, Any]) -> None:
        self.make = make
        self.knobs = knobs

    def fresh(self) -> Strategy:
        """Return the strategy, made anew."""
        made = self.make(**self.knobs)
        return made if isinstance(made, Strategy) else compose(made)

    @cached_property
    def plain(self) -> Strategy:
        """The strategy, made once."""
        return self.fresh()

    @cached_property
    def watched(self) -> Mapping[torch.dtype, "Watched"]:
        """The rounds of a trial in each precision, as far as they go."""
        return self._watched[0]

    @property
    def stopped(self) -> str:
        """Why the rounds of the trial do not go further; empty if they do."""
        return self._watched[1]

    @cached_property
    def _watched(self) -> tuple[Mapping[torch.dtype, "Watched"], str]:
        found: dict[torch.dtype, Watched] = {}
        stopped = ""
        for dtype in DTYPES:
            seen = Log()
            trial = Trial(observed(self.fresh(), seen), dtype=dtype, log=seen)
            rounds: list[Answers] = []
            found[dtype] = Watched(trial, seen, rounds)
            try:
                rounds.extend(rounds_of(trial))
            except Broken as broken:
                stopped = f"{broken} ({dtype})"
            except RoundelError as error:
                stopped = sentence_of(error)
            except (Exception, SystemExit) as error:  # noqa: BLE001 - somebody's own code
                stopped = story(error)
            if stopped:
                break
        return found, stopped


@dataclass(frozen=True)
class Watched:
    """The rounds of a watched trial, as far as they went."""

    trial: Trial
    log: Log
    rounds: Sequence[Answers]


Law = Callable[[Subject], None]
"""Raises if the subject breaks it; its docstring is its name."""


def rounds_of(trial: Trial, *, judged: bool = True) -> Iterator[Answers]:
    """Run rounds of a trial from the first; yield what the cohort answered in each.

    Args:
        trial: What to run.
        judged: Whether the model is evaluated after each round, as in a run.
    """
    moment = trial.first()
    for _ in range(ROUNDS):
        answers = trial.ask(moment)
        for client, reason in answers.refused.items():
            raise Broken(f"the update of client {client} is refused: {reason}{_help(reason)}")
        yield answers
        moment = trial.commit(answers)
        check_finite(moment.state, f"after round {moment.state.round}")
        for client, metrics in trial.judge(moment).items() if judged else ():
            loss = metrics.means()["loss"]
            if not isfinite(loss):
                raise Broken(
                    f"after round {moment.state.round} client {client} is judged by {loss}"
                )


def _help(reason: str) -> str:
    if "has the channels" in reason:
        return "; give each channel that a finisher or a codec adds an aggregator"
    return ""


def check_finite(state: ServerState, when: str) -> None:
    """Raise if a parameter is not finite."""
    bad = (~state.params.isfinite()).nonzero().flatten().tolist()
    if bad:
        value = state.params[bad[0]].item()
        raise Broken(f"{when} {len(bad)} of the parameters are not finite; the first is {value}")


def final(trial: Trial, *, judged: bool = True) -> Moment:
    """Return where a trial ends; see `rounds_of`."""
    *_, last = rounds_of(trial, judged=judged)
    return trial.commit(last)


def allowed(trial: Trial, answers: Answers) -> ServerState:
    """Aggregate; a rule that refuses so few in a sentence is right to do so."""
    try:
        return trial.commit(answers).state
    except RoundelError as error:
        raise Beside(sentence_of(error)) from error


def far(one: Tensor, other: Tensor, tolerance: float = _TOLERANCE) -> str:
    """Say where two tensors differ by more than rounding; nothing if they do not."""
    if one.shape != other.shape:
        return f" has the shape {tuple(other.shape)}, not {tuple(one.shape)}"
    left, right = one.double(), other.double()
    near = torch.isclose(left, right, rtol=tolerance, atol=tolerance, equal_nan=True)
    places = (~near.flatten()).nonzero().flatten().tolist()
    if not places:
        return ""
    at = places[0]
    return f"[{at}] is {right.flatten()[at].item():.6g}, not {left.flatten()[at].item():.6g}"


def sentence_of(error: RoundelError) -> str:
    """Return the first line of an error's message."""
    return str(error).partition("\n")[0]
