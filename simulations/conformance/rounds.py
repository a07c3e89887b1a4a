"""Laws of rounds: what a cohort sends, what the server makes of it, what both keep."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from roundel.core.errors import RoundelError
from roundel.core.messages import PARAMS
from roundel.core.wire.payload import pack, unpack
from roundel.server.aggregation import Accumulators, ServerState, broadcast_channels
from roundel.simulations.conformance.observed import difference
from roundel.simulations.conformance.subject import (
    DTYPES,
    Beside,
    Broken,
    Doubtful,
    Subject,
    allowed,
    check_finite,
    far,
    final,
)
from roundel.simulations.conformance.trial import COHORT, ROUNDS, Answers, Trial
from roundel.strategies.aggregators import Mean

_PERSONAL = "personal"
"""How the names begin of what the trainer itself keeps at a client."""


def gets_through(subject: Subject) -> None:
    """Rounds of a small federation go well."""
    if subject.stopped:
        raise Broken(subject.stopped)


def same_run(subject: Subject) -> None:
    """A run is repeated bit for bit."""
    watched = subject.watched[DTYPES[0]]
    reference = watched.trial.commit(watched.rounds[-1])
    again = final(Trial(subject.plain), judged=False)
    if where := difference(reference, again, "the end"):
        raise Broken(
            f"the same {ROUNDS} rounds, run a second time and without evaluations between, end "
            f"elsewhere: {where}; something is kept outside the states, drawn without a seed, or "
            "changed by an evaluation"
        )


def links_remember(subject: Subject) -> None:
    """States at the server change."""
    watched = subject.watched[DTYPES[0]]
    first = watched.trial.first().state.transforms
    last = watched.trial.commit(watched.rounds[-1]).state.transforms
    kept = [name for name, state in last.items() if state]
    if not kept:
        raise Beside("it keeps none")
    for name in kept:
        if not difference(dict(first[name]), dict(last[name])):
            raise Doubtful(
                f"the state of {name!r} after {ROUNDS} rounds is what it was at first; return the "
                "new state from its update, or keep none"
            )


def order_of_arrival(subject: Subject) -> None:
    """The order of arrival changes no bit."""
    for watched in subject.watched.values():
        answers = watched.rounds[-1]
        for count in (2, 3, len(COHORT)):
            clients = list(answers.accepted)[:count]
            if (one := _state_of(watched.trial, answers, clients)) is None:
                continue
            shuffled = clients[1:][::-1] + clients[:1]
            other = _state_of(watched.trial, answers, shuffled)
            if where := difference(one, other, "the state"):
                raise Broken(
                    f"updates arriving from clients {clients} and {shuffled} lead to different "
                    f"states: {where}"
                )


def _state_of(trial: Trial, answers: Answers, clients: Sequence[int]) -> ServerState | None:
    """Aggregate the updates of some clients; None where a rule refuses so few."""
    updates = [answers.accepted[client] for client in clients]
    try:
        return trial.aggregated(answers.before, updates)
    except RoundelError:
        if len(clients) == len(COHORT):
            raise
        return None


def several_workers(subject: Subject) -> None:
    """Updates that several workers take merge to the bits of one worker's."""
    for watched in subject.watched.values():
        trial, answers = watched.trial, watched.rounds[-1]
        spec = trial.simulation.learner.spec
        updates = list(answers.accepted.values())
        context = trial.context(answers.before, len(updates))
        sums = [Accumulators(trial.strategy, spec) for _ in range(4)]
        for update in updates:
            sums[0].add(update)
        for place, update in enumerate(updates):
            sums[1 + place % 2].add(update)
        sums[3].merge(sums[2])
        sums[3].merge(sums[1])
        one, several = sums[0].finish(context), sums[3].finish(context)
        if where := difference(one, several, "aggregate"):
            raise Broken(
                f"{len(updates)} updates added to one accumulator, and to two that are then "
                f"merged, differ: {where}"
            )


def one_client(subject: Subject) -> None:
    """A round of one client is finite."""
    watched = subject.watched[DTYPES[0]]
    for before in (watched.trial.first(), watched.rounds[-1].before):
        answers = watched.trial.ask(before, COHORT[:1])
        for reason in answers.refused.values():
            raise Broken(f"the update of the only client is refused: {reason}")
        check_finite(allowed(watched.trial, answers), "after a round of one client")


def nobody(subject: Subject) -> None:
    """A round that nobody answers is finite."""
    for watched in subject.watched.values():
        nobody = watched.trial.ask(watched.rounds[-1].before, ())
        check_finite(allowed(watched.trial, nobody), "after a round of nobody")


def equal_clients(subject: Subject) -> None:
    """The mean of equal updates is that update."""
    watched = subject.watched[torch.float64]
    strategy, answers = watched.trial.strategy, watched.rounds[-1]
    averaged = [c for c, a in strategy.aggregators.items() if isinstance(a, Mean)]
    if PARAMS not in averaged:
        raise Beside("its parameters are not averaged")
    if strategy.weigher.denominator is not None:
        raise Beside("its sums are divided by a fixed number")
    update = next(iter(answers.accepted.values()))
    sums = Accumulators(strategy, watched.trial.simulation.learner.spec)
    for client in range(3):
        ticket = replace(update.ticket, client_id=client)
        sums.add(replace(update, ticket=ticket))
    aggregate = sums.finish(watched.trial.context(answers.before, 3))
    for channel in averaged:
        if channel not in aggregate or channel not in update.channels:
            continue
        if where := far(update.channels[channel], aggregate[channel]):
            raise Broken(f"the mean of 3 equal updates is not that update: {channel}{where}")


def no_push(subject: Subject) -> None:
    """Clients that nothing pushes give a finite step."""
    final(Trial(subject.fresh(), flat=True))


def poison(subject: Subject) -> None:
    """NaN from one client harms nobody."""
    bad = COHORT[0]
    for dtype, value in zip(DTYPES, (float("nan"), float("inf")), strict=True):
        watched = subject.watched[dtype]
        good = watched.rounds[-1]
        accepted = {client: u for client, u in good.accepted.items() if client != bad}
        said = f"with {value} in the update of client {bad}"
        try:
            poisoned = watched.trial.ask(good.before, [bad], {bad: partial(_with, value=value)})
        except Exception:  # noqa: BLE001 - a codec that cannot encode it is as good as a refusal
            poisoned = replace(good, accepted={})
        accepted |= poisoned.accepted
        answers = replace(good, accepted=accepted)
        check_finite(allowed(watched.trial, answers), said)


def _with(channels: Mapping[str, Tensor], value: float) -> dict[str, Tensor]:
    changed = channels[PARAMS].clone()
    changed[0] = value
    return {**channels, PARAMS: changed}


def wire(subject: Subject) -> None:
    """The wire carries what is sent."""
    for watched in subject.watched.values():
        for answers in watched.rounds:
            client, update = next(iter(answers.sent.items()))
            sent = {
                f"client {client}'s update": update.channels,
                "the broadcast": broadcast_channels(watched.trial.strategy, answers.before.state),
            }
            for what, tensors in sent.items():
                arrived = unpack(bytearray(pack(tensors).data))
                if where := difference(dict(tensors), {n: arrived[n] for n in tensors}, what):
                    raise Broken(f"what arrives is not what was sent: {where}")


def state_names(subject: Subject) -> None:
    """Names of client state begin with their part's name."""
    for watched in subject.watched.values():
        strategy = watched.trial.strategy
        parts = [strategy.name, *(part.name for part in strategy.parts)]
        known = {re.split(r"[(+]", name)[0] for name in parts}
        known |= {codec.name for codec in strategy.codecs}
        for answers in watched.rounds:
            for kept in answers.clients.values():
                for name in kept:
                    if not name.startswith(_PERSONAL) and name.split(".")[0] not in known:
                        raise Broken(
                            f"it keeps {name!r} at clients; call it "
                            f"'{min(known)}.{name.rpartition('.')[2]}', so that it meets no other"
                        )


def state_kept(subject: Subject) -> None:
    """Client state that is asked for is kept, round after round."""
    for watched in subject.watched.values():
        everything: set[str] = set()
        asked: set[str] = set()
        before: dict[int, Mapping[str, Tensor]] = {}
        for answers in watched.rounds:
            for client, kept in answers.clients.items():
                asked |= {n for n in answers.asked[client] if not n.startswith(_PERSONAL)}
                everything |= kept.keys()
                for name, value in before.get(client, {}).items():
                    if name not in kept:
                        raise Broken(
                            f"client {client} keeps {name!r} after one round and not after the "
                            "next; what a round does not return is forgotten"
                        )
                    if (value.shape, value.dtype) != (kept[name].shape, kept[name].dtype):
                        raise Broken(f"client {client}'s {name!r} changes its shape or its dtype")
                before[client] = kept
        if lost := sorted(asked - everything):
            raise Broken(f"it asks for the client state {lost[0]!r}, which nothing ever keeps")
