"""FLTrust, by hand, against a loop and in runs."""

import pytest
import torch
from torch.nn.functional import cosine_similarity

from roundel.core.errors import CompositionError
from roundel.core.messages import PARAMS
from roundel.strategies.compose import compose
from roundel.strategies.fednova import fednova
from roundel.strategies.fedopt import fedavgm
from roundel.strategies.fltrust import fltrust
from roundel.strategies.scaffold import scaffold
from tests.federations import Quadratic, federate, quadratic_task
from tests.strategies.rules import aggregate, drawn, matrix
from tests.strategies.updates import vec


def rooted(*numbers: float):
    return {PARAMS: vec(*numbers)}


def test_updates_along_count_and_those_across_or_against_do_not():
    # Cosines with (2, 0): 1, 0.6, 0 and -1. Scaled to length 2: (2, 0) and (1.2, 1.6).
    rows = matrix([5, 0], [3, 4], [0, 7], [-1, 0])
    expected = vec((2 + 0.6 * 1.2) / 1.6, 0.6 * 1.6 / 1.6)
    torch.testing.assert_close(aggregate(fltrust(), rows, root=rooted(2, 0)), expected)


def test_how_long_an_update_is_changes_nothing():
    rows = drawn(6, 4, seed=1)
    root = {PARAMS: drawn(1, 4, seed=2)[0]}
    scales = torch.tensor([[1e-6], [1], [3], [1e6], [0.5], [7]], dtype=torch.float64)
    torch.testing.assert_close(
        aggregate(fltrust(), scales * rows, root=root), aggregate(fltrust(), rows, root=root)
    )


@pytest.mark.parametrize("seed", range(5))
def test_it_is_what_a_loop_gives(seed):
    rows, root = drawn(9, 4, seed), drawn(1, 4, seed + 50)[0]
    trust = [max(0.0, float(cosine_similarity(x, root, dim=0))) for x in rows]
    moves = [t * root.norm() * x / x.norm() for t, x in zip(trust, rows, strict=True)]
    expected = sum(moves, torch.zeros_like(root)) / sum(trust)
    torch.testing.assert_close(aggregate(fltrust(), rows, root={PARAMS: root}), expected)


def test_the_model_stays_where_nobody_is_trusted():
    rows = matrix([-1, 0], [0, 5], [0, 0])
    assert aggregate(fltrust(), rows, root=rooted(2, 0)).tolist() == [0, 0]


def test_an_update_of_zeros_is_not_trusted():
    rows = matrix([0, 0], [3, 0])
    assert aggregate(fltrust(), rows, root=rooted(2, 0)).tolist() == [2, 0]


def test_a_root_that_teaches_nothing_keeps_the_model():
    assert aggregate(fltrust(), matrix([1, 1], [2, 0]), root=rooted(0, 0)).tolist() == [0, 0]


def test_every_other_channel_takes_the_median():
    strategy = compose(fltrust(), scaffold())
    assert aggregate(strategy, matrix([1], [2], [900]), channel="control").tolist() == [2]


def test_without_a_roots_update_it_says_what_is_missing():
    with pytest.raises(CompositionError, match="give the server root examples"):
        aggregate(fltrust(), matrix([1.0]))


def test_the_server_trains_on_its_root_examples_and_trusts_who_agrees(tmp_path):
    # One step of 1/2 from (0, 0) on F = |w - e|**2 / 2 moves by e / 2. Root (4, 0): by (2, 0).
    # Clients (3, 4) and (6, 8) agree by 0.6 and become (1.2, 1.6), (-9, 0) is not trusted.
    clients = [Quadratic.of([1.0, 1.0], e).examples() for e in ([3.0, 4.0], [6.0, 8.0], [-9, 0])]
    ran = federate(
        tmp_path,
        compose(fltrust(server_lr=0.5)),
        quadratic_task(vec(0, 0)),
        clients,
        root=Quadratic.of([1.0, 1.0], [4.0, 0.0]).examples(),
        lr=0.5,
        steps=1,
        batch_size="full",
    )
    torch.testing.assert_close(ran.model["w"], vec(0.6, 0.8))


def test_without_root_examples_no_round_begins(tmp_path):
    client = Quadratic.of([1.0], [1.0]).examples()
    with pytest.raises(CompositionError, match="trains on root examples at the server"):
        federate(tmp_path, compose(fltrust()), quadratic_task(vec(0)), [client])
    assert not any(tmp_path.iterdir())


def test_clients_that_send_something_else_than_their_delta_contradict_it():
    with pytest.raises(CompositionError, match="which is a plain delta; leave one of them out"):
        compose(fltrust(), fednova())


def test_it_composes_with_a_server_optimizer_and_refuses_a_bad_learning_rate():
    names = [link.name for link in compose(fltrust(), fedavgm()).server]
    assert names == ["momentum"]
    with pytest.raises(CompositionError, match="server_lr = 0"):
        fltrust(server_lr=0)
