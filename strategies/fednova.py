"""FedNova: updates are divided by how far their clients could have come."""

from typing import Literal, get_args

import torch
from torch import Tensor

from roundel.core.errors import CompositionError
from roundel.core.job import LocalContext, Trained
from roundel.core.messages import PARAMS
from roundel.strategies.aggregators import Mean
from roundel.strategies.compose import REACH, READS_MEAN, RESCALES, Part
from roundel.strategies.fedavg import changed_mean
from roundel.strategies.server_optimizers import one_of
from roundel.strategies.sites import (
    Aggregate,
    Finished,
    RoundContext,
    ServerTransform,
    State,
    stateless,
)
from roundel.strategies.weighers import Weights, weigher

EFFECTIVE = "fednova.effective"
EffectiveSteps = Literal["norms", "steps"]


def fednova(*, tau_eff: EffectiveSteps = "norms", weights: Weights | None = None) -> Part:
    """Normalised averaging: more local steps no longer pull the model towards their client.

    A client that takes tau_k steps ends at ``w - lr * sum_j a_j g_j``, where the vector ``a_k`` is
    that of its optimizer: ones for plain SGD, ``(1 - rho**(tau - j)) / (1 - rho)`` with momentum.

        d_k     = delta_k / (lr ||a_k||_1)        the average of its gradients, negative
        tau_eff = sum(p_k ||a_k||_1)              or  sum(p_k tau_k)
        w      += lr * tau_eff * sum(p_k d_k)

    The norm is found by running the client's optimizer on a gradient that is always 1: momentum,
    Nesterov's look-ahead, several phases and the pull of `prox` are accounted for. With an
    optimizer that rescales gradients (Adam) that is a normalisation and no theorem. Momentum
    starts anew in each round. The limit is the true optimum only to first order in the learning
    rate; see the closed form in the tests. Name this part before a server optimizer.

    Args:
        tau_eff: How far the server goes: ``"norms"`` by the mean of ``||a_k||_1``, as the authors'
            code does with SGD and momentum; ``"steps"`` by the mean number of steps, as it does
            with a proximal term. Steps count times their phase's learning rate, where that phase
            moves shared tensors. The two agree for plain SGD without a proximal term.
        weights: As in `fedavg`.

    Needs:
        A client optimizer that moves every shared tensor in the same way; one number more up.

    Verified:
        The oracle case, cases drawn at random with momentum and with a proximal term, the closed
        form of its limit on quadratics with unequal steps and curvatures, and equality with FedAvg
        for equal steps.

    Source:
        J. Wang et al., "Tackling the Objective Inconsistency Problem in Heterogeneous Federated
        Optimization", NeurIPS 2020, equations 5 to 7.
    """
    one_of("tau_eff", tau_eff, get_args(EffectiveSteps))

    def finish(trained: Trained, context: LocalContext) -> Finished:
        where = context.spec.shared_trainable
        delta = trained.vector[..., where] - context.sent[..., where]
        if trained.impulse is None:
            raise CompositionError("FedNova's local training must end with a known impulse")
        length = trained.impulse
        if tau_eff == "steps":
            rates = trained.lr_steps
            length = context.lr * sum(trained.steps) if rates is None else rates
        effective = torch.full_like(delta[..., :1], length)
        return Finished(channels={PARAMS: delta / trained.impulse, EFFECTIVE: effective})

    return Part(
        name="fednova",
        finishers=(finish,),
        weigher=weigher(weights),
        aggregators={EFFECTIVE: Mean()},
        channel_sizes={EFFECTIVE: 1},
        server=(_STRETCH,),
        provides=frozenset({RESCALES, READS_MEAN}),
        refuses_after=changed_mean(),
        needs={
            REACH: "updates are divided by how far the optimizer would have come; leave the solver "
            "out, or use one that says so"
        },
    )


def _update(
    aggregate: Aggregate, state: State, _params: Tensor, _context: RoundContext
) -> tuple[Aggregate, State]:
    rest = {channel: value for channel, value in aggregate.items() if channel != EFFECTIVE}
    return {**rest, PARAMS: aggregate[EFFECTIVE] * aggregate[PARAMS]}, state


_STRETCH = ServerTransform(name="fednova", init=stateless, update=_update)
