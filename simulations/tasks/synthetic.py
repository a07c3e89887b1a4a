"""Synthetic(alpha, beta) of the FedProx paper: logistic regression that differs by client.

T. Li et al., "Federated Optimization in Heterogeneous Networks" (MLSys 2020, arXiv:1812.06127),
section 5.1, with the constants of its published code. Client k of N draws

    n_k = 50 + floor(LogNormal(4, 2))        how many examples
    u_k ~ N(0, alpha),  B_k ~ N(0, beta)     two numbers; second arguments are standard deviations
    W_k ~ N(u_k, 1),    b_k ~ N(u_k, 1)      the model behind its labels: 60 x 10, and 10
    v_k ~ N(B_k, 1)                          the centre of its inputs: 60
    x   ~ N(v_k, S),    S = diag(j ** -1.2)
    y   = argmax(x W_k + b_k)

and trains on 90 % of its examples. In the IID variant all clients share one W and b ~ N(0, 1), and
v = 0.

Worth knowing: u_k adds the same amount, ``u_k (1 + sum(x))``, to the scores of all classes, and
argmax does not see it. Alpha therefore changes no example, only the model that is said to lie
behind it; what separates (0, 0) from (1, 1) is beta.

Two things depart from the recipe. A client has at most 20,000 examples, where the recipe's tail has
no end; that shortens one client in 630. And the model starts from zero, where the code draws its
weights; the problem is convex.
"""

from functools import partial

import numpy as np

from roundel.core.data import Examples
from roundel.core.seeds import derive
from roundel.core.task import Task
from roundel.simulations.tasks.about import About
from roundel.simulations.tasks.checks import at_least
from roundel.simulations.tasks.generated import (
    Floats,
    GeneratedClients,
    Sizes,
    gaussian,
    labelled,
    logistic,
)

SIZES = Sizes(mean=4, sigma=2, least=50, most=20_000)


def synthetic(
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    iid: bool = False,
    dimension: int = 60,
    classes: int = 10,
) -> Task:
    """Return the task of Synthetic(alpha, beta), whose clients are made on demand.

    Inputs are float32 of shape ``(n, dimension)``; targets are int64 classes of shape ``(n,)``.
    `partition.clients` is the number of clients, and no other key of that section plays a part.

    Args:
        alpha: Standard deviation over clients of the mean of W and b.
        beta: Standard deviation over clients of the mean of the inputs' centre.
        iid: Whether all clients draw from one distribution; alpha and beta then play no part.
        dimension: Of the inputs.
        classes: How many.

    Raises:
        ConfigError: A knob is out of range.
    """
    at_least(0, alpha=alpha, beta=beta)
    at_least(1, dimension=dimension)
    at_least(2, classes=classes)

    def population(clients: int, seed: int) -> GeneratedClients:
        shape = (dimension, classes)
        if iid:
            return GeneratedClients(size=clients, draw=partial(_same, seed, shape))
        return GeneratedClients(size=clients, draw=partial(_own, seed, shape, (alpha, beta)))

    return Task(
        name="synthetic", model=partial(logistic, dimension, classes), population=population
    )


def _own(seed: int, shape: tuple[int, int], spread: tuple[float, float], client: int) -> Examples:
    """Draw a client that has a distribution of its own."""
    rng = np.random.default_rng(derive(seed, "synthetic", client=client))
    mean_of_weights, mean_of_centre = spread * rng.standard_normal(2)
    weights, bias = _concept(rng, shape, mean_of_weights)
    centre = rng.normal(mean_of_centre, 1, shape[0])
    return _examples(rng, centre, weights, bias)


def _same(seed: int, shape: tuple[int, int], client: int) -> Examples:
    """Draw a client of the IID variant."""
    weights, bias = _concept(np.random.default_rng(derive(seed, "synthetic concept")), shape, 0.0)
    rng = np.random.default_rng(derive(seed, "synthetic", client=client))
    return _examples(rng, np.zeros(shape[0]), weights, bias)


def _concept(
    rng: np.random.Generator, shape: tuple[int, int], mean: float
) -> tuple[Floats, Floats]:
    """Draw the model behind the labels."""
    return rng.normal(mean, 1, shape), rng.normal(mean, 1, shape[1])


def _examples(rng: np.random.Generator, centre: Floats, weights: Floats, bias: Floats) -> Examples:
    inputs = gaussian(rng, SIZES.draw(rng), centre)
    return labelled(inputs, inputs @ weights + bias)


ABOUT = About(
    make=synthetic,
    summary="logistic regression whose truth differs by client: Synthetic(alpha, beta)",
    size="generated: 50 to 20,000 a client, half of them under 105; any number of clients",
    models={"logistic": 610},
    licence="none: generated",
    source="T. Li et al. 2020, arXiv:1812.06127",
    figure="FedAvg's test loss after 5 rounds in the paper's setting, mean of 5 seeds: iid 1.07, "
    "(0, 0) 1.41, (.5, .5) 1.44, (1, 1) 1.86; see benchmarks/fedprox_synthetic.py",
)
