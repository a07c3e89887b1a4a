"""FedAvg: the mean of what clients learned."""

from roundel.strategies.compose import Part, Strategy, compose
from roundel.strategies.server_optimizers import server_lr as scaled
from roundel.strategies.weighers import Weights, weigher


def fedavg(*, server_lr: float = 1.0, weights: Weights | None = None) -> Strategy:
    """Federated averaging: ``w += server_lr * sum(p_k delta_k)``, ``p_k = n_k / sum(n_j)``.

    The sum runs over the updates that arrived, and the weights are normalised over them.

    Args:
        server_lr: Server learning rate; 1 is the paper's.
        weights: ``"examples"`` or ``"uniform"``; None takes ``"examples"`` unless another part of
            the composition decides.

    Source:
        B. McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized
        Data", AISTATS 2017, Algorithm 1.
    """
    part = Part(name="fedavg", weigher=weigher(weights), server=scaled(server_lr))
    return compose(part, name="fedavg")
