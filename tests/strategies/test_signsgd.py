"""One bit a number, and votes."""

import pytest
import torch

from roundel.core.errors import CompositionError, ParameterError
from roundel.core.messages import PARAMS
from roundel.strategies.compose import compose
from roundel.strategies.dp_fedavg import dp_adaptive, dp_fedavg
from roundel.strategies.feddyn import feddyn
from roundel.strategies.fedexp import fedexp
from roundel.strategies.fedopt import fedavgm
from roundel.strategies.qfedavg import qfedavg
from roundel.strategies.signsgd import signsgd
from roundel.strategies.topk import topk
from tests.federations import drawn_to
from tests.strategies.codecs import arrived, decoded, decoding_of, encoded
from tests.strategies.updates import points, rounds, update, vec


def test_a_bit_is_set_where_the_update_goes_up():
    # + - - + + - + - + : 1 + 8 + 16 + 64 = 89, and 1.
    sent, kept = encoded(signsgd(), {PARAMS: vec(3, -1, -2, 1e-9, 5, -1e-300, 2, -7, 4)})
    assert sent[PARAMS].tolist() == [89, 1]
    assert kept == {}
    found = decoded(signsgd(), sent, decoding_of(9))
    assert found[PARAMS].tolist() == [1, -1, -1, 1, 1, -1, 1, -1, 1]
    assert found[PARAMS].dtype == torch.float32


def test_where_an_update_is_0_a_fair_coin_is_sent():
    zeros = torch.zeros(10_000)
    coins = arrived(signsgd(), zeros, seed=1)
    assert set(coins.tolist()) == {-1, 1}
    assert abs(float(coins.mean())) < 0.05  # five standard errors of 0.01
    assert torch.equal(coins, arrived(signsgd(), zeros, seed=1))
    assert not torch.equal(coins, arrived(signsgd(), zeros, seed=2))


def test_coins_do_not_touch_what_is_not_0():
    for seed in range(20):
        assert arrived(signsgd(), vec(0, -0.0, 1, -1), seed)[2:].tolist() == [1, -1]


def test_the_majority_decides_and_a_tie_is_0():
    votes = [update(0, 1, 1, -1), update(1, 1, -1, -1), update(2, -1, 1, -1), update(3, 1, -1, -1)]
    # 3 to 1, 2 to 2, 0 to 4.
    assert points(compose(signsgd(server_lr=0.5)), vec(1, 1, 1), votes) == [[1.5, 1, 0.5]]


def test_every_client_has_one_vote_whatever_its_number_of_examples():
    votes = [update(0, 1, examples=1000), update(1, -1), update(2, -1)]
    assert points(compose(signsgd(server_lr=2.0)), vec(0), votes) == [[-2]]


def test_one_client_alone_decides():
    assert points(compose(signsgd(server_lr=0.25)), vec(0, 0), [update(7, -1, 1)]) == [
        [-0.25, 0.25]
    ]


def test_nobody_is_no_majority():
    assert rounds(compose(signsgd()), vec(3, 4), [])[-1].params.tolist() == [3, 4]


def test_a_server_optimizer_before_it_accumulates_votes():
    # Momentum 1/2 of the mean vote: 1, then 1/2 - 1 = -1/2; the sign of that is the step.
    strategy = compose(fedavgm(momentum=0.5), signsgd(server_lr=1.0))
    assert points(strategy, vec(0), [update(0, 1)], [update(0, -1)]) == [[1], [0]]


def test_other_channels_keep_their_length():
    channels = {PARAMS: vec(3, -4), "control": vec(0.5, -0.25)}
    sent, _ = encoded(signsgd(), channels)
    assert sent["control"].tolist() == [0.5, -0.25]
    found = decoded(signsgd(), sent, decoding_of(2, PARAMS, "control"))
    assert found["control"].tolist() == [0.5, -0.25]


def test_an_update_without_parameters_is_refused():
    with pytest.raises(ParameterError, match="'params' is missing"):
        decoded(signsgd(), {}, decoding_of(9))


def test_the_sign_of_the_largest_alone():
    # Clients that do not send a coordinate have no vote on it.
    strategy = compose(topk(share=0.5, error_feedback=False), signsgd(server_lr=1.0))
    sent, _ = encoded(strategy, {PARAMS: vec(1, -3)})
    decoding = decoding_of(2, dtype=torch.float64)
    assert decoded(strategy, sent, decoding)[PARAMS].tolist() == [0, -1]


@pytest.mark.parametrize("private", [dp_fedavg(), dp_adaptive()], ids=lambda part: part.name)
def test_noise_for_a_fixed_denominator_does_not_hide_votes(private):
    with pytest.raises(CompositionError, match="votes are counted among those who answered"):
        compose(private, signsgd())


@pytest.mark.parametrize("part", [fedexp(), feddyn(), qfedavg()], ids=lambda part: part.name)
def test_what_reads_the_length_of_updates_is_refused(part):
    with pytest.raises(CompositionError, match="cannot be combined"):
        compose(part, signsgd())


@pytest.mark.parametrize("server_lr", [0, -1, float("inf")])
def test_the_step_must_have_a_length(server_lr):
    with pytest.raises(CompositionError, match="server_lr"):
        signsgd(server_lr=server_lr)


def test_three_clients_vote_in_a_run(tmp_path):
    # From 0, clients at 4, 1.25 and -100: two of three go up by 1/2, until the second turns.
    strategy = compose(signsgd(server_lr=0.5))
    ran = drawn_to([4.0, 1.25, -100.0], tmp_path, strategy, rounds=4, lr=0.1)
    # 0.5, 1.0, 1.5, then down to 1.0.
    assert ran.model["w"].tolist() == [1.0]
    assert ran.history.series("bytes_up") == [3, 3, 3, 3]
