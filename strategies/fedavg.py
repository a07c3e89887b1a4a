"""FedAvg: the mean of what clients learned."""

from collections.abc import Mapping

from roundel.strategies.compose import READS_MEAN, Part, Strategy, compose
from roundel.strategies.server_optimizers import server_lr as scaled
from roundel.strategies.weighers import Weights, weigher


def fedavg(*, server_lr: float = 1.0, weights: Weights | None = None) -> Strategy:
    """Federated averaging: ``w += server_lr * sum(p_k delta_k)``, ``p_k = n_k / sum(n_j)``.

    The sum runs over the updates that arrived, and the weights are normalised over them.

    Args:
        server_lr: Server learning rate, above 0; 1 is the paper's.
        weights: ``"examples"``, as in the paper, or ``"uniform"``; None takes ``"examples"`` unless
            another part of the composition decides.

    Needs:
        Nothing.

    Verified:
        The oracle cases, cases drawn at random, Flower 1.41 (to 1e-12), the closed form of its
        limit on quadratics with unequal steps and curvatures, and centralised SGD where one client
        holds everything (to one ulp a round).

    Source:
        B. McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized
        Data", AISTATS 2017, Algorithm 1.
    """
    part = Part(
        name="fedavg",
        weigher=weigher(weights),
        server=scaled(server_lr, "fedavg"),
        refuses_after=changed_mean(server_lr),
    )
    return compose(part, name="fedavg")


def changed_mean(server_lr: float | None = None) -> Mapping[str, str]:
    """Return what a part whose links change the clients' mean refuses after itself.

    Args:
        server_lr: All that changes it, where that is a server learning rate; nothing does if it
            is 1.
    """
    if server_lr == 1.0:
        return {}
    return {READS_MEAN: "it reads the mean of the updates, which is changed by then; name it first"}
