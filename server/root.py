"""Training at the server, on root examples, for strategies that compare clients with it."""

from collections.abc import Mapping

from torch import Tensor

from roundel.core.data import Examples
from roundel.core.job import LocalContext, LocalJob
from roundel.core.learning import Learner
from roundel.core.messages import PARAMS
from roundel.core.seeds import derive, isolated_rng
from roundel.server.aggregation import ServerState, broadcast_channels
from roundel.strategies.plan import Plan


def root_update(
    plan: Plan, learner: Learner, state: ServerState, examples: Examples
) -> Mapping[str, Tensor]:
    """Train on root examples as a client would in the next round; return the delta, by channel.

    Args:
        plan: The experiment.
        learner: The model; personal layers are as a new client has them.
        state: Before the round.
        examples: The root examples.
    """
    number, spec = state.round + 1, learner.spec
    sent, integers = learner.completed(state.params, state.integers)
    phases = plan.phases(number)
    seed = plan.experiment.seed_for("training")
    job = LocalJob(
        context=LocalContext(
            spec=spec,
            sent=sent,
            received=broadcast_channels(plan.strategy, state),
            lr=phases[0].optimizer.lr,
        ),
        integers=integers,
        examples=examples,
        phases=phases,
        seed=derive(seed, "root batches", number),
    )
    with isolated_rng(derive(seed, "root training", number)):
        trained = learner.train(job)
    where = spec.shared_trainable
    return {PARAMS: trained.vector[where] - sent[where]}
