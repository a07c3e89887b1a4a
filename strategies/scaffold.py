"""SCAFFOLD: control variates that cancel client drift."""

import torch
from torch import Tensor

from roundel.core.errors import CompositionError
from roundel.core.learning import LocalContext, Trained
from roundel.strategies.aggregators import Mean
from roundel.strategies.compose import IMPULSE, Part, Strategy, compose
from roundel.strategies.server_optimizers import server_lr as scaled
from roundel.strategies.sites import (
    Aggregate,
    Finished,
    RoundContext,
    ServerTransform,
    State,
    shared_only,
)
from roundel.strategies.weighers import EQUAL

CONTROL = "control"
_STATE = "scaffold.control"


def scaffold(*, server_lr: float = 1.0) -> Strategy:
    """Stochastic controlled averaging with option II control variates.

    Client k holds ``c_k`` and receives ``x`` and ``c``; all start at 0. With K local steps at
    learning rate ``lr`` that end in ``y``:

        g'   = g + c - c_k                         each step
        dc   = (x - y) / (K lr) - c                sent beside  y - x
        c_k += dc                                  once the round commits
        x   += server_lr * mean(y - x)             over the participants, equally weighted
        c   += m / N * mean(dc)                    m participants of N clients

    With momentum ``K lr`` becomes the optimizer's impulse, so that the quotient stays the average
    gradient.

    Args:
        server_lr: Server learning rate.

    Source:
        S. P. Karimireddy et al., "SCAFFOLD: Stochastic Controlled Averaging for Federated
        Learning", ICML 2020, Algorithm 1 and equations 3 to 5.
    """
    part = Part(
        name="scaffold",
        weigher=EQUAL,
        corrections=(_correct,),
        finishers=(_finish,),
        aggregators={CONTROL: Mean(weighted=False)},
        server=(*scaled(server_lr), _CONTROL_UPDATE),
        broadcast={CONTROL: lambda states: states["scaffold"][CONTROL]},
        needs={
            IMPULSE: "control variates are average gradients, which only SGD's displacement gives "
            "back; set client.optimizer = 'sgd' (momentum is fine), and let it move every tensor"
        },
    )
    return compose(part, name="scaffold")


def _control_of(context: LocalContext) -> Tensor:
    control = context.state.get(_STATE)
    return torch.zeros_like(context.received[CONTROL]) if control is None else control


def _correct(gradient: Tensor, _point: Tensor, context: LocalContext) -> Tensor:
    shift = context.received[CONTROL] - _control_of(context)
    return shared_only(context.spec, lambda g: g + shift, gradient)


def _finish(trained: Trained, context: LocalContext) -> Finished:
    where = context.spec.shared_trainable
    moved = context.sent[..., where] - trained.vector[..., where]
    if trained.impulse is None:
        raise CompositionError("SCAFFOLD's local training must end with a known impulse; use SGD")
    change = moved / trained.impulse - context.received[CONTROL]
    return Finished(channels={CONTROL: change}, state={_STATE: _control_of(context) + change})


def _init(params: Tensor) -> State:
    return {CONTROL: torch.zeros_like(params)}


def _update(
    aggregate: Aggregate, state: State, _params: Tensor, context: RoundContext
) -> tuple[Aggregate, State]:
    share = context.completed / context.population
    control = state[CONTROL] + share * aggregate[CONTROL]
    rest = {channel: value for channel, value in aggregate.items() if channel != CONTROL}
    return rest, {CONTROL: control}


_CONTROL_UPDATE = ServerTransform(name="scaffold", init=_init, update=_update)
