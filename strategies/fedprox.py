"""FedProx: FedAvg with a pull towards the model that was received."""

from torch import Tensor

from roundel.core.learning import LocalContext
from roundel.strategies.compose import Part, Strategy, compose
from roundel.strategies.fedavg import fedavg
from roundel.strategies.server_optimizers import not_negative
from roundel.strategies.sites import shared_only
from roundel.strategies.weighers import Weights


def prox(mu: float) -> Part:
    """Pull local training towards the received parameters: ``g' = g + mu (x - x_sent)``.

    The gradient of ``mu / 2 * ||x - x_sent||**2``, over shared trainable parameters: personal
    layers were never received.
    """
    not_negative("mu", mu)

    def correction(gradient: Tensor, point: Tensor, context: LocalContext) -> Tensor:
        away = point - context.sent_trainable
        return shared_only(context.spec, lambda g: g + mu * away[..., : g.shape[-1]], gradient)

    return Part(name=f"prox(mu={mu:g})", corrections=(correction,), pull=mu)


def fedprox(
    *, mu: float = 0.01, server_lr: float = 1.0, weights: Weights | None = None
) -> Strategy:
    """FedAvg whose clients minimise ``F_k(x) + mu / 2 * ||x - x_sent||**2``.

    Args:
        mu: Strength of the pull; the paper tries 0.001 to 1, and 0 is FedAvg.
        server_lr: Server learning rate.
        weights: As in `fedavg`.

    Source:
        T. Li et al., "Federated Optimization in Heterogeneous Networks", MLSys 2020, Algorithm 2.
    """
    return compose(fedavg(server_lr=server_lr, weights=weights), prox(mu), name="fedprox")
