"""Dynamic regularisation, by hand."""

from dataclasses import replace

import pytest
import torch

from roundel.core.errors import CompositionError
from roundel.core.job import LocalContext
from roundel.core.messages import PARAMS
from roundel.core.params import ParamSpec
from roundel.core.seeds import torch_generator
from roundel.server.aggregation import reported
from roundel.strategies.compose import compose
from roundel.strategies.fedavg import fedavg
from roundel.strategies.feddyn import feddyn
from roundel.strategies.fedexp import fedexp
from roundel.strategies.fednova import fednova
from roundel.strategies.fedopt import fedadam, fedavgm
from roundel.strategies.pfedme import pfedme
from roundel.strategies.topk import topk
from tests.federations import Point, Quadratic, drawn_to, federate, quadratic_task
from tests.strategies.toys import cohorts
from tests.strategies.updates import CONTEXT as ROUND_CONTEXT
from tests.strategies.updates import SPEC, points, rounds, update, vec

CONTEXT = LocalContext(
    spec=SPEC, sent=vec(100, 1, 2, 50), state={"feddyn.gradient": vec(10, 20)}, lr=0.1
)
FRESH = LocalContext(spec=SPEC, sent=CONTEXT.sent, lr=0.1)


def test_a_gradient_is_pulled_back_and_tilted_on_shared_layers_only():
    # 5 + 2 (4 - 1) - 10 and 5 + 2 (1 - 2) - 20; the head was never received.
    (correction,) = feddyn(alpha=2.0).corrections
    assert correction(vec(5, 5, 5), vec(4, 1, 9), CONTEXT).tolist() == [1, -17, 5]
    assert correction(vec(5, 5, 5), vec(4, 1, 9), FRESH).tolist() == [11, 3, 5]


def test_the_clients_gradient_moves_against_what_the_server_makes_of_its_way():
    # 10 - 2 * 2 and 20 - 2 * -4; nothing is sent besides the parameters.
    part = feddyn(alpha=2.0)
    (settle,) = part.settlers
    assert settle({PARAMS: vec(2, -4)}, CONTEXT)["feddyn.gradient"].tolist() == [6, 28]
    assert settle({PARAMS: vec(2, -4)}, FRESH)["feddyn.gradient"].tolist() == [-4, 8]
    assert CONTEXT.state["feddyn.gradient"].tolist() == [10, 20]
    assert not part.finishers


def test_the_server_adds_up_ways_over_the_population_and_averages_over_those_who_came():
    # alpha = 2, 2 of 8 clients: mean way (3, 1), sum (6, 2); h = -2 / 8 (6, 2) = (-1.5, -0.5) and
    # a step of (3, 1) - h / 2 = (3.75, 1.25), whatever the numbers of examples. Then twice h.
    each = [update(0, 2, 0, examples=9), update(1, 4, 2, examples=1)]
    states = rounds(compose(feddyn(alpha=2.0)), vec(0, 0), each, each, population=8)
    assert [s.transforms["feddyn"]["h"].tolist() for s in states] == [
        [0, 0],
        [-1.5, -0.5],
        [-3, -1],
    ]
    assert [s.params.tolist() for s in states] == [[0, 0], [3.75, 1.25], [8.25, 2.75]]


def test_clients_that_were_asked_and_did_not_answer_are_no_part_of_the_sum():
    # 3 of 10 answered, 4 were asked: h = 1 - 2 * 3 / 10 * 5 = -2, and a step of 5 + 1.
    (link,) = feddyn(alpha=2.0).server
    rest, state = link.update({PARAMS: vec(5)}, {"h": vec(1)}, vec(0), ROUND_CONTEXT)
    assert state["h"].tolist() == [-2]
    assert rest[PARAMS].tolist() == [6]


def test_what_is_reported_is_the_cloud_model_or_the_mean_of_those_who_came():
    each = [update(0, 2), update(1, 4)]
    spec = ParamSpec.of(Point(vec(0)))
    ends = {}
    for reports in ("cloud", "mean"):
        strategy = compose(feddyn(alpha=2.0, reports=reports))
        states = rounds(strategy, vec(0), each, each, population=8)
        ends[reports] = [reported(strategy, spec, state).tolist() for state in states]
    # The cloud goes to 3.75 and 8.25, the clients end on average at 3 and 3.75 + 3.
    assert ends == {"cloud": [[0], [3.75], [8.25]], "mean": [[0], [3], [6.75]]}


def test_a_server_optimizer_beside_it_leaves_the_reported_mean_alone():
    # The mean of the clients is 1; the cloud goes (1 + 1) / 2 from 0.
    strategy = compose(feddyn(reports="mean"), fedavgm(server_lr=0.5))
    spec = ParamSpec.of(Point(vec(0)))
    (_, state) = rounds(strategy, vec(0), [update(0, 1), update(1, 1)], population=2)
    assert state.params.tolist() == [1]
    assert reported(strategy, spec, state).tolist() == [1]
    (_, state) = rounds(strategy, vec(0), [update(0, 3), update(1, 1)], population=2)
    assert (state.params.tolist(), reported(strategy, spec, state).tolist()) == ([2], [2])
    (_, state) = rounds(strategy, vec(0), [update(0, 3), update(1, 1)], population=4)
    assert (state.params.tolist(), reported(strategy, spec, state).tolist()) == ([1.5], [2])


@pytest.mark.parametrize("reports", ["cloud", "mean"])
def test_a_round_in_which_nobody_answers_changes_nothing(reports):
    strategy = compose(feddyn(alpha=2.0, reports=reports))
    first, *later = rounds(strategy, vec(0), [update(0, 1)], [], [], population=2)[1:]
    for state in later:
        assert state.params.tolist() == first.params.tolist() == [1.5]
        assert state.transforms["feddyn"] == first.transforms["feddyn"]


def test_the_servers_h_stays_the_mean_of_the_clients_whatever_codecs_lose(tmp_path):
    clients = [Quadratic.of([1.0, 2.0, 3.0], [b, -b, 1.0]).examples() for b in (1.0, 4.0, 9.0)]
    strategy, seen = compose(feddyn(alpha=0.5), topk(share=0.4)), []
    (link,) = strategy.server

    def watch(aggregate, state, params, context):
        after = link.update(aggregate, state, params, context)
        seen.append(after[1]["h"])
        return after

    watched = replace(strategy, server=(replace(link, update=watch),))
    settings = {"lr": 0.1, "steps": 3, "batch_size": "full", "rounds": 4}
    ran = federate(tmp_path, watched, quadratic_task(vec(0, 0, 0)), clients, **settings)
    kept = torch.stack([state["feddyn.gradient"] for state in ran.clients.values()])
    torch.testing.assert_close(kept.mean(dim=0), seen[-1], rtol=1e-12, atol=1e-12)
    assert seen[-1].abs().max() > 0.01


def test_gradients_stay_with_their_clients_from_round_to_round(tmp_path):
    # F_k = (w - e)**2 / 2, e = 4, 0, 8; alpha = 1, one step of 1/2: gradient w - e - h_k.
    # Round 1, clients 0 and 2 from 0: ways 2 and 4, h_k = -2 and -4, h = -6 / 3 = -2; w = 3 + 2.
    # Round 2, clients 0 and 1 from 5: gradients 5 - 4 + 2 = 3 and 5: ways -1.5 and -2.5,
    #   h_0 = -0.5, h_1 = 2.5, h = -2 + 4 / 3; w = 5 - 2 + 2 / 3.
    strategy = compose(feddyn(alpha=1.0), cohorts([0, 2], [0, 1]))
    ran = drawn_to([4.0, 0.0, 8.0], tmp_path, strategy, rounds=2, lr=0.5)
    kept = {k: state["feddyn.gradient"].item() for k, state in ran.clients.items()}
    assert kept == {0: -0.5, 1: 2.5, 2: -4}
    assert ran.model["w"].tolist() == pytest.approx([3 + 2 / 3], rel=1e-15)


def test_a_first_round_of_everybody_goes_twice_as_far_as_fedprox():
    # All h_k are 0, so local work is that of prox; then h = -alpha mean, so the step doubles.
    each = [update(0, 1, 2), update(1, 3, -1)]
    (point,) = points(compose(feddyn(alpha=0.25)), vec(0, 0), each, population=2)
    assert point == [4, 1]


@pytest.mark.parametrize("alpha", [1e-6, 0.01, 10.0])
def test_without_anybody_or_any_movement_nothing_moves(alpha):
    for updates in ([], [update(0, 0, 0)]):
        assert points(compose(feddyn(alpha=alpha)), vec(1, 2), updates) == [[1, 2]]


def test_the_pull_counts_for_how_far_a_client_can_come():
    assert feddyn(alpha=0.3).pull == 0.3


def test_a_stack_of_clients_gives_what_each_alone_gives():
    generator = torch_generator(5)

    def draw(width: int) -> torch.Tensor:
        return torch.randn(6, width, generator=generator, dtype=torch.float64)

    sent, ways, kept, gradients, at = draw(4), draw(2), draw(2), draw(3), draw(3)
    part = feddyn(alpha=0.3)
    (correct,), (settle,) = part.corrections, part.settlers
    stack = LocalContext(spec=SPEC, sent=sent, state={"feddyn.gradient": kept})
    corrected = correct(gradients, at, stack)
    state = settle({PARAMS: ways}, stack)["feddyn.gradient"]
    newly = settle({PARAMS: ways}, LocalContext(spec=SPEC, sent=sent))["feddyn.gradient"]
    for k in range(6):
        alone = LocalContext(spec=SPEC, sent=sent[k], state={"feddyn.gradient": kept[k]})
        fresh = LocalContext(spec=SPEC, sent=sent[k])
        assert torch.equal(corrected[k], correct(gradients[k], at[k], alone))
        assert torch.equal(state[k], settle({PARAMS: ways[k]}, alone)["feddyn.gradient"])
        assert torch.equal(newly[k], settle({PARAMS: ways[k]}, fresh)["feddyn.gradient"])


def test_the_part_says_what_it_cannot_live_with():
    with pytest.raises(CompositionError, match="and fednova cannot be combined: the server's h"):
        compose(feddyn(), fednova())
    with pytest.raises(CompositionError, match=r"feddyn\(alpha=0.01\) cannot come after fedadam"):
        compose(fedadam(), feddyn())
    for changes in (fedexp(), pfedme(beta=0.5)):
        with pytest.raises(CompositionError, match=r"feddyn\(alpha=0.01\) cannot come after "):
            compose(changes, feddyn())
    assert compose(pfedme(beta=1.0), feddyn()).name.endswith("feddyn(alpha=0.01)")
    with pytest.raises(CompositionError, match="both set the weigher"):
        compose(feddyn(), fedavg(weights="examples"))
    assert compose(feddyn(), fedadam()).name == "feddyn(alpha=0.01)+fedadam"


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"alpha": 0.0}, "alpha = 0.0 must be a finite number above 0"),
        ({"alpha": float("inf")}, "alpha = inf must be a finite number above 0"),
        ({"reports": "all"}, "reports = 'all' must be one of 'cloud', 'mean'"),
    ],
)
def test_a_knob_out_of_range_is_named_with_its_value(knobs, message):
    with pytest.raises(CompositionError) as raised:
        feddyn(**knobs)
    assert str(raised.value) == message
