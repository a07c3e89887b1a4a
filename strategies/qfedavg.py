"""q-FedAvg: clients with a larger loss count for more."""

import torch
from torch import Tensor

from roundel.core.errors import CompositionError
from roundel.core.job import LocalContext, Trained
from roundel.core.messages import PARAMS
from roundel.strategies.aggregators import Mean
from roundel.strategies.compose import LOSS, READS_MEAN, RESCALES, Part
from roundel.strategies.server_optimizers import not_negative, positive
from roundel.strategies.sites import (
    Aggregate,
    Finished,
    RoundContext,
    ServerTransform,
    State,
)
from roundel.strategies.weighers import EQUAL

CURVATURE = "qfedavg.curvature"
BEFORE = "qfedavg.loss"
REFERENCE = "qfedavg.reference"


def qfedavg(*, q: float = 0.1, lipschitz: float | None = None, loss_offset: float = 1e-10) -> Part:
    """Minimise ``sum F_k**(q + 1) / (q + 1)``, which evens out the clients' losses.

    With ``F_k`` the loss of what client k received, *before* it trains:

        h_k = F_k**q + q F_k**(q - 1) L ||delta_k||**2
        w  += sum(F_k**q delta_k) / sum(h_k)

    The paper's ``Delta_k`` and ``h_k`` are L times these; the quotient is the same. All clients
    weigh the same: the paper samples them in proportion to their examples instead. With q = 0 this
    is the uniform mean.

    So that powers stay in the range of numbers, clients take them of ``F_k / r``, which divides
    both sums by ``r**q``: r is the mean loss of the last round in which anybody answered, 1 at
    first. What is sent is accurate as long as ``(F_k / r)**q`` stays well above 1e-15; a client for
    which it times its update exceeds what the gate lets through is refused. That needs a very large
    q, or in the first round a loss far from 1: scale the loss, or lower q.

    Args:
        q: How much fairness counts, at least 0; the paper tries 0 to 15. 0.1 is Flower's default.
        lipschitz: L, above 0: the inverse of a step size that suits q = 0; None for the paper's
            choice, 1 / the client's learning rate.
        loss_offset: Added to each loss, at least 0, so that a loss of 0 has a power: 1e-10 in the
            authors' code and in Flower; 0 is the formula of the paper.

    Needs:
        One more pass over a client's training examples, forward only, before it trains; two
        numbers more up and one more down. Losses must not be negative.

    Verified:
        The oracle cases, cases drawn at random, Flower 1.41 (to 1e-12), numbers by hand, and
        equality with the uniform mean for q = 0.

    Source:
        T. Li et al., "Fair Resource Allocation in Federated Learning", ICLR 2020, Algorithm 2.
    """
    not_negative("q", q)
    not_negative("loss_offset", loss_offset)
    if lipschitz is not None:
        positive("lipschitz", lipschitz)

    def finish(trained: Trained, context: LocalContext) -> Finished:
        where = context.spec.shared_trainable
        delta = trained.vector[..., where] - context.sent[..., where]
        if trained.loss_before is None:
            raise CompositionError("q-FedAvg's local training must end with the loss before it")
        loss = trained.loss_before.unsqueeze(-1) + loss_offset
        reference = context.received.get(REFERENCE, torch.ones_like(loss[..., :1]))
        relative = loss / reference
        power = relative**q
        curvature = power
        if q > 0:
            squared = delta.square().sum(dim=-1, keepdim=True)
            steepness = 1 / context.lr if lipschitz is None else lipschitz
            curvature = power + q * relative ** (q - 1) / reference * steepness * squared
        return Finished(channels={PARAMS: power * delta, CURVATURE: curvature, BEFORE: loss})

    return Part(
        name=f"qfedavg(q={q:g})",
        measures=frozenset({LOSS}),
        finishers=(finish,),
        weigher=EQUAL,
        aggregators={CURVATURE: Mean(), BEFORE: Mean()},
        channel_sizes={CURVATURE: 1, BEFORE: 1},
        server=(_DIVIDE,),
        broadcast={REFERENCE: lambda states: states["qfedavg"]["reference"]},
        provides=frozenset({RESCALES, READS_MEAN}),
        refuses={
            RESCALES: "each decides how long a client's update is; leave one of them out",
            "set": "its step is a ratio of two sums over clients; use an aggregator of sums",
        },
    )


def _init(params: Tensor) -> State:
    return {"reference": params.new_ones(1)}


def _update(
    aggregate: Aggregate, state: State, _params: Tensor, _context: RoundContext
) -> tuple[Aggregate, State]:
    own = {CURVATURE, BEFORE}
    rest = {channel: value for channel, value in aggregate.items() if channel not in own}
    curvature, loss = aggregate[CURVATURE], aggregate[BEFORE]
    # Nobody came, or nobody has any loss: then nobody asks for a step either.
    safe = curvature.where(curvature > 0, 1.0)
    reference = loss.where(loss > 0, state["reference"])
    return {**rest, PARAMS: aggregate[PARAMS] / safe}, {"reference": reference}


_DIVIDE = ServerTransform(name="qfedavg", init=_init, update=_update)
