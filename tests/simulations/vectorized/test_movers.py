"""Optimizers on stacks: which can be, and what is left of them when clients have finished."""

import inspect

import pytest
import torch
from torch import nn

from roundel.core.optimizers import OptimizerSpec
from roundel.simulations.vectorized.movers import goes_by_signs, is_plain, mover

NAMES = sorted(
    name
    for name, kind in vars(torch.optim).items()
    if inspect.isclass(kind)
    and issubclass(kind, torch.optim.Optimizer)
    and name not in {"Optimizer", "SparseAdam"}
)


@pytest.mark.parametrize("name", NAMES)
def test_elementwise_optimizers_move_a_number_the_same_in_any_company(name: str):
    # Twice the same number, beside others or alone: whoever looks at all of them tells them apart.
    spec = OptimizerSpec(name=name, lr=0.1)
    if not spec.is_elementwise:
        assert name in {"Adafactor", "LBFGS", "Muon"}
        return
    together, alone = torch.tensor([[1.0, 7.0], [3.0, -2.0]]), torch.tensor([[1.0]])
    slopes = torch.tensor([[0.5, 9.0], [0.0, 1.0]])
    movers = mover(spec, [together]), mover(spec, [alone])
    for _ in range(3):
        movers[0].move([slopes])
        movers[1].move([slopes[:1, :1]])
    assert together[0, 0].item() == alone[0, 0].item()


@pytest.mark.parametrize(
    "spec",
    [
        OptimizerSpec(),
        OptimizerSpec(momentum=0.9),
        OptimizerSpec(momentum=0.9, nesterov=True, weight_decay=0.1),
        OptimizerSpec(momentum=0.9, options={"dampening": 0.5}),
        OptimizerSpec(name="adam"),
        OptimizerSpec(name="adadelta"),
    ],
    ids=["plain", "momentum", "nesterov", "dampening", "adam", "adadelta"],
)
def test_those_that_go_on_keep_their_state(spec: OptimizerSpec):
    stack, reference = torch.ones(3, 2), nn.Parameter(torch.ones(2))
    slopes = [torch.tensor([0.5, -1.0]) * (step + 1) for step in range(4)]
    moving, alone = mover(spec, [stack]), spec.build([reference])
    finished = stack[1:]
    for step, slope in enumerate(slopes):

        def closure(slope: torch.Tensor = slope) -> torch.Tensor:
            reference.grad = slope.clone()
            return slope.sum()

        alone.step(closure)
        if step == 2:
            finished = stack[1:].clone()
            moving.narrow(1)
        moving.move([slope.expand(3 if step < 2 else 1, 2).clone()])
    torch.testing.assert_close(stack[0], reference.detach())
    assert torch.equal(stack[1:], finished)


def test_plain_sgd_is_told_from_all_else():
    assert is_plain(OptimizerSpec(name="SGD", lr=3.0))
    others = [
        OptimizerSpec(momentum=0.1),
        OptimizerSpec(weight_decay=0.1),
        OptimizerSpec(options={"maximize": True}),
        OptimizerSpec(name="adam"),
    ]
    assert not any(is_plain(spec) for spec in others)


def test_an_optimizer_that_sees_nothing_but_signs_is_told_from_all_else():
    assert {name for name in NAMES if goes_by_signs(OptimizerSpec(name=name))} == {"Rprop"}
