"""Control variates, by hand.

Two of four clients take part in each round; they start from 0 and take two steps of 1/4.
"""

import pytest
import torch

from roundel.core.errors import CompositionError, ConfigError
from roundel.core.learning import LocalContext, Trained
from roundel.core.messages import PARAMS
from roundel.core.metrics import Metrics
from roundel.core.params import Entry, ParamSpec
from roundel.strategies.compose import compose
from roundel.strategies.fedavg import fedavg
from roundel.strategies.scaffold import CONTROL, scaffold
from tests.federations import Quadratic, federate, quadratic_task
from tests.strategies.toys import cohorts
from tests.strategies.updates import CONTEXT as ROUND_CONTEXT
from tests.strategies.updates import points, rounds, update, vec

SPEC = ParamSpec(
    (
        Entry(name="mean", shape=(1,), dtype=torch.float64, trainable=False),
        Entry(name="body", shape=(2,), dtype=torch.float64, trainable=True),
        Entry(name="head", shape=(1,), dtype=torch.float64, trainable=True, personal=True),
    ),
    dtype=torch.float64,
)
CONTEXT = LocalContext(
    spec=SPEC,
    sent=vec(100, 1, 2, 50),
    received={CONTROL: vec(10, 20)},
    state={"scaffold.control": vec(1, 2)},
)


def trained(impulse: float | None) -> Trained:
    return Trained(
        vector=vec(200, 3, -2, 60),
        integers=torch.empty(0, dtype=torch.int64),
        metrics=Metrics(),
        steps=(4,),
        impulse=impulse,
    )


def test_the_gradient_of_the_shared_layers_is_shifted_by_c_minus_c_k():
    (correction,) = scaffold().corrections
    assert correction(vec(5, 5, 5), vec(0, 0, 0), CONTEXT).tolist() == [14, 23, 5]


def test_a_client_without_state_has_a_control_of_0():
    (correction,) = scaffold().corrections
    fresh = LocalContext(spec=SPEC, sent=CONTEXT.sent, received=CONTEXT.received)
    assert correction(vec(5, 5, 5), vec(0, 0, 0), fresh).tolist() == [15, 25, 5]


def test_the_change_of_the_control_is_option_ii():
    # (x - y) / (K lr) = ((1 - 3) / 0.5, (2 + 2) / 0.5) = (-4, 8); less c = (10, 20).
    (finish,) = scaffold().finishers
    finished = finish(trained(impulse=0.5), CONTEXT)
    assert finished.channels[CONTROL].tolist() == [-14, -12]
    assert finished.state["scaffold.control"].tolist() == [-13, -10]
    assert CONTEXT.state["scaffold.control"].tolist() == [1, 2]


def test_local_work_without_an_impulse_is_an_error_that_says_so():
    (finish,) = scaffold().finishers
    with pytest.raises(CompositionError, match="must end with a known impulse"):
        finish(trained(impulse=None), CONTEXT)


def test_the_servers_control_moves_by_the_share_of_clients_that_took_part():
    # The mean of the changes is (3, -3); 2 of 8 clients: a quarter of it.
    each = [
        update(0, 2, 0, examples=9, control=[2, -4]),
        update(1, 4, 2, examples=1, control=[4, -2]),
    ]
    states = rounds(scaffold(), vec(0, 0), each, each, population=8)
    assert [s.transforms["scaffold"][CONTROL].tolist() for s in states] == [
        [0, 0],
        [0.75, -0.75],
        [1.5, -1.5],
    ]
    # Parameters move by the plain mean, (3, 1), whatever the numbers of examples.
    assert states[1].params.tolist() == [3, 1]


def test_clients_that_were_asked_and_did_not_answer_are_no_part_of_the_share():
    # 3 of 10 clients answered, 4 were asked: c = 1 + 3 / 10 * 5.
    (link,) = scaffold().server
    rest, state = link.update(
        {PARAMS: vec(7), CONTROL: vec(5)}, {CONTROL: vec(1)}, vec(0), ROUND_CONTEXT
    )
    assert state[CONTROL].tolist() == [2.5]
    assert {channel: value.tolist() for channel, value in rest.items()} == {PARAMS: [7]}


def test_the_server_learning_rate_scales_parameters_and_not_controls():
    each = [update(0, 2, 0, control=[2, -4])]
    assert points(scaffold(server_lr=0.5), vec(0, 0), each) == [[1, 0]]
    after = rounds(scaffold(server_lr=0.5), vec(0, 0), each, population=1)[-1]
    assert after.transforms["scaffold"][CONTROL].tolist() == [2, -4]


def test_controls_stay_with_their_clients_from_round_to_round(tmp_path):
    # F_k = (w - e)**2 / 2 with e = 16, 0, 32 and 8; two steps of 1/4 from w: gradients g and
    # 3/4 of (g + c - c_k) later.
    # Round 1, clients 0 and 2 from 0: e = 16 ends at 7, e = 32 at 14. w = 10.5. Average gradients
    #   -7 / 0.5 = -14 and -28; their mean is -21, half of the clients took part: c = -10.5.
    # Round 2, clients 0 and 1 from 10.5. Client 0: gradient -5.5, shifted by -10.5 + 14 = 3.5 to
    #   -2: to 11, where -5 + 3.5 = -1.5: to 11.375. Client 1: gradient 10.5 - 10.5 = 0: stays.
    #   w = 10.5 + (0.875 + 0) / 2 = 10.9375.
    #   dc of client 0: -0.875 / 0.5 + 10.5 = 8.75, of client 1: 0 + 10.5. Mean 9.625, c = -5.6875.
    clients = [Quadratic.of([1.0], [e]).examples() for e in (16.0, 0.0, 32.0, 8.0)]
    strategy = compose(scaffold(), cohorts([0, 2], [0, 1]))
    ran = federate(
        tmp_path,
        strategy,
        quadratic_task(vec(0)),
        clients,
        rounds=2,
        lr=0.25,
        steps=2,
        batch_size="full",
    )
    assert ran.model["w"].tolist() == [10.9375]
    kept = {k: state["scaffold.control"].item() for k, state in ran.clients.items()}
    assert kept == {0: -14 + 8.75, 1: 10.5, 2: -28}


@pytest.mark.parametrize("optimizer", ["adam", "Adagrad", "rmsprop"])
def test_an_optimizer_that_rescales_gradients_is_refused_before_the_first_round(
    optimizer, tmp_path
):
    client = Quadratic.of([1.0], [1.0]).examples()
    with pytest.raises(CompositionError) as raised:
        federate(tmp_path, scaffold(), quadratic_task(vec(0)), [client], optimizer=optimizer)
    assert str(raised.value) == (
        "scaffold needs more than it gets: control variates are average gradients, which only "
        "SGD's displacement gives back; set client.optimizer = 'sgd' (momentum is fine), and let "
        "it move every tensor"
    )
    assert not any(tmp_path.iterdir())


def test_sgd_in_any_case_of_letters_and_with_momentum_is_fine(tmp_path):
    client = Quadratic.of([1.0], [4.0]).examples()
    ran = federate(
        tmp_path,
        scaffold(),
        quadratic_task(vec(0)),
        [client],
        optimizer="SGD",
        momentum=0.5,
        lr=0.5,
        steps=2,
        batch_size="full",
    )
    # To 2, velocity -4; then gradient -2, velocity -4, to 4. Impulse 0.5 (1 + 1.5) = 1.25.
    assert ran.model["w"].tolist() == [4.0]
    assert ran.clients[0]["scaffold.control"].tolist() == [-4 / 1.25]


def test_weights_by_examples_contradict_it():
    with pytest.raises(CompositionError) as raised:
        compose(fedavg(weights="examples"), scaffold())
    assert str(raised.value) == (
        "fedavg and scaffold both set the weigher: leave it out of one of them"
    )


def test_an_unknown_optimizer_is_named_first(tmp_path):
    client = Quadratic.of([1.0], [1.0]).examples()
    with pytest.raises(ConfigError, match="'adamm'"):
        federate(tmp_path, scaffold(), quadratic_task(vec(0)), [client], optimizer="adamm")
