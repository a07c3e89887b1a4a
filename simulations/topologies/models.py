"""The models of single clients, kept as their client state."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from roundel.core.clientstate import ClientState
from roundel.core.exact import ExactSum
from roundel.simulations.topologies.peers import Ground, Model, Worked

_MODEL = "own model"
_INTEGERS = "own integers"


def model_of(ground: Ground, client_id: int) -> Model:
    """Return a client's own model: the initial one until it has another."""
    state, learner = ground.store.get(client_id), ground.server.learner
    if _MODEL in state:
        return state[_MODEL], state[_INTEGERS]
    return learner.initial, learner.initial_integers


def keep(ground: Ground, models: Mapping[int, Model], worked: Sequence[Worked]) -> None:
    """Make models the clients' own, together with what else they want kept."""
    states: dict[int, ClientState] = {each.record.client: each.state for each in worked}
    for client_id, (params, integers) in models.items():
        state = states.get(client_id, ground.store.get(client_id))
        ground.store.stage(client_id, {**state, _MODEL: params, _INTEGERS: integers})
    ground.store.commit(models)


def mean_model(ground: Ground) -> Model:
    """Return the mean of all clients' models, each counted once; counters take their maximum.

    Clients that never trained have the initial model, so that the cost follows the others.
    """
    learner, population = ground.server.learner, ground.population.size
    total, largest = ExactSum.zero(learner.initial.numel()), learner.initial_integers
    for client_id in sorted(ground.store.committed):
        params, integers = model_of(ground, client_id)
        total.add_(params.double() - learner.initial.double())
        largest = torch.maximum(largest, integers)
    shift: Tensor = total.total(population)
    return (learner.initial.double() + shift).to(learner.initial.dtype), largest
