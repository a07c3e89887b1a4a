"""Fair averaging, by hand."""

import pytest
import torch

from roundel.core.errors import CompositionError
from roundel.core.learning import LocalContext, Trained
from roundel.core.messages import PARAMS
from roundel.core.metrics import Metrics
from roundel.core.params import Entry, ParamSpec
from roundel.core.seeds import torch_generator
from roundel.strategies.compose import Part, compose
from roundel.strategies.fedavg import fedavg
from roundel.strategies.fednova import fednova
from roundel.strategies.qfedavg import CURVATURE, qfedavg
from tests.federations import Quadratic, federate, quadratic_task
from tests.strategies.updates import points, update, vec

SPEC = ParamSpec(
    (
        Entry(name="mean", shape=(1,), dtype=torch.float64, trainable=False),
        Entry(name="w", shape=(2,), dtype=torch.float64, trainable=True),
        Entry(name="own", shape=(1,), dtype=torch.float64, trainable=True, personal=True),
    ),
    dtype=torch.float64,
)
CONTEXT = LocalContext(spec=SPEC, sent=vec(100, 1, 2, 50), lr=0.5)


def trained(vector: torch.Tensor, loss: torch.Tensor | None) -> Trained:
    none = torch.empty(0, dtype=torch.int64)
    return Trained(vector=vector, integers=none, metrics=Metrics(), steps=(1,), loss_before=loss)


def finished(part: Part, loss: float) -> tuple[list[float], list[float]]:
    (finish,) = part.finishers
    channels = finish(trained(vec(0, 4, -2, 9), vec(loss)[0]), CONTEXT).channels
    assert channels.keys() == {PARAMS, CURVATURE}
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
            assert finished(qfedavg(q=0.0, loss_offset=offset), loss) == ([3, -4], [1])


def test_the_offset_gives_a_loss_of_0_a_power():
    # (1/4)**(1/2) = 1/2, and 1/2 + 1/2 (1/4)**(-1/2) 2 * 25 = 50.5.
    assert finished(qfedavg(q=0.5, loss_offset=0.25), 0.0) == ([1.5, -2], [50.5])
    assert all(number < 1e11 for number in finished(qfedavg(), 0.0)[1])


def test_the_server_divides_one_sum_by_the_other_whatever_the_numbers_of_examples():
    # (9 + 1, -12 + 1) / (53 + 2).
    each = [
        update(0, 9, -12, examples=7, **{CURVATURE: [53]}),
        update(1, 1, 1, examples=1, **{CURVATURE: [2]}),
    ]
    (point,) = points(compose(qfedavg()), vec(1, 1), each)
    assert point == pytest.approx([1 + 10 / 55, 1 - 11 / 55], rel=1e-15)


@pytest.mark.parametrize(
    "updates", [[], [update(0, 0, 0, examples=1, **{CURVATURE: [0]})]], ids=["nobody", "no loss"]
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
    stack = finish(trained(ends, losses), LocalContext(spec=SPEC, sent=sent, lr=0.1)).channels
    for k in range(6):
        alone = LocalContext(spec=SPEC, sent=sent[k], lr=0.1)
        single = finish(trained(ends[k], losses[k]), alone).channels
        for name, value in single.items():
            torch.testing.assert_close(stack[name][k], value, rtol=1e-12, atol=0)


def test_local_work_that_measures_no_loss_is_an_error_that_says_so():
    (finish,) = qfedavg().finishers
    with pytest.raises(CompositionError, match="must end with the loss before it"):
        finish(trained(vec(0, 4, -2, 9), None), CONTEXT)


def test_the_part_says_what_it_cannot_live_with():
    with pytest.raises(CompositionError) as raised:
        compose(fednova(), qfedavg())
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
