"""Jobs for stacks, and how to hold what became of them against the loop."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from roundel.core.data import Examples
from roundel.core.job import LocalContext, LocalJob, Phase, Trained
from roundel.core.learning import Learner
from roundel.core.seeds import torch_generator
from roundel.core.task import Loss, Task
from roundel.simulations.vectorized import Stack

Maker = Callable[[int, int], Examples]
"""A seed and a number of examples to examples."""


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2))


def task_of(
    model: Callable[[], nn.Module] = mlp, loss: Loss = functional.cross_entropy, **rest: Any
) -> Task:
    return Task(name="net", model=lambda: model().double(), loss=loss, **rest)


def classified(*shape: int, classes: int = 2, dtype: torch.dtype = torch.float64) -> Maker:
    """Make random inputs of a shape, and a class for each."""

    def make(seed: int, count: int) -> Examples:
        generator = torch_generator(seed)
        inputs = torch.randn(count, *shape, generator=generator, dtype=dtype)
        return Examples(inputs, torch.randint(classes, (count,), generator=generator))

    return make


def jobs_of(
    learner: Learner,
    sizes: Sequence[int],
    make: Maker,
    *,
    phases: Sequence[Phase] = (Phase(batch_size=4),),
    received: Mapping[str, Tensor] | None = None,
    state: Callable[[int], Mapping[str, Tensor]] = lambda _k: {},
    spread: float = 0.1,
    **rest: Any,
) -> list[LocalJob]:
    """Make a job for each size; clients start a little apart unless `spread` is 0."""
    noise = torch.randn(len(sizes), learner.spec.size, generator=torch_generator(1))
    noise[:, : learner.spec.trainable.start] = 0.0
    noise[:, learner.spec.trainable.stop :] = 0.0
    initial = learner.initial
    return [
        LocalJob(
            context=LocalContext(
                spec=learner.spec,
                sent=initial + spread * noise[k].to(initial) if spread else initial,
                received=received or {},
                state=state(k),
                lr=phases[0].optimizer.lr,
            ),
            integers=learner.initial_integers,
            examples=make(k, size),
            phases=phases,
            seed=100 + k,
            **rest,
        )
        for k, size in enumerate(sizes)
    ]


def assert_as_the_loop(learner: Learner, jobs: Sequence[LocalJob], rel: float = 1e-10) -> None:
    """Check that a stack makes of jobs what the loop makes of each."""
    for found, job in zip(Stack(learner).train(jobs), jobs, strict=True):
        assert_alike(found, learner.train(job), rel)


def assert_alike(found: Trained, expected: Trained, rel: float) -> None:
    near = rel * float(expected.vector.abs().max())
    torch.testing.assert_close(found.vector, expected.vector, rtol=rel, atol=near)
    assert found.vector.is_contiguous()
    assert found.integers.tolist() == expected.integers.tolist()
    assert found.metrics.count == expected.metrics.count
    assert found.metrics.sums == pytest.approx(expected.metrics.sums, rel=rel)
    assert found.steps == expected.steps
    assert found.impulse == expected.impulse
    assert found.lr_steps == expected.lr_steps
