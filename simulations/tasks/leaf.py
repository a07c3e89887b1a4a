"""The synthetic data of LEAF: clients that share a truth up to a factor, with inputs of their own.

S. Caldas et al., "LEAF: A Benchmark for Federated Settings" (2018, arXiv:1812.01097), with the
constants of its published code. The federation draws, for p clusters of clients,

    Q   ~ N(0, 1)                 (d + 1) x classes x p
    m_c ~ N(N(0, 1), 1)           the centre of cluster c: p numbers

and a client in cluster c

    n = min(5 + floor(LogNormal(3, 2)), 1000)
    w = Q t,     t ~ N(m_c, 0.1)             the model behind its labels: (d + 1) x classes
    v ~ N(B, 1), B ~ N(0, 1)                 the centre of its inputs
    x ~ N(v, S), S = diag(j ** -1.2)
    y = argmax((1, x) w + e), e ~ N(0, 0.1)

where second arguments are standard deviations. It trains on 90 % of its examples. The numbers come
from Roundel's own seeds: the recipe is LEAF's, the draw is not.
"""

from dataclasses import dataclass
from functools import cached_property, partial

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

SIZES = Sizes(mean=3, sigma=2, least=5, most=1_000)


def leaf(*, clusters: int = 1, dimension: int = 60, classes: int = 5) -> Task:
    """Return the task of LEAF's synthetic data, whose clients are made on demand.

    Inputs are float32 of shape ``(n, dimension)``; targets are int64 classes of shape ``(n,)``.
    `partition.clients` is the number of clients (LEAF has 1,000), and no other key of that section
    plays a part.

    Args:
        clusters: How many groups of clients with a similar truth there are.
        dimension: Of the inputs.
        classes: How many.

    Raises:
        ConfigError: A knob is out of range.
    """
    at_least(1, clusters=clusters, dimension=dimension)
    at_least(2, classes=classes)

    def population(clients: int, seed: int) -> GeneratedClients:
        federation = _Federation(seed=seed, clusters=clusters, dimension=dimension, classes=classes)
        return GeneratedClients(size=clients, draw=federation.draw)

    return Task(
        name="leaf-synthetic", model=partial(logistic, dimension, classes), population=population
    )


@dataclass(frozen=True, kw_only=True)
class _Federation:
    seed: int
    clusters: int
    dimension: int
    classes: int

    @cached_property
    def shared(self) -> tuple[Floats, Floats]:
        """Q of shape ``(d + 1, classes, p)``, and the centres of the clusters, ``(p, p)``."""
        rng = np.random.default_rng(derive(self.seed, "leaf concept"))
        concept = rng.standard_normal((self.dimension + 1, self.classes, self.clusters))
        means = rng.standard_normal((self.clusters, 1))
        return concept, rng.normal(means, 1, (self.clusters, self.clusters))

    def draw(self, client: int) -> Examples:
        """Draw all examples of one client."""
        rng = np.random.default_rng(derive(self.seed, "leaf", client=client))
        concept, centres = self.shared
        weights = concept @ rng.normal(centres[rng.integers(self.clusters)], 0.1)
        centre = rng.normal(rng.standard_normal(), 1, self.dimension)
        inputs = gaussian(rng, SIZES.draw(rng), centre)
        noise = rng.normal(0, 0.1, (len(inputs), self.classes))
        return labelled(inputs, weights[0] + inputs @ weights[1:] + noise)


ABOUT = About(
    make=leaf,
    summary="logistic regression with one truth and many clients of skewed sizes and labels",
    size="generated: 5 to 1,000 a client, half of them under 26; any number of clients",
    models={"logistic": 305},
    licence="none: generated",
    source="S. Caldas et al. 2018, arXiv:1812.01097",
    figure="accuracy 0.71 to 0.74 after 20 rounds with client.epochs = 1 and client.lr = 0.05 "
    "(seeds 0 to 2; the commonest class is 0.28 to 0.39)",
)
