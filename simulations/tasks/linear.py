"""Linear regression with a known optimum, to see whether an algorithm reaches it.

Inputs are standard normal, and targets ``y = x w + b + e`` with ``w, b ~ N(0, 1)`` and noise e.
`optimum` solves the same problem in closed form.

Targets are numbers and no classes, so the partition is IID unless it is set, and the kinds that go
by label do not apply.
"""

from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from roundel.core.data import Examples
from roundel.core.errors import DataError
from roundel.core.seeds import derive, torch_generator
from roundel.core.task import Task
from roundel.simulations.tasks.about import About
from roundel.simulations.tasks.checks import at_least
from roundel.simulations.tasks.squared_error import squared_error

TEST_EXAMPLES = 1_000


def linear(
    *, dimension: int = 10, examples: int = 1_000, noise: float = 0.1, seed: int = 0
) -> Task:
    """Return the task of linear regression on generated data.

    Inputs are float32 of shape ``(N, dimension)``; targets are float32 of shape ``(N, 1)``. The
    loss is the mean squared error, and so is the metric ``mse``.

    Args:
        dimension: Of the inputs.
        examples: How many there are to learn from; 1,000 more are the global test set.
        noise: Standard deviation of the noise on a target.
        seed: Which problem is drawn. The experiment's seeds do not change it, so that runs that
            differ in them have the same optimum.

    Raises:
        ConfigError: A knob is out of range.
    """
    at_least(1, dimension=dimension, examples=examples)
    at_least(0, noise=noise)

    def load(path: Path | None) -> Examples:
        return _generate(path, ("linear pool", seed), (examples, dimension), noise)

    def load_test(path: Path | None) -> Examples:
        return _generate(path, ("linear test", seed), (TEST_EXAMPLES, dimension), noise)

    return Task(
        name="linear",
        partition="iid",
        model=partial(nn.Linear, dimension, 1),
        loss=functional.mse_loss,
        metrics=squared_error,
        load=load,
        load_test=load_test,
    )


def optimum(examples: Examples) -> Tensor:
    """Return the weights that minimise the mean squared error over some examples.

    The least-squares solution in float64; of several, the one of smallest norm.

    Args:
        examples: Inputs of shape ``(N, d)``, targets of shape ``(N, 1)``.

    Returns:
        The weights and then the bias, float64, shape ``(d + 1,)``, as in the model's vector.

    Raises:
        DataError: There are no examples.
    """
    if len(examples) == 0:
        raise DataError("there are no examples to fit; give at least one")
    inputs = examples.inputs.double()
    design = torch.cat([inputs, inputs.new_ones(len(inputs), 1)], dim=1)
    solution: Tensor = torch.linalg.lstsq(
        design, examples.targets.double(), driver="gelsd"
    ).solution
    return solution.flatten()


def _generate(
    path: Path | None, draw: tuple[str, int], shape: tuple[int, int], noise: float
) -> Examples:
    if path is not None:
        raise DataError(
            f"the examples of linear are generated and cannot be read from {path}; "
            "leave the path out"
        )
    purpose, seed = draw
    count, dimension = shape
    truth = _normal(torch_generator(derive(seed, "linear truth")), dimension + 1, 1)
    generator = torch_generator(derive(seed, purpose))
    inputs = _normal(generator, count, dimension)
    targets = inputs @ truth[:-1] + truth[-1] + noise * _normal(generator, count, 1)
    return Examples(inputs.float(), targets.float())


def _normal(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float64)


ABOUT = About(
    make=linear,
    summary="linear regression with a known optimum",
    size="generated: 1,000 to learn from, 1,000 to test on",
    models={"linear": 11},
    licence="none: generated",
    source="generated from a fixed seed",
    figure="the least-squares optimum to 0.00001 in 20 rounds of full batches "
    '(partition.kind = "iid", partition.clients = 10, partition.test = 0, client.steps = 1, '
    "client.lr = 0.4)",
)
