"""FedProx: FedAvg with a pull towards the model that was received."""

from torch import Tensor

from roundel.core.job import Correction, LocalContext
from roundel.strategies.compose import Part, Strategy, compose
from roundel.strategies.fedavg import fedavg
from roundel.strategies.server_optimizers import not_negative
from roundel.strategies.sites import shared_only
from roundel.strategies.weighers import Weights


def prox(mu: float = 0.01) -> Part:
    """Pull local training towards the received parameters: ``g' = g + mu (x - x_sent)``.

    The gradient of ``mu / 2 * ||x - x_sent||**2``, over shared trainable parameters: personal
    layers were never received. The pull is part of the gradient, so local momentum accumulates it.

    Args:
        mu: Strength of the pull, at least 0. The paper tries 0.001 to 1 and names no default; ours
            is weak enough to do little harm where it does not help.

    Needs:
        Nothing.

    Verified:
        As `fedprox`.

    Source:
        T. Li et al., "Federated Optimization in Heterogeneous Networks", MLSys 2020, Algorithm 2.
    """
    not_negative("mu", mu)

    def correction(gradient: Tensor, point: Tensor, context: LocalContext) -> Tensor:
        return pull_to(mu, context.sent_trainable)(gradient, point, context)

    return Part(name=f"prox(mu={mu:g})", corrections=(correction,), pull=mu)


def pull_to(lam: float, target: Tensor) -> Correction:
    """Return the correction ``g' = g + lam (x - target)`` over shared parameters.

    Args:
        lam: Strength of the pull.
        target: Shape ``(..., T)``.
    """

    def correction(gradient: Tensor, point: Tensor, context: LocalContext) -> Tensor:
        away = point - target
        return shared_only(context.spec, lambda g: g + lam * away[..., : g.shape[-1]], gradient)

    return correction


def fedprox(
    *, mu: float = 0.01, server_lr: float = 1.0, weights: Weights | None = None
) -> Strategy:
    """FedAvg whose clients minimise ``F_k(x) + mu / 2 * ||x - x_sent||**2``.

    The server is that of FedAvg: weights by examples, as in the authors' code. The paper samples
    clients in proportion to their examples and weighs them the same.

    Args:
        mu: Strength of the pull, at least 0. The paper tries 0.001 to 1 and names no default; 0 is
            FedAvg.
        server_lr: Server learning rate, above 0; 1 is the paper's.
        weights: As in `fedavg`.

    Needs:
        Nothing.

    Verified:
        The oracle case with its exact minimisers, cases drawn at random, the closed form of its
        limit on quadratics with unequal steps and curvatures, and equality with FedAvg for mu = 0.

    Source:
        T. Li et al., "Federated Optimization in Heterogeneous Networks", MLSys 2020, Algorithm 2.
    """
    return compose(fedavg(server_lr=server_lr, weights=weights), prox(mu=mu), name="fedprox")
