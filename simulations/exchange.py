"""What ranks tell each other: states of clients as safetensors, all else as JSON.

A float survives both unchanged, so every rank goes on from the same bits.
"""

import json
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeVar

import torch
from torch import Tensor

from roundel.core.clientstate import ClientState
from roundel.core.errors import RunFailed
from roundel.core.messages import ClientFailure, Evaluation, Ticket
from roundel.core.metrics import Metrics
from roundel.core.ranks import Ranks
from roundel.core.records import ClientRecord
from roundel.core.tensorfiles import pack, unpack
from roundel.server.open_round import Verdict

T = TypeVar("T")

APART = (
    "a selector, a metric, an aggregation rule or a server optimizer of your own gives other "
    "results from process to process, such as by the order of a set or by drawing at random "
    "without the seed it is given; mend it, or set engine.workers = 1"
)
"""Why ranks that do the same come apart."""

_RECORD = [field.name for field in fields(ClientRecord)]
_PARCEL_BYTES = 64_000_000
"""A parcel of states is sent once it is so large: what is on its way must fit into memory."""


@dataclass(frozen=True, kw_only=True)
class WaveShare:
    """What one rank's share of a wave has come to, or all of it.

    Attributes:
        verdicts: On the answers.
        keeps: Whether some client of the run has had something to keep.
        short: Whether memory did not suffice, so that verdicts are missing.
    """

    verdicts: Sequence[Verdict]
    keeps: bool = False
    short: bool = False


def joined_shares(ranks: Ranks, own: WaveShare, wave: Sequence[Ticket]) -> WaveShare:
    """Return what all shares have come to, verdicts in the order of their tickets.

    Args:
        ranks: All of them do this at once.
        own: This rank's share.
        wave: The tickets of all.

    Raises:
        RunFailed: Others' answers have other tickets.
    """
    said: list[tuple[bool, bool, list[Any]]] = [(own.keeps, own.short, [])]
    if ranks.size > 1:
        rows = [_row(verdict) for verdict in own.verdicts]
        texts = ranks.gathered(json.dumps([own.keeps, own.short, rows]).encode())
        said += [json.loads(text) for rank, text in enumerate(texts) if rank != ranks.rank]
    keeps, short = (any(each[place] for each in said) for place in (0, 1))
    if short:
        return WaveShare(verdicts=(), keeps=keeps, short=True)
    tickets = {ticket.client_id: ticket for ticket in wave}
    found = {verdict.ticket.client_id: verdict for verdict in own.verdicts}
    others = {row[0]: row[1:] for _, _, rows in said for row in rows}
    if others.keys() | found.keys() != tickets.keys():
        raise RunFailed(f"ranks chose other clients for round {wave[0].round}: {APART}")
    found |= {client: _verdict(tickets[client], *row) for client, row in others.items()}
    return WaveShare(verdicts=[found[client] for client in tickets], keeps=keeps)


def joined_evaluations(
    ranks: Ranks, own: Sequence[Evaluation | ClientFailure]
) -> Sequence[Evaluation | ClientFailure]:
    """Return the answers of all clients that were asked, from those that this rank asked."""
    return _joined(ranks, own, _evaluation)


def joined_metrics(ranks: Ranks, own: Sequence[Metrics]) -> Sequence[Metrics]:
    """Return the metrics of all ranks, those of rank 0 first."""
    return _joined(ranks, own, _metrics)


def exchange_states(
    ranks: Ranks,
    outgoing: Sequence[Sequence[int]],
    get: Callable[[int], ClientState],
    put: Callable[[int, ClientState], None],
) -> None:
    """Send client states to other ranks, and receive what they send.

    Args:
        ranks: All of them do this at once.
        outgoing: For each rank, the clients whose states it is to have from this one.
        get: Gives a state to send.
        put: Takes a state that has come.
    """
    queues = [deque(clients) for clients in outgoing]
    more = True
    while more:
        parcels = [_parcel(queue, get) for queue in queues]
        more = bool(ranks.largest(torch.tensor([any(queues)], dtype=torch.int64)))
        for parcel in ranks.exchanged(parcels):
            for client_id, state in _states(parcel).items():
                put(client_id, state)


def _parcel(queue: deque[int], get: Callable[[int], ClientState]) -> bytes:
    """Take clients from a queue until their states make a parcel; return it."""
    tensors: dict[str, Tensor] = {}
    clients: list[int] = []
    size = 0
    while queue and size < _PARCEL_BYTES:
        client_id = queue.popleft()
        clients.append(client_id)
        for name, value in get(client_id).items():
            tensors[f"{client_id}/{name}"] = value
            size += value.nbytes
    return pack(tensors, {"clients": json.dumps(clients)}) if clients else b""


def _states(parcel: bytes) -> dict[int, ClientState]:
    if not parcel:
        return {}
    tensors, about = unpack(parcel)
    states: dict[int, dict[str, Tensor]] = {client: {} for client in json.loads(about["clients"])}
    for key, value in tensors.items():
        client_id, _, name = key.partition("/")
        states[int(client_id)][name] = value
    return dict(states)


def _joined(ranks: Ranks, own: Sequence[T], read: Callable[[Mapping[str, Any]], T]) -> Sequence[T]:
    if ranks.size == 1:
        return own
    said = json.dumps(list(own), default=vars).encode()
    return [read(each) for text in ranks.gathered(said) for each in json.loads(text)]


def _row(verdict: Verdict) -> list[Any]:
    """Return a verdict without names and without its ticket: there are many, every round."""
    failure = verdict.failure
    return [
        verdict.ticket.client_id,
        list(vars(verdict.record).values()) if verdict.record else None,
        dict(verdict.metrics.sums),
        verdict.metrics.count,
        verdict.reason,
        [failure.stage, failure.error, failure.location, failure.traceback] if failure else None,
        verdict.bytes_up,
    ]


def _verdict(ticket: Ticket, *row: Any) -> Verdict:  # noqa: ANN401 - see `_row`
    record, sums, count, reason, failed, bytes_up = row
    failure = None
    if failed is not None:
        stage, error, location, traceback = failed
        failure = ClientFailure(
            ticket=ticket, stage=stage, error=error, location=location, traceback=traceback
        )
    return Verdict(
        ticket=ticket,
        record=None if record is None else ClientRecord(**dict(zip(_RECORD, record, strict=True))),
        metrics=Metrics(sums, count),
        reason=reason,
        failure=failure,
        bytes_up=bytes_up,
    )


def _metrics(said: Mapping[str, Any]) -> Metrics:
    return Metrics(**said)


def _failure(said: Mapping[str, Any]) -> ClientFailure:
    return ClientFailure(**{**said, "ticket": Ticket(**said["ticket"])})


def _evaluation(said: Mapping[str, Any]) -> Evaluation | ClientFailure:
    if "error" in said:
        return _failure(said)
    return Evaluation(ticket=Ticket(**said["ticket"]), metrics=_metrics(said["metrics"]))
