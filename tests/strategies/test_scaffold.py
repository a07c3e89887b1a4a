"""Control variates, by hand.

Two of four clients take part in each round; they start from 0 and take two steps of 1/4.
"""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from roundel.core.errors import CompositionError, ConfigError
from roundel.core.job import LocalContext, Trained
from roundel.core.messages import PARAMS
from roundel.core.seeds import torch_generator
from roundel.strategies.clipping import clip
from roundel.strategies.compose import compose
from roundel.strategies.fedavg import fedavg
from roundel.strategies.quantisation import int8
from roundel.strategies.scaffold import CONTROL, scaffold
from roundel.strategies.topk import topk
from tests.federations import Quadratic, drawn_to, federate, quadratic_task
from tests.strategies.toys import cohorts, nested
from tests.strategies.updates import CONTEXT as ROUND_CONTEXT
from tests.strategies.updates import SPEC, points, rounds, trained, update, vec

CONTEXT = LocalContext(
    spec=SPEC,
    sent=vec(100, 1, 2, 50),
    received={CONTROL: vec(10, 20)},
    state={"scaffold.control": vec(1, 2)},
)
END = vec(200, 3, -2, 60)


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
    finished = finish(trained(END, impulse=0.5), CONTEXT)
    assert finished.channels[CONTROL].tolist() == [-14, -12]
    assert not finished.state


def test_the_control_moves_by_what_the_server_makes_of_its_change():
    (settle,) = scaffold().settlers
    assert settle({CONTROL: vec(-14, 0)}, CONTEXT)["scaffold.control"].tolist() == [-13, 2]
    assert CONTEXT.state["scaffold.control"].tolist() == [1, 2]


def test_local_work_without_an_impulse_is_an_error_that_says_so():
    (finish,) = scaffold().finishers
    with pytest.raises(CompositionError, match="must end with a known impulse"):
        finish(trained(END), CONTEXT)


def test_option_i_takes_the_gradient_of_what_was_received():
    # The last element is that of the head: (7, -3) less c_k = (1, 2).
    (finish,) = scaffold(option="I").finishers
    finished = finish(trained(END, gradient_before=vec(7, -3, 99)), CONTEXT)
    assert finished.channels[CONTROL].tolist() == [6, -5]
    with pytest.raises(CompositionError, match="needs the gradient before local training"):
        finish(trained(END, impulse=0.5), CONTEXT)


def test_only_option_i_measures_a_gradient_and_only_option_ii_needs_an_impulse():
    assert scaffold(option="I").measures == {"gradient"}
    assert scaffold(option="II").measures == frozenset()
    assert not scaffold(option="I").parts[0].needs
    assert scaffold().parts[0].needs.keys() == {"impulse"}


def test_with_one_full_step_both_options_are_the_same(tmp_path):
    # The average gradient of one step from x is corrected by c - c_k: option II takes that off.
    clients = [Quadratic.of([1.0, 3.0], [b, -b]).examples() for b in (1.0, 4.0)]
    settings = {"lr": 0.2, "steps": 1, "batch_size": "full", "rounds": 4}
    one, other = (
        federate(
            tmp_path / option,
            scaffold(option=option),
            quadratic_task(vec(0, 0)),
            clients,
            **settings,
        )
        for option in ("I", "II")
    )
    torch.testing.assert_close(one.model["w"], other.model["w"], rtol=1e-13, atol=0)
    for k in range(2):
        kept = [run.clients[k]["scaffold.control"] for run in (one, other)]
        torch.testing.assert_close(kept[0], kept[1], rtol=1e-12, atol=0)


def test_controls_of_option_i_are_gradients_where_the_round_began(tmp_path):
    # F_k = (w - e)**2 / 2 with e = 16 and 32; two steps of 1/4 from 0: c_k = -16 and -32, c = -24.
    # Round 1 ends at 7 and 14: w = 10.5. Round 2: gradients -5.5 and -21.5 become c_k; training
    # goes along -5.5 - 24 + 16 = -13.5 and -21.5 - 24 + 32 = -13.5.
    clients = [Quadratic.of([1.0], [e]).examples(n) for e, n in ((16.0, 1), (32.0, 3))]
    settings = {"lr": 0.25, "steps": 2, "batch_size": "full", "rounds": 2}
    ran = federate(tmp_path, scaffold(option="I"), quadratic_task(vec(0)), clients, **settings)
    kept = {k: state["scaffold.control"].item() for k, state in ran.clients.items()}
    assert kept == {0: -5.5, 1: -21.5}
    # From 10.5 by 13.5 / 4, then by (13.5 - 13.5 / 4) / 4.
    assert ran.model["w"].tolist() == [10.5 + 3.375 + 2.53125]


def test_option_i_suits_any_optimizer_and_solver(tmp_path):
    clients = [Quadratic.of([1.0], [e]).examples() for e in (16.0, 32.0)]
    task = quadratic_task(vec(0))
    ran = federate(tmp_path / "adam", scaffold(option="I"), task, clients, optimizer="adam", lr=0.1)
    assert ran.clients[0]["scaffold.control"].tolist() == [-16]
    solver = nested(pull=1.0, lr=0.1, inner_lr=0.1, inner_steps=1, outer=1)
    ran = federate(tmp_path / "nested", compose(scaffold(option="I"), solver), task, clients)
    assert ran.clients[1]["scaffold.control"].tolist() == [-32]


@pytest.mark.parametrize("option", ["I", "II"])
def test_a_stack_of_clients_gives_what_each_alone_gives(option):
    generator = torch_generator(5)

    def draw(width: int) -> Tensor:
        return torch.randn(6, width, generator=generator, dtype=torch.float64)

    sent, ends, kept, gradients, before = draw(4), draw(4), draw(2), draw(3), draw(3)
    strategy = scaffold(option=option)
    (correct,), (finish,), (settle,) = strategy.corrections, strategy.finishers, strategy.settlers
    received = {CONTROL: vec(10, 20)}

    def context(sent: Tensor, kept: Tensor) -> LocalContext:
        state = {"scaffold.control": kept}
        return LocalContext(spec=SPEC, sent=sent, received=received, state=state)

    def done(end: Tensor, gradient: Tensor) -> Trained:
        return trained(end, impulse=0.3, gradient_before=gradient)

    corrected = correct(gradients, gradients, context(sent, kept))
    finished = finish(done(ends, before), context(sent, kept))
    settled = settle(finished.channels, context(sent, kept))["scaffold.control"]
    for k in range(6):
        alone = context(sent[k], kept[k])
        assert torch.equal(corrected[k], correct(gradients[k], gradients[k], alone))
        single = finish(done(ends[k], before[k]), alone)
        assert torch.equal(finished.channels[CONTROL][k], single.channels[CONTROL])
        assert torch.equal(settled[k], settle(single.channels, alone)["scaffold.control"])


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
    strategy = compose(scaffold(), cohorts([0, 2], [0, 1]))
    minima = (16.0, 0.0, 32.0, 8.0)
    ran = drawn_to(minima, tmp_path, strategy, rounds=2, lr=0.25, steps=2)
    assert ran.model["w"].tolist() == [10.9375]
    kept = {k: state["scaffold.control"].item() for k, state in ran.clients.items()}
    assert kept == {0: -14 + 8.75, 1: 10.5, 2: -28}


@pytest.mark.parametrize("part", [clip(norm=0.1), topk(share=0.4), int8()], ids=lambda p: p.name)
def test_the_servers_control_stays_the_mean_of_the_clients_whatever_codecs_lose(part, tmp_path):
    clients = [Quadratic.of([1.0, 2.0, 3.0], [b, -b, 1.0]).examples() for b in (1.0, 4.0, 9.0)]
    strategy, seen = compose(scaffold(), part), []
    (link,) = strategy.server

    def watch(aggregate, state, params, context):
        after = link.update(aggregate, state, params, context)
        seen.append(after[1][CONTROL])
        return after

    watched = replace(strategy, server=(replace(link, update=watch),))
    settings = {"lr": 0.1, "steps": 3, "batch_size": "full", "rounds": 4}
    ran = federate(tmp_path, watched, quadratic_task(vec(0, 0, 0)), clients, **settings)
    kept = torch.stack([state["scaffold.control"] for state in ran.clients.values()])
    torch.testing.assert_close(kept.mean(dim=0), seen[-1], rtol=1e-12, atol=1e-12)
    assert seen[-1].abs().max() > 0.01
    assert not any("topk.control" in state for state in ran.clients.values())


@pytest.mark.parametrize("feedback", [True, False])
def test_what_top_k_leaves_out_of_a_control_comes_with_the_next_one(feedback, tmp_path):
    clients = [Quadratic.of([1.0, 2.0, 3.0], [b, -b, 1.0]).examples() for b in (1.0, 4.0, 9.0)]
    best = vec(14 / 3, -14 / 3, 1)
    strategy = compose(scaffold(), topk(share=0.67, error_feedback=feedback))
    settings = {"lr": 0.1, "steps": 3, "batch_size": "full", "rounds": 80}
    ran = federate(tmp_path, strategy, quadratic_task(vec(0, 0, 0)), clients, **settings)
    torch.testing.assert_close(ran.model["w"], best, rtol=0, atol=1e-4)


@pytest.mark.parametrize("optimizer", ["adam", "Adagrad", "rmsprop"])
def test_an_optimizer_that_rescales_gradients_is_refused_before_the_first_round(
    optimizer, tmp_path
):
    with pytest.raises(CompositionError) as raised:
        drawn_to([1.0], tmp_path, scaffold(), optimizer=optimizer)
    assert str(raised.value) == (
        "scaffold needs more than it gets: control variates are average gradients, which only "
        "SGD's displacement gives back; set client.optimizer = 'sgd' (momentum is fine), and let "
        "it move every tensor"
    )
    assert not any(tmp_path.iterdir())


def test_sgd_in_any_case_of_letters_and_with_momentum_is_fine(tmp_path):
    settings = {"optimizer": "SGD", "momentum": 0.5, "lr": 0.5, "steps": 2}
    ran = drawn_to([4.0], tmp_path, scaffold(), **settings)
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
    with pytest.raises(ConfigError, match="'adamm'"):
        drawn_to([1.0], tmp_path, scaffold(), optimizer="adamm")


def test_an_option_that_the_paper_does_not_have_is_named_with_those_that_it_has():
    with pytest.raises(CompositionError) as raised:
        scaffold(option="III")  # pyright: ignore[reportArgumentType]
    assert str(raised.value) == "option = 'III' must be one of 'I', 'II'"
