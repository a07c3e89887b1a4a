"""FedDyn: each client's loss is tilted until all clients agree on the optimum."""

from collections.abc import Mapping
from typing import Literal, get_args

import torch
from torch import Tensor

from roundel.core.job import LocalContext
from roundel.core.messages import PARAMS
from roundel.strategies.compose import READS_MEAN, RESCALES, Part
from roundel.strategies.fedavg import changed_mean
from roundel.strategies.server_optimizers import one_of, positive
from roundel.strategies.sites import (
    Aggregate,
    RoundContext,
    ServerTransform,
    State,
    shared_only,
)
from roundel.strategies.weighers import EQUAL

_STATE = "feddyn.gradient"
Reports = Literal["cloud", "mean"]


def feddyn(*, alpha: float = 0.01, reports: Reports = "cloud") -> Part:
    """Dynamic regularisation, after which local and global optima coincide.

    Client k keeps ``h_k``, the server ``h``; all start at 0. From ``w`` the client trains on

        F_k(x) - <h_k, x> + alpha / 2 ||x - w||**2        to  w_k
        h_k -= alpha (w_k - w)                            once the round commits
        h   -= alpha / N * sum(w_k - w)                   over the m participants of N clients
        w    = mean(w_k) - h / alpha

    The mean is over the participants, equally weighted; where nobody answers nothing moves. The
    ``w_k - w`` of h_k is what codecs leave of it, which is what the server adds up: h stays the
    mean of all h_k. A clipped one still pulls the limit away from the optimum in rounds in which
    the bound is active. Local work should come near the minimum;
    if it diverges, limit the gradient's norm (``client.clip_norm``; the authors use 10).

    Args:
        alpha: Strength of the pull, above 0. The paper tries 0.001 to 0.1; 0.01 is what the
            authors' code takes for CIFAR-10. A small one makes ``h / alpha`` large.
        reports: What is evaluated and saved: the ``"cloud"`` model w, which is what clients are
            sent, or the ``"mean"`` of the last participants, which the authors evaluate and which
            the server then keeps.

    Needs:
        State at the client as large as the shared trainable parameters; nothing more up or down.

    Verified:
        Cases drawn at random against its equations, numbers by hand, and the true optimum of
        quadratics with unequal steps and curvatures, also with half of the clients in each round.

    Source:
        D. A. E. Acar et al., "Federated Learning Based on Dynamic Regularization", ICLR 2021,
        Algorithm 1.
    """
    positive("alpha", alpha)
    one_of("reports", reports, get_args(Reports))

    def correct(gradient: Tensor, point: Tensor, context: LocalContext) -> Tensor:
        tilt = alpha * (point - context.sent_trainable)[..., : _shared(context)] - _kept(context)
        return shared_only(context.spec, lambda g: g + tilt, gradient)

    def settle(channels: Mapping[str, Tensor], context: LocalContext) -> State:
        return {_STATE: _kept(context) - alpha * channels[PARAMS]}

    def init(params: Tensor) -> State:
        mean = {"mean": params.clone()} if reports == "mean" else {}
        return {"h": torch.zeros_like(params), **mean}

    def update(
        aggregate: Aggregate, state: State, params: Tensor, context: RoundContext
    ) -> tuple[Aggregate, State]:
        mean = aggregate[PARAMS]
        if not context.completed:
            return {**aggregate, PARAMS: torch.zeros_like(mean)}, state
        h = state["h"] - alpha * (context.completed / context.population) * mean
        after = {"h": h, "mean": params + mean} if reports == "mean" else {"h": h}
        return {**aggregate, PARAMS: mean - h / alpha}, after

    return Part(
        name=f"feddyn(alpha={alpha:g})",
        weigher=EQUAL,
        corrections=(correct,),
        pull=alpha,
        settlers=(settle,),
        server=(ServerTransform(name="feddyn", init=init, update=update),),
        report=_participants_mean if reports == "mean" else None,
        provides=frozenset({READS_MEAN}),
        refuses_after=changed_mean(),
        refuses={
            RESCALES: "the server's h adds up how far clients have moved, which they no longer "
            "send; leave one of them out"
        },
    )


def _shared(context: LocalContext) -> int:
    where = context.spec.shared_trainable
    shared: int = where.stop - where.start
    return shared


def _kept(context: LocalContext) -> Tensor:
    kept = context.state.get(_STATE)
    if kept is None:
        return torch.zeros_like(context.sent[..., context.spec.shared_trainable])
    return kept


def _participants_mean(states: Mapping[str, State], _params: Tensor) -> Tensor:
    return states["feddyn"]["mean"]
