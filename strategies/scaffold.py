"""SCAFFOLD: control variates that cancel client drift."""

from collections.abc import Mapping
from typing import Literal, get_args

import torch
from torch import Tensor

from roundel.core.errors import CompositionError
from roundel.core.job import LocalContext, Trained
from roundel.strategies.aggregators import Mean
from roundel.strategies.compose import GRADIENT, IMPULSE, Part, Strategy, compose
from roundel.strategies.fedavg import changed_mean
from roundel.strategies.server_optimizers import one_of
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
Option = Literal["I", "II"]
_STATE = "scaffold.control"


def scaffold(*, option: Option = "II", server_lr: float = 1.0) -> Strategy:
    """Stochastic controlled averaging: control variates take the client drift out of gradients.

    Client k holds ``c_k`` and receives ``x`` and ``c``; all start at 0. With K local steps at
    learning rate ``lr`` that end in ``y``:

        g'   = g + c - c_k                         each step
        new  = g_k(x)                              option I
        new  = c_k - c + (x - y) / (K lr)          option II
        dc   = new - c_k                           sent beside  y - x
        c_k += dc                                  once the round commits
        x   += server_lr * mean(y - x)             over the participants, equally weighted
        c   += m / N * mean(dc)                    m participants of N clients

    Codecs that lose something change dc on its way. The client adds to c_k what the server will
    make of dc, so that c stays the mean of all c_k, and what was left out is in the next dc. A
    clipped ``y - x`` still pulls away from the optimum in rounds in which the bound is active.

    With momentum ``K lr`` becomes the optimizer's impulse, so that the quotient stays the average
    gradient. ``g_k(x)`` is the gradient on all of a client's training examples, in evaluation mode.

    Args:
        option: How control variates are renewed: ``"I"`` costs a pass over the data and suits any
            optimizer; ``"II"``, the paper's choice in its experiments, uses what training did.
        server_lr: Server learning rate, above 0; 1 in the paper's experiments.

    Needs:
        State at the client as large as the shared trainable parameters; twice the bytes up and
        down; with option I one more pass, forward and backward, over the training examples; with
        option II a client optimizer that is SGD.

    Verified:
        The oracle cases, cases drawn at random for both options, numbers by hand, and the true
        optimum of quadratics with unequal steps and curvatures, also with half of the clients in
        each round and with local momentum.

    Source:
        S. P. Karimireddy et al., "SCAFFOLD: Stochastic Controlled Averaging for Federated
        Learning", ICML 2020, Algorithm 1 and equations 3 to 5.
    """
    one_of("option", option, get_args(Option))
    first = option == "I"
    part = Part(
        name="scaffold",
        weigher=EQUAL,
        corrections=(_correct,),
        measures=frozenset({GRADIENT}) if first else frozenset(),
        finishers=(_gradient_of_received if first else _average_gradient,),
        settlers=(_keep,),
        innovations=frozenset({CONTROL}),
        aggregators={CONTROL: Mean(weighted=False)},
        server=(*scaled(server_lr, "scaffold"), _CONTROL_UPDATE),
        broadcast={CONTROL: lambda states: states["scaffold"][CONTROL]},
        needs={} if first else {IMPULSE: _SGD},
        refuses_after=changed_mean(server_lr),
    )
    return compose(part, name="scaffold")


_SGD = (
    "control variates are average gradients, which only SGD's displacement gives back; set "
    "client.optimizer = 'sgd' (momentum is fine), and let it move every tensor"
)


def _control_of(context: LocalContext) -> Tensor:
    control = context.state.get(_STATE)
    return torch.zeros_like(context.received[CONTROL]) if control is None else control


def _correct(gradient: Tensor, _point: Tensor, context: LocalContext) -> Tensor:
    shift = context.received[CONTROL] - _control_of(context)
    return shared_only(context.spec, lambda g: g + shift, gradient)


def _gradient_of_received(trained: Trained, context: LocalContext) -> Finished:
    if trained.gradient_before is None:
        raise CompositionError("SCAFFOLD's option I needs the gradient before local training")
    where = context.spec.shared_trainable
    renewed = trained.gradient_before[..., : where.stop - where.start]
    return Finished(channels={CONTROL: renewed - _control_of(context)})


def _average_gradient(trained: Trained, context: LocalContext) -> Finished:
    where = context.spec.shared_trainable
    moved = context.sent[..., where] - trained.vector[..., where]
    if trained.impulse is None:
        raise CompositionError("SCAFFOLD's local training must end with a known impulse; use SGD")
    change = moved / trained.impulse - context.received[CONTROL]
    return Finished(channels={CONTROL: change})


def _keep(channels: Mapping[str, Tensor], context: LocalContext) -> State:
    return {_STATE: _control_of(context) + channels[CONTROL]}


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
