"""The pull towards the received model, by hand."""

import pytest
import torch

from roundel.core.errors import CompositionError
from roundel.core.job import LocalContext
from roundel.core.params import Entry, ParamSpec
from roundel.core.seeds import torch_generator
from roundel.strategies.fedprox import fedprox, prox
from roundel.strategies.registry import make_strategy
from tests.federations import Quadratic, federate, quadratic_task
from tests.strategies.updates import vec

# A buffer and two trainable numbers.
SPEC = ParamSpec(
    (
        Entry(name="mean", shape=(1,), dtype=torch.float64, trainable=False),
        Entry(name="w", shape=(2,), dtype=torch.float64, trainable=True),
    ),
    dtype=torch.float64,
)


def test_the_pull_is_mu_times_the_way_back():
    (correction,) = prox(mu=0.5).corrections
    context = LocalContext(spec=SPEC, sent=vec(100, 1, 2))
    assert correction(vec(10, 20), vec(3, -4), context).tolist() == [10 + 1, 20 - 3]


def test_personal_layers_were_never_received_and_are_not_pulled():
    own = Entry(name="own", shape=(1,), dtype=torch.float64, trainable=True, personal=True)
    spec = ParamSpec((*SPEC.entries, own), dtype=torch.float64)
    (correction,) = prox(mu=0.5).corrections
    context = LocalContext(spec=spec, sent=vec(100, 1, 2, 7))
    assert correction(vec(10, 20, 30), vec(3, -4, 9), context).tolist() == [11, 17, 30]


def test_the_pull_is_towards_what_was_received_in_each_round(tmp_path):
    # F = (w - 4)**2 / 2 from 0 with mu = 1 and steps of 1/4:
    #   to 0 - (0 - 4 + 0) / 4 = 1, to 1 - (1 - 4 + 1) / 4 = 1.5, which is the next anchor:
    #   to 1.5 - (1.5 - 4) / 4 = 2.125, to 2.125 - (2.125 - 4 + 0.625) / 4 = 2.4375.
    client = Quadratic.of([1.0], [4.0]).examples()
    task = quadratic_task(vec(0))
    ran = federate(
        tmp_path, fedprox(mu=1.0), task, [client], rounds=2, lr=0.25, steps=2, batch_size="full"
    )
    assert ran.model["w"].tolist() == [2.4375]


def test_the_part_says_its_mu():
    assert prox(mu=0.1).name == "prox(mu=0.1)"
    assert fedprox().name == "fedprox"


def test_the_part_alone_is_fedprox_by_another_name(tmp_path):
    client = Quadratic.of([1.0], [4.0]).examples()
    task, settings = quadratic_task(vec(0)), {"rounds": 2, "lr": 0.25, "steps": 2}
    one, other = (
        federate(tmp_path / name, make_strategy(name, {"mu": 1.0}), task, [client], **settings)
        for name in ("prox", "fedprox")
    )
    assert torch.equal(one.model["w"], other.model["w"])


def test_a_stack_of_clients_is_pulled_as_each_alone_is():
    generator = torch_generator(5)
    sent, gradients, at = (
        torch.randn(6, 3, generator=generator, dtype=torch.float64)[:, :width]
        for width in (3, 2, 2)
    )
    (correct,) = prox(mu=0.3).corrections
    stack = correct(gradients, at, LocalContext(spec=SPEC, sent=sent))
    for k in range(6):
        alone = correct(gradients[k], at[k], LocalContext(spec=SPEC, sent=sent[k]))
        assert torch.equal(stack[k], alone)


@pytest.mark.parametrize("mu", [-0.1, float("nan"), float("inf")])
def test_mu_must_be_finite_and_at_least_0(mu):
    with pytest.raises(CompositionError, match=f"^mu = {mu} must be a finite number of at least 0"):
        fedprox(mu=mu)
