"""Fair averaging, by hand."""

from dataclasses import replace

import pytest
import torch

from roundel.core.errors import CompositionError
from roundel.core.job import LocalContext
from roundel.core.messages import PARAMS
from roundel.core.seeds import torch_generator
from roundel.server.aggregation import broadcast_channels
from roundel.strategies.compose import Part, compose
from roundel.strategies.fedavg import fedavg
from roundel.strategies.fednova import fednova
from roundel.strategies.qfedavg import BEFORE, CURVATURE, REFERENCE, qfedavg
from tests.federations import Quadratic, drawn_to, federate, quadratic_task
from tests.strategies.updates import SPEC, points, rounds, trained, update, vec

CONTEXT = LocalContext(spec=SPEC, sent=vec(100, 1, 2, 50), lr=0.5)
END = vec(0, 4, -2, 9)


def finished(part: Part, loss: float, offset: float = 0.0) -> tuple[list[float], list[float]]:
    (finish,) = part.finishers
    channels = finish(trained(END, loss_before=vec(loss)[0]), CONTEXT).channels
    assert channels.keys() == {PARAMS, CURVATURE, BEFORE}
    assert channels[BEFORE].tolist() == [loss + offset]
    return channels[PARAMS].tolist(), channels[CURVATURE].tolist()


def test_a_client_sends_its_weighted_update_and_its_share_of_the_denominator():
    # delta = (3, -4), its square 25; F = 3, L = 1 / 0.5 = 2.
    # q = 1: 3 (3, -4), and 3 + 1 * 2 * 25. q = 2: 9 (3, -4), and 9 + 2 * 3 * 2 * 25.
    assert finished(qfedavg(q=1.0, loss_offset=0.0), 3.0) == ([9, -12], [53])
    assert finished(qfedavg(q=2.0, loss_offset=0.0), 3.0) == ([27, -36], [309])


def test_l_may_be_set():
    assert finished(qfedavg(q=1.0, lipschitz=10.0, loss_offset=0.0), 3.0) == ([9, -12], [253])


def test_with_q_0_losses_do_not_matter():
    for loss in (0.0, 3.0):
        for offset in (0.0, 1e-10):
            assert finished(qfedavg(q=0.0, loss_offset=offset), loss, offset) == ([3, -4], [1])


def test_the_offset_gives_a_loss_of_0_a_power():
    # (1/4)**(1/2) = 1/2, and 1/2 + 1/2 (1/4)**(-1/2) 2 * 25 = 50.5.
    assert finished(qfedavg(q=0.5, loss_offset=0.25), 0.0, 0.25) == ([1.5, -2], [50.5])
    assert all(number < 1e11 for number in finished(qfedavg(), 0.0, 1e-10)[1])


def test_the_server_divides_one_sum_by_the_other_whatever_the_numbers_of_examples():
    # (9 + 1, -12 + 1) / (53 + 2).
    each = [
        update(0, 9, -12, examples=7, **{CURVATURE: [53], BEFORE: [3]}),
        update(1, 1, 1, examples=1, **{CURVATURE: [2], BEFORE: [1]}),
    ]
    (point,) = points(compose(qfedavg()), vec(1, 1), each)
    assert point == pytest.approx([1 + 10 / 55, 1 - 11 / 55], rel=1e-15)


def test_the_next_rounds_losses_are_seen_from_the_mean_of_this_rounds():
    each = [
        update(k, 1, examples=1, **{CURVATURE: [2], BEFORE: [loss]})
        for k, loss in enumerate((3, 9))
    ]
    none = [update(0, 0, examples=1, **{CURVATURE: [0], BEFORE: [0]})]
    strategy = compose(qfedavg())
    states = rounds(strategy, vec(0), each, [], none)
    told = [broadcast_channels(strategy, state)[REFERENCE].tolist() for state in states]
    assert told == [[1], [6], [6], [6]]


@pytest.mark.parametrize("reference", [0.01, 1.0, 40.0])
@pytest.mark.parametrize("q", [0.5, 1.0, 5.0])
def test_the_reference_divides_both_sums_by_the_same_number(q, reference):
    (finish,) = qfedavg(q=q, loss_offset=0.0).finishers
    context = replace(CONTEXT, received={REFERENCE: vec(reference)})
    channels = finish(trained(END, loss_before=vec(0.3)[0]), context).channels
    params, curvature = finished(qfedavg(q=q, loss_offset=0.0), 0.3)
    by = reference**q
    torch.testing.assert_close(channels[PARAMS] * by, vec(*params), rtol=1e-13, atol=0)
    torch.testing.assert_close(channels[CURVATURE] * by, vec(*curvature), rtol=1e-13, atol=0)


@pytest.mark.parametrize(
    "updates",
    [[], [update(0, 0, 0, examples=1, **{CURVATURE: [0], BEFORE: [0]})]],
    ids=["nobody", "no loss"],
)
def test_without_anybody_or_any_loss_nothing_moves(updates):
    assert points(compose(qfedavg()), vec(1, 2), updates) == [[1, 2]]


def test_the_loss_is_that_of_the_model_before_training(tmp_path):
    # F = (w - b)**2 / 2 from 0 with b = 2 and 4: losses 2 and 8; one step of 1/2 moves by 1 and 2.
    # q = 1, L = 2: (2 * 1 + 8 * 2) / (2 + 2 * 1 + 8 + 2 * 4) = 18 / 20.
    clients = [Quadratic.of([1.0], [b]).examples(n) for b, n in ((2.0, 1), (4.0, 3))]
    strategy = compose(qfedavg(q=1.0, loss_offset=0.0))
    task = quadratic_task(vec(0))
    ran = federate(tmp_path, strategy, task, clients, lr=0.5, steps=1, batch_size="full")
    assert ran.model["w"].tolist() == pytest.approx([0.9], rel=1e-15)


def test_with_q_0_it_is_the_uniform_mean(tmp_path):
    clients = [Quadratic.of([1.0, 2.0], [b, -b]).examples(n) for b, n in ((2.0, 1), (4.0, 3))]
    task, settings = quadratic_task(vec(1, 1)), {"lr": 0.1, "epochs": 2, "batch_size": 1}
    one, other = (
        federate(tmp_path / name, strategy, task, clients, rounds=3, **settings).model["w"]
        for name, strategy in [
            ("q", compose(qfedavg(q=0.0))),
            ("mean", fedavg(weights="uniform")),
        ]
    )
    torch.testing.assert_close(one, other, rtol=1e-15, atol=0)


def test_small_losses_and_a_large_q_are_exact_after_the_first_round(tmp_path):
    # Losses of 1e-4 or so to the power of 5 would be lost in sums that are exact to 1e-15.
    strategy = compose(qfedavg(q=5.0, loss_offset=0.0))
    one, ran = (
        drawn_to([0.01, 0.02], tmp_path / str(rounds), strategy, rounds=rounds, lr=0.5)
        for rounds in (1, 6)
    )
    w = one.model["w"].item()
    for _ in range(5):
        losses = [(w - b) ** 2 / 2 for b in (0.01, 0.02)]
        moves = [(b - w) / 2 for b in (0.01, 0.02)]
        h = [F**5 + 5 * F**4 * 2 * m * m for F, m in zip(losses, moves, strict=True)]
        w += sum(F**5 * m for F, m in zip(losses, moves, strict=True)) / sum(h)
    assert ran.model["w"].tolist() == pytest.approx([w], rel=1e-8)


def test_a_larger_q_evens_losses_out(tmp_path):
    # Three clients want 0 and one wants 4: the mean is 1, where losses are 0.5 and 4.5.
    clients = [Quadratic.of([1.0], [b]).examples() for b in (0.0, 0.0, 0.0, 4.0)]
    ends = []
    for q in (0.0, 1.0, 5.0):
        strategy, task = compose(qfedavg(q=q)), quadratic_task(vec(0.5))
        out = tmp_path / str(q)
        ran = federate(out, strategy, task, clients, rounds=20, lr=0.5, steps=1, batch_size="full")
        ends.append(ran.model["w"].item())
    # The minimum of 3 w**(2q + 2) + (4 - w)**(2q + 2): w / (4 - w) = 3**(-1 / (2q + 1)).
    ratios = [3 ** (-1 / (2 * q + 1)) for q in (0, 1, 5)]
    assert ends == pytest.approx([4 * r / (1 + r) for r in ratios], abs=1e-3)


def test_a_stack_of_clients_gives_what_each_alone_gives():
    generator = torch_generator(5)
    sent = torch.randn(6, 4, generator=generator, dtype=torch.float64)
    ends = torch.randn(6, 4, generator=generator, dtype=torch.float64)
    losses = torch.rand(6, generator=generator, dtype=torch.float64)
    (finish,) = qfedavg(q=0.7).finishers
    together = LocalContext(spec=SPEC, sent=sent, lr=0.1)
    stack = finish(trained(ends, loss_before=losses), together).channels
    for k in range(6):
        alone = LocalContext(spec=SPEC, sent=sent[k], lr=0.1)
        single = finish(trained(ends[k], loss_before=losses[k]), alone).channels
        for name, value in single.items():
            torch.testing.assert_close(stack[name][k], value, rtol=1e-12, atol=0)


def test_local_work_that_measures_no_loss_is_an_error_that_says_so():
    (finish,) = qfedavg().finishers
    with pytest.raises(CompositionError, match="must end with the loss before it"):
        finish(trained(END), CONTEXT)


def test_the_part_says_what_it_cannot_live_with():
    with pytest.raises(CompositionError) as raised:
        compose(qfedavg(), fednova())
    assert str(raised.value) == (
        "qfedavg(q=0.1) and fednova cannot be combined: each decides how long a client's update "
        "is; leave one of them out"
    )
    robust = Part(name="robust", provides=frozenset({"set"}))
    with pytest.raises(CompositionError, match="its step is a ratio of two sums over clients"):
        compose(qfedavg(), robust)
    with pytest.raises(CompositionError, match="both set the weigher"):
        compose(qfedavg(), fedavg(weights="examples"))


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"q": -0.1}, "q = -0.1 must be a finite number of at least 0"),
        ({"lipschitz": 0.0}, "lipschitz = 0.0 must be a finite number above 0"),
        ({"loss_offset": -1.0}, "loss_offset = -1.0 must be a finite number of at least 0"),
    ],
)
def test_a_knob_out_of_range_is_named_with_its_value(knobs, message):
    with pytest.raises(CompositionError) as raised:
        qfedavg(**knobs)
    assert str(raised.value) == message
