"""FedAvgM, FedAdagrad, FedAdam, FedYogi: FedAvg with an optimizer on the server."""

from torch import Tensor

from roundel.strategies.compose import Part, Strategy, compose
from roundel.strategies.server_optimizers import BiasCorrection, adaptive, heavy_ball
from roundel.strategies.server_optimizers import server_lr as scaled
from roundel.strategies.sites import ServerTransform
from roundel.strategies.weighers import Weights, weigher


def fedavgm(
    *,
    momentum: float = 0.9,
    nesterov: bool = False,
    server_lr: float = 1.0,
    weights: Weights | None = None,
) -> Strategy:
    """FedAvg with server momentum: ``v = beta v + delta``, ``w += server_lr v``.

    The effective step is ``server_lr / (1 - beta)``: tune the two together.

    Args:
        momentum: beta; the paper tries 0 to 0.997, and 0 is FedAvg.
        nesterov: Whether to look ahead.
        server_lr: Server learning rate.
        weights: As in `fedavg`.

    Source:
        T.-M. H. Hsu et al., "Measuring the Effects of Non-Identical Data Distribution for
        Federated Visual Classification", 2019, section 4.
    """
    return _with_server("fedavgm", heavy_ball(momentum, nesterov=nesterov), server_lr, weights)


def fedadagrad(
    *,
    server_lr: float = 0.1,
    beta_1: float = 0.0,
    tau: float = 1e-3,
    v_init: float | None = None,
    weights: Weights | None = None,
) -> Strategy:
    """FedAvg with Adagrad on the server: ``v = v + delta**2``.

    Args:
        server_lr: Server learning rate.
        beta_1: Decay of the first moment.
        tau: Degree of adaptivity.
        v_init: Where v starts; None for the paper's ``tau**2``.
        weights: As in `fedavg`.

    Source:
        S. Reddi et al., "Adaptive Federated Optimization", ICLR 2021, Algorithm 2.
    """

    def second_moment(v: Tensor, squared: Tensor) -> Tensor:
        return v + squared

    link = adaptive("adagrad", second_moment, beta_1=beta_1, beta_2=0.0, tau=tau, v_init=v_init)
    return _with_server("fedadagrad", link, server_lr, weights)


def fedadam(
    *,
    server_lr: float = 0.1,
    beta_1: float = 0.9,
    beta_2: float = 0.99,
    tau: float = 1e-3,
    v_init: float | None = None,
    bias_correction: BiasCorrection = "none",
    weights: Weights | None = None,
) -> Strategy:
    """FedAvg with Adam on the server: ``v = beta_2 v + (1 - beta_2) delta**2``.

    Args:
        server_lr: Server learning rate.
        beta_1: Decay of the first moment.
        beta_2: Decay of the second moment.
        tau: Degree of adaptivity.
        v_init: Where v starts; None for the paper's ``tau**2``.
        bias_correction: See `roundel.strategies.server_optimizers.adaptive`; the paper's
            algorithm has none.
        weights: As in `fedavg`.

    Source:
        S. Reddi et al., "Adaptive Federated Optimization", ICLR 2021, Algorithm 2.
    """

    def second_moment(v: Tensor, squared: Tensor) -> Tensor:
        return beta_2 * v + (1 - beta_2) * squared

    link = adaptive(
        "adam",
        second_moment,
        beta_1=beta_1,
        beta_2=beta_2,
        tau=tau,
        v_init=v_init,
        bias_correction=bias_correction,
    )
    return _with_server("fedadam", link, server_lr, weights)


def fedyogi(
    *,
    server_lr: float = 0.1,
    beta_1: float = 0.9,
    beta_2: float = 0.99,
    tau: float = 1e-3,
    v_init: float | None = None,
    bias_correction: BiasCorrection = "none",
    weights: Weights | None = None,
) -> Strategy:
    """FedAvg with Yogi on the server: ``v = v - (1 - beta_2) delta**2 sign(v - delta**2)``.

    Args:
        server_lr: Server learning rate.
        beta_1: Decay of the first moment.
        beta_2: Decay of the second moment.
        tau: Degree of adaptivity.
        v_init: Where v starts; None for the paper's ``tau**2``.
        bias_correction: As in `fedadam`.
        weights: As in `fedavg`.

    Source:
        S. Reddi et al., "Adaptive Federated Optimization", ICLR 2021, Algorithm 2.
    """

    def second_moment(v: Tensor, squared: Tensor) -> Tensor:
        return v - (1 - beta_2) * squared * (v - squared).sign()

    link = adaptive(
        "yogi",
        second_moment,
        beta_1=beta_1,
        beta_2=beta_2,
        tau=tau,
        v_init=v_init,
        bias_correction=bias_correction,
    )
    return _with_server("fedyogi", link, server_lr, weights)


def _with_server(
    name: str, link: ServerTransform, server_lr: float, weights: Weights | None
) -> Strategy:
    part = Part(name=name, weigher=weigher(weights), server=(link, *scaled(server_lr)))
    return compose(part, name=name)
