"""The mathematics of federated learning, without any IO.

>>> from roundel.strategies import compose, fedavg, prox
>>> compose(fedavg(), prox(mu=0.1)).name
'fedavg+prox(mu=0.1)'
"""

from roundel.strategies.compose import Part, Strategy, compose
from roundel.strategies.fedavg import fedavg
from roundel.strategies.fedopt import fedadagrad, fedadam, fedavgm, fedyogi
from roundel.strategies.fedprox import fedprox, prox
from roundel.strategies.registry import STRATEGIES, make_strategy
from roundel.strategies.scaffold import scaffold

__all__ = [
    "STRATEGIES",
    "Part",
    "Strategy",
    "compose",
    "fedadagrad",
    "fedadam",
    "fedavg",
    "fedavgm",
    "fedprox",
    "fedyogi",
    "make_strategy",
    "prox",
    "scaffold",
]
