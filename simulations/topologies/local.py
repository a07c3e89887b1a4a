"""Every client alone: the baseline that says whether it pays to learn together."""

from roundel.core.data import Examples
from roundel.core.metrics import Metrics, merge
from roundel.core.seeds import derive, sample
from roundel.server.aggregation import ServerState
from roundel.simulations.topologies.models import keep, mean_model, model_of
from roundel.simulations.topologies.peers import Advance, Ground, Model, Topology, summed, work

_JUDGED = 100


def local(ground: Ground) -> Topology:
    """Let every client train a model of its own, without any communication.

    In each round the clients of the cohort that a server would ask train, from where their own last
    training left them, with the batches that they would have in a federation: the same work, and
    nothing shared. With ``cohort.size`` at the number of clients everybody trains in every round.

        w_k <- w_k + delta_k(w_k)  for k in the cohort;  the others keep theirs

    A round's figures on the global test set are means over clients (as many as evaluations ask),
    and those under ``clients`` are of each client's model on its own held-out examples. The model
    that is hashed and saved is the mean of all clients' models: one-shot averaging. Clients count
    the same in these means, and so do they in the star that this is to be compared with: set
    ``strategy.weights = "uniform"`` there.

    Args:
        ground: What there is.
    """
    memory: dict[int, tuple[Model, Metrics]] = {}

    def advance(state: ServerState) -> Advance:
        number = state.round + 1
        worked = [work(ground, number, k, model_of(ground, k)) for k in ground.cohort(state)]
        keep(ground, {each.record.client: each.model for each in worked}, worked)
        return summed(mean_model(ground), worked)

    def tested(state: ServerState, test: Examples) -> Metrics:
        return merge(on_the_test_set(k, test) for k in judged(state))

    def judged(state: ServerState) -> list[int]:
        experiment, population = ground.server.plan.experiment, ground.population.size
        seed = derive(experiment.seed_for("sampling"), "evaluated", state.round)
        return sample(population, min(population, experiment.evaluation.clients or _JUDGED), seed)

    def on_the_test_set(client_id: int, test: Examples) -> Metrics:
        """Evaluate a client's model, unless it is the one that was evaluated last time."""
        model = model_of(ground, client_id)
        known = memory.get(client_id)
        if known is None or known[0][0] is not model[0]:
            known = model, ground.server.learner.evaluate(*model, test)
            memory[client_id] = known
        return known[1]

    return Topology(advance=advance, own=lambda k: model_of(ground, k), tested=tested)
