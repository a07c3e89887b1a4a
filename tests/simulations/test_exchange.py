"""What ranks tell each other arrives as it was."""

import math

import pytest
import torch

from roundel.core.errors import RunFailed
from roundel.core.messages import ClientFailure, Evaluation, Ticket
from roundel.core.metrics import Metrics
from roundel.core.ranks import ALONE
from roundel.core.records import ClientRecord
from roundel.server.open_round import Verdict
from roundel.simulations.exchange import (
    WaveShare,
    exchange_states,
    joined_evaluations,
    joined_metrics,
    joined_shares,
)
from tests.companies import on_ranks

ODD = 0.1 + 0.2


def ticket(client: int) -> Ticket:
    return Ticket(run="run", round=3, client_id=client, attempt=1)


FAILURE = ClientFailure(
    ticket=ticket(2), stage="train", error="it broke", location="a.py:1", traceback="a\n b"
)
VERDICTS = [
    Verdict(
        ticket=ticket(0),
        record=ClientRecord(round=3, client=0, status="accepted", train_loss=ODD, seconds=0.5),
        metrics=Metrics({"loss": ODD, "confusion/1/2": 3.0}, 7),
        bytes_up=12,
    ),
    Verdict(ticket=ticket(1), reason="it is too large", bytes_up=8),
    Verdict(ticket=ticket(2), failure=FAILURE),
]


def test_verdicts_of_all_ranks_come_in_the_order_of_their_tickets_and_equal_what_they_were():
    wave = [verdict.ticket for verdict in VERDICTS]

    def work(ranks):
        own = WaveShare(verdicts=VERDICTS[ranks.rank : ranks.rank + 1], keeps=ranks.rank == 1)
        back = joined_shares(ranks, own, wave[::-1])
        return back == WaveShare(verdicts=VERDICTS[::-1], keeps=True)

    assert on_ranks(3, work) == [True] * 3
    alone = joined_shares(ALONE, WaveShare(verdicts=VERDICTS[::-1]), wave)
    assert alone == WaveShare(verdicts=VERDICTS)


def test_a_wave_is_short_of_memory_if_one_rank_is():
    def work(ranks):
        own = WaveShare(verdicts=VERDICTS[:1] * (ranks.rank == 0), short=ranks.rank == 1)
        return joined_shares(ranks, own, [verdict.ticket for verdict in VERDICTS]).short

    assert on_ranks(2, work) == [True] * 2


def test_ranks_that_chose_other_clients_are_found_out():
    def work(ranks):
        own = VERDICTS[ranks.rank : ranks.rank + 1]
        joined_shares(ranks, WaveShare(verdicts=own), [own[0].ticket, ticket(2)])

    with pytest.raises(RunFailed, match=r"ranks chose other clients for round 3: a selector"):
        on_ranks(2, work)


def test_evaluations_and_failures_are_joined():
    answers = [Evaluation(ticket=ticket(0), metrics=Metrics({"loss": ODD}, 3)), FAILURE]

    def work(ranks):
        return list(joined_evaluations(ranks, answers[ranks.rank : ranks.rank + 1])) == answers

    assert on_ranks(2, work) == [True] * 2


def test_metrics_that_are_not_finite_are_joined_too():
    def work(ranks):
        own = [Metrics({"loss": math.inf if ranks.rank else math.nan}, ranks.rank)] * 2
        return [str(metrics) for metrics in joined_metrics(ranks, own)]

    nan, inf = (str(Metrics({"loss": value}, n)) for n, value in enumerate((math.nan, math.inf)))
    assert on_ranks(2, work) == [[nan, nan, inf, inf]] * 2


def test_states_arrive_bit_for_bit_in_as_many_parcels_as_they_need(monkeypatch):
    monkeypatch.setattr("roundel.simulations.exchange._PARCEL_BYTES", 30)
    held = {
        0: {"c": torch.tensor([ODD, -0.0]), "n": torch.tensor(3)},
        1: {"a/b": torch.arange(6.0).view(2, 3)[:, 1]},
        2: {},
        3: {"c": torch.zeros(0)},
        4: {"c": torch.ones(100, dtype=torch.float64)},
    }

    def work(ranks):
        outgoing = [[], [0, 2, 4], [1, 3]] if ranks.rank == 0 else [[], [], []]
        got = {}
        exchange_states(ranks, outgoing, held.__getitem__, got.__setitem__)
        for client, state in got.items():
            assert state.keys() == held[client].keys()
            for name, value in state.items():
                assert value.dtype == held[client][name].dtype
                assert torch.equal(value, held[client][name])
        return sorted(got)

    assert on_ranks(3, work) == [[], [0, 2, 4], [1, 3]]
