"""Runs of topologies, in a run directory."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from roundel.client.trainer import Trainer
from roundel.core.rundir import RunDirectory
from roundel.server.checkpoints import open_store
from roundel.server.loop import Server
from roundel.server.run import OnRound, find_start, run_rounds
from roundel.simulations.prepare import Simulation
from roundel.simulations.topologies.allreduce import all_reduce
from roundel.simulations.topologies.centralised import centralised
from roundel.simulations.topologies.gossip import gossip
from roundel.simulations.topologies.hierarchical import EdgeClients, edge_plan
from roundel.simulations.topologies.local import local
from roundel.simulations.topologies.peers import Ground, Peers, Topology, rounds
from roundel.simulations.topologies.split import split

_KINDS: Mapping[str, Callable[[Ground], Topology]] = {
    "local": local,
    "centralised": centralised,
    "gossip": gossip,
    "split": split,
}


def run_topology(
    simulation: Simulation, server: Server, directory: RunDirectory, on_round: OnRound
) -> None:
    """Run what is left of an experiment whose clients do not stand around one server.

    Args:
        simulation: The experiment.
        server: Its server, which evaluates.
        directory: Where it is written down.
        on_round: Called after each round.

    Raises:
        RunFailed: It could not finish its rounds.
    """
    start = find_start(server, directory)
    store = open_store(directory, start.clients)
    plan, learner, population = simulation.plan, simulation.learner, simulation.population
    if plan.experiment.topology.kind == "hierarchical":
        trainer, at_cloud = (
            Trainer(each, learner, lambda: directory.secret(0)) for each in (edge_plan(plan), plan)
        )
        clients = EdgeClients(plan, learner.spec, trainer, population, store, at_cloud)
        run_rounds(server, clients, directory, start, on_round)
        return
    ground = Ground(
        server=server, population=population, trainer=Trainer(plan, learner), store=store
    )
    with _opened(ground, directory.path) as topology:
        judge = replace(server, tested=topology.tested)
        peers = Peers(ground=ground, own=topology.own)
        those = rounds(judge, peers, topology, start.state, start.past)
        run_rounds(judge, peers, directory, start, on_round, those)


@contextmanager
def _opened(ground: Ground, run: Path) -> Iterator[Topology]:
    kind = ground.server.plan.experiment.topology.kind
    if kind == "all-reduce":
        with all_reduce(ground, run) as topology:
            yield topology
    else:
        yield _KINDS[kind](ground)
