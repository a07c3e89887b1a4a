"""FedAvgM, FedAdagrad, FedAdam, FedYogi: FedAvg with an optimizer on the server."""

from torch import Tensor

from roundel.strategies.compose import Part, Strategy, compose
from roundel.strategies.fedavg import changed_mean
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
        momentum: beta, in [0, 1). The paper tries 0, 0.7, 0.9, 0.97, 0.99 and 0.997; 0 is FedAvg.
        nesterov: Whether to look ahead: step ``delta + beta v``. The paper's equation does not.
        server_lr: Server learning rate, above 0; 1 is the paper's.
        weights: As in `fedavg`.

    Needs:
        Nothing.

    Verified:
        The oracle case, cases drawn at random, Flower 1.41 (to 1e-12), and equality with FedAvg for
        beta = 0.

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

        m  = beta_1 m + (1 - beta_1) delta
        w += server_lr * m / (sqrt(v) + tau)

    Args:
        server_lr: Server learning rate, above 0. The paper tunes it; 0.1 is Flower's default.
        beta_1: Decay of the first moment, in [0, 1); 0 is the paper's for Adagrad.
        tau: Degree of adaptivity, above 0. The paper starts from 0.001 and tries 1e-5 to 0.1.
        v_init: Where v starts, at least 0; None for ``tau**2``, the least that the paper's
            algorithm allows. Its experiments and Flower have 0.
        weights: As in `fedavg`, by examples as in the paper's experiments; its algorithm has
            ``"uniform"``.

    Needs:
        Nothing.

    Verified:
        The oracle case, cases drawn at random, and Flower 1.41 with ``v_init = 0`` (to 1e-12).

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

        m  = beta_1 m + (1 - beta_1) delta
        w += server_lr * m / (sqrt(v) + tau)

    Args:
        server_lr: Server learning rate, above 0. The paper tunes it; 0.1 is Flower's default.
        beta_1: Decay of the first moment, in [0, 1); 0.9 is the paper's.
        beta_2: Decay of the second moment, in [0, 1); 0.99 is the paper's.
        tau: Degree of adaptivity, above 0. The paper starts from 0.001 and tries 1e-5 to 0.1.
        v_init: Where v starts, at least 0; None for ``tau**2``, the least that the paper's
            algorithm allows. Its experiments and Flower have 0.
        bias_correction: ``"none"`` is the paper's algorithm, ``"kingma"`` what its experiments ran;
            see `roundel.strategies.server_optimizers.adaptive` for all.
        weights: As in `fedavg`, by examples as in the paper's experiments; its algorithm has
            ``"uniform"``.

    Needs:
        Nothing.

    Verified:
        The oracle cases of four conventions, cases drawn at random, and Flower 1.41 with
        ``bias_correction = "flower"`` and ``v_init = 0`` (to 1e-12).

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

        m  = beta_1 m + (1 - beta_1) delta
        w += server_lr * m / (sqrt(v) + tau)

    Args:
        server_lr: Server learning rate, above 0. The paper tunes it; 0.1 is that of `fedadam`, and
            Flower's default is 0.01.
        beta_1: Decay of the first moment, in [0, 1); 0.9 is the paper's.
        beta_2: Decay of the second moment, in [0, 1); 0.99 is the paper's.
        tau: Degree of adaptivity, above 0. The paper starts from 0.001 and tries 1e-5 to 0.1.
        v_init: Where v starts, at least 0; None for ``tau**2``, the least that the paper's
            algorithm allows. Its experiments and Flower have 0.
        bias_correction: As in `fedadam`; ``"none"`` is the paper's algorithm.
        weights: As in `fedavg`, by examples as in the paper's experiments; its algorithm has
            ``"uniform"``.

    Needs:
        Nothing.

    Verified:
        The oracle case, cases drawn at random, and Flower 1.41 with ``v_init = 0`` (to 1e-12).

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
    part = Part(
        name=name,
        weigher=weigher(weights),
        server=(link, *scaled(server_lr, name)),
        refuses_after=changed_mean(),
    )
    return compose(part, name=name)
