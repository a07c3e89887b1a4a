"""Laws of single calls: of corrections, finishers, codecs, rules, transforms and selectors."""

import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import islice

import torch
from torch import Tensor

from roundel.core.errors import RoundelError
from roundel.core.job import LocalContext, Trained
from roundel.core.usercode import one_line
from roundel.simulations.conformance.observed import Call, copied, difference
from roundel.simulations.conformance.subject import Beside, Broken, Doubtful, Subject, far
from roundel.strategies.sites import Finished, Selection

_STACKED = 3


def arguments(subject: Subject) -> None:
    """Nothing changes its arguments."""
    for watched in subject.watched.values():
        for sentence in watched.log.changed:
            raise Broken(sentence)
        for answers in watched.rounds:
            if answers.changed:
                raise Broken(f"local training changes what it is given: {answers.changed}")
            before = copied((answers.before, answers.accepted))
            watched.trial.commit(answers)
            if where := difference(before, (answers.before, answers.accepted), "a round's input"):
                raise Broken(f"aggregation changes what it is given: {where}")


def repeats(subject: Subject) -> None:
    """The same call gives the same bits."""
    for watched in subject.watched.values():
        for sentence in watched.log.repeated:
            raise Broken(sentence)


def kinds(subject: Subject) -> None:
    """What is returned is tensors of the right kind."""
    for watched in subject.watched.values():
        for sentence in watched.log.malformed:
            raise Broken(sentence)
        for part, pushes in watched.log.pushes.items():
            if not pushes:
                raise Broken(
                    f"the loss term of {part} has no gradient and changes nothing: compute it from "
                    "batch.outputs or batch.params as they are, without detach() or item()"
                )


def stacks(subject: Subject) -> None:
    """Stacked clients are computed as each alone."""
    watched = subject.watched[torch.float64]
    sites = [
        ("correction", _stacked_correction),
        ("finisher", _stacked_finisher),
        ("settler", _stacked_settler),
    ]
    calls = [(watched.log.of(site), compare) for site, compare in sites]
    if not any(found for found, _ in calls):
        raise Beside("it has no corrections, finishers or settlers")
    last = max(call.moment[0] for found, _ in calls for call in found)
    for found, compare in calls:
        for function in {id(call.function): call.function for call in found}.values():
            each: dict[int, Call] = {}
            for call in found:
                if call.function is function and call.moment[0] == last:
                    each[call.moment[1]] = call
            compare(list(islice(each.values(), _STACKED)))


def _stacked_correction(calls: Sequence[Call]) -> None:
    contexts: list[LocalContext] = [call.arguments[2] for call in calls]
    gradients, points = (torch.stack([call.arguments[at] for call in calls]) for at in (0, 1))
    function, part = calls[0].function, calls[0].part
    together = _together(
        lambda: function(gradients, points, _stack_context(contexts)),
        f"the correction of {part}",
        gradients.shape,
    )
    for row, call in enumerate(calls):
        alone = function(*copied(call.arguments))
        if where := far(alone, together[row], 1e-12):
            raise Broken(
                f"the correction of {part} for client {row} of {len(calls)} stacked ones{where}; "
                "let it work along the last axis only (dim=-1, keepdim=True, [..., part])"
            )


def _stacked_finisher(calls: Sequence[Call]) -> None:
    contexts: list[LocalContext] = [call.arguments[1] for call in calls]
    first: Trained = calls[0].arguments[0]
    each: list[Trained] = [
        replace(
            call.arguments[0],
            metrics=first.metrics,
            integers=first.integers,
            impulse=first.impulse,
        )
        for call in calls
    ]
    function, part = calls[0].function, calls[0].part
    with _on_a_stack(f"finisher of {part}"):
        together: Finished = function(_stack_trained(each), _stack_context(contexts))
    for row, (trained, context) in enumerate(zip(each, contexts, strict=True)):
        alone: Finished = function(trained, context)
        what = f"the finisher of {part} for client {row} of {len(each)} stacked ones"
        for kind in ("channels", "state"):
            _check_rows(what, getattr(alone, kind), getattr(together, kind), row)


def _stacked_settler(calls: Sequence[Call]) -> None:
    contexts: list[LocalContext] = [call.arguments[1] for call in calls]
    sent: list[Mapping[str, Tensor]] = [call.arguments[0] for call in calls]
    function, part = calls[0].function, calls[0].part
    with _on_a_stack(f"settler of {part}"):
        together: Mapping[str, Tensor] = function(
            {name: torch.stack([each[name] for each in sent]) for name in sent[0]},
            _stack_context(contexts),
        )
    for row, (channels, context) in enumerate(zip(sent, contexts, strict=True)):
        alone: Mapping[str, Tensor] = function(channels, context)
        what = f"the settler of {part} for client {row} of {len(sent)} stacked ones"
        _check_rows(what, alone, together, row)


@contextmanager
def _on_a_stack(what: str) -> Iterator[None]:
    """Say that something breaks the law if it cannot do with stacked clients."""
    try:
        yield
    except Exception as error:
        raise Broken(
            f"the {what} fails on stacked clients: {one_line(error)}; let it work along the last "
            "axis only"
        ) from error


def _check_rows(
    what: str, alone: Mapping[str, Tensor], together: Mapping[str, Tensor], row: int
) -> None:
    """Compare what one client gets alone with its row among stacked ones.

    Raises:
        Broken: They differ.
    """
    for name, wanted in alone.items():
        if name not in together or together[name].dim() != wanted.dim() + 1:
            where = " has no leading axis"
        else:
            where = far(wanted, together[name][row], 1e-12)
        if where:
            raise Broken(f"{what}: {name}{where}; let it work along the last axis only")


def _together(call: Callable[[], Tensor], what: str, shape: Sequence[int]) -> Tensor:
    try:
        together = call()
    except Exception as error:
        raise Broken(f"{what} fails on stacked clients: {one_line(error)}") from error
    if together.shape != tuple(shape):
        raise Broken(
            f"{what} turns stacked clients of shape {tuple(shape)} into {tuple(together.shape)}"
        )
    return together


def _stack_context(each: Sequence[LocalContext]) -> LocalContext:
    """Put clients side by side, as rows of every tensor that differs by client."""
    names = set(each[0].state).intersection(*(context.state for context in each))
    return replace(
        each[0],
        sent=torch.stack([context.sent for context in each]),
        state={name: torch.stack([context.state[name] for context in each]) for name in names},
    )


def _stack_trained(each: Sequence[Trained]) -> Trained:
    def side_by_side(name: str) -> Tensor | None:
        values = [getattr(trained, name) for trained in each]
        return None if values[0] is None else torch.stack(values)

    return replace(
        each[0],
        vector=torch.stack([trained.vector for trained in each]),
        loss_before=side_by_side("loss_before"),
        gradient_before=side_by_side("gradient_before"),
        state={n: torch.stack([trained.state[n] for trained in each]) for n in each[0].state},
    )


def cohorts(subject: Subject) -> None:
    """Cohorts are distinct clients, the same for the same seed."""
    select = subject.plain.selector.select
    for population, size in ((1, 1), (5, 1), (8, 7), (40, 10)):
        for seed in range(3):
            selection = Selection(
                round=seed + 1,
                population=population,
                size=size,
                seed=seed,
                sizes=partial(_sizes, population),
                losses=lambda asked: [1.0 / (1 + client) for client in asked],
            )
            try:
                one, other = list(select(selection)), list(select(selection))
            except RoundelError:
                continue  # it refuses in a sentence: so few clients, or so many
            said = f"of {population} clients, {size} wanted, it selects {one}"
            if one != other:
                raise Broken(f"{said}, and when asked again {other}")
            if len(set(one)) < len(one) or not set(one) <= set(range(population)):
                raise Broken(f"{said}; return distinct numbers of clients from 0")


def _sizes(population: int) -> list[int]:
    return [1 + client % 3 for client in range(population)]


def documented(subject: Subject) -> None:
    """Its docstring says what it needs and where it comes from."""
    text = inspect.getdoc(subject.make) or ""
    headings = ["Needs", "Verified", "Source"]
    knobs = [
        knob
        for knob in inspect.signature(subject.make).parameters
        if not re.search(rf"^ {{4}}{re.escape(knob)}: ", text, re.MULTILINE)
    ]
    missing = [f"{heading}:" for heading in headings if f"\n{heading}:\n" not in f"\n{text}\n"]
    missing += [f"{knob} under Args:" for knob in knobs]
    if missing:
        raise Doubtful(f"the docstring has no {', '.join(missing)}")
