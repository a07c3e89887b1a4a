"""One learner with everybody's examples: what federated learning would like to equal."""

from dataclasses import replace
from functools import cache

from roundel.core.data import Examples
from roundel.core.errors import RunFailed
from roundel.core.job import LocalContext, LocalJob, Phase, Trained
from roundel.core.metrics import Metrics
from roundel.core.seeds import isolated_rng
from roundel.core.usercode import user_code
from roundel.server.aggregation import ServerState
from roundel.simulations.topologies.peers import Advance, Ground, Topology, union


def centralised(ground: Ground) -> Topology:
    """Train one model on the training examples of all clients together.

    A round takes as many steps as the cohort of that round takes in a federation, all its clients
    together, so that rounds compare at equal gradient work: with ``client.steps = 1`` and ten
    clients a round, ten steps. Batches have ``client.batch_size`` examples, drawn without
    replacement epoch by epoch; each round shuffles anew and starts a new optimizer, as a client
    does. Nothing is sent.

    Args:
        ground: What there is.
    """

    @cache
    def everything() -> Examples:
        return union(ground.population)

    def advance(state: ServerState) -> Advance:
        number = state.round + 1
        steps = ground.steps(ground.cohort(state), number)
        phase = replace(ground.phase(number), epochs=None, steps=steps)
        trained = train_on(ground, state, everything(), phase)
        return Advance(
            model=(trained.vector, trained.integers),
            training=trained.metrics,
            asked=1,
            completed=1,
            figures={"steps": sum(trained.steps)},
        )

    return Topology(advance=advance)


def train_on(
    ground: Ground, state: ServerState, examples: Examples, phase: Phase, learner_id: int = 0
) -> Trained:
    """Train the model on examples that belong to no client.

    Args:
        ground: What there is.
        state: Before the round.
        examples: What to train on.
        phase: How.
        learner_id: Decides the order of batches, with the seed and the round.

    Raises:
        RunFailed: The user's code failed.
    """
    number, learner = state.round + 1, ground.server.learner
    job = LocalJob(
        context=LocalContext(spec=learner.spec, sent=state.params, lr=phase.optimizer.lr),
        integers=state.integers,
        examples=examples,
        phases=[phase],
        wants_impulse=False,
        seed=ground.seed("batches", number, learner_id),
    )
    what = f"training in round {number}"
    with isolated_rng(ground.seed("training", number, learner_id)), user_code(what, RunFailed):
        if phase.steps == 0:
            return Trained(
                vector=state.params, integers=state.integers, metrics=Metrics(), steps=(0,)
            )
        return learner.train(job)
