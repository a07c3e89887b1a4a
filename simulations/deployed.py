"""A coordinator, and an experiment as deployed: node processes on this machine, real gRPC."""

import json
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from roundel.client.node import Hosted
from roundel.core.collector import frozen
from roundel.core.config import Experiment
from roundel.core.environment import describe_environment
from roundel.core.errors import ConfigError, RunFailed
from roundel.core.files import writing
from roundel.core.history import History, read_history
from roundel.core.rundir import RunDirectory
from roundel.core.threads import intra_op_threads
from roundel.server.arrivals import Terms
from roundel.server.grpc_coordinator import Coordinator, Progress
from roundel.server.grpc_security import Security
from roundel.server.remote import RemoteClients
from roundel.server.run import OnRound, Start, find_start, run_rounds
from roundel.server.store import Store
from roundel.simulations import serving as common
from roundel.simulations.attacks.adversary import check_apart
from roundel.simulations.division import check_at_hand
from roundel.simulations.partitions.own import OWN
from roundel.simulations.prepare import Pieces, Simulation, prepare, prepare_again
from roundel.simulations.registration import hosted_by, own_functions, registration
from roundel.simulations.serving import Patience, announce, check_free, looking, wait_for_nodes
from roundel.simulations.simulate import OnStart, begin, engine_of
from roundel.simulations.topologies.checks import check_star

_JOIN_TIMEOUT_S = 120.0
_SENDING = 100
"""For how many updates there is room that have not arrived whole."""

SERVED = "serve"
"""How `environment.json` calls runs over nodes that dial in."""


def simulate_as_deployed(
    experiment: Experiment,
    *,
    nodes: int,
    out: Path,
    on_start: OnStart | None = None,
    on_round: OnRound,
) -> History:
    """Run an experiment over node processes on this machine; it ends as `simulate` would.

    Args:
        experiment: Its task must be a named one, since nodes build it themselves.
        nodes: How many node processes share the clients.
        out: The run directory.
        on_start: Called before the first round with how the examples lie at the clients.
        on_round: Called after each round.

    Raises:
        ConfigError: There are more nodes than clients.
        RunFailed: A node process ended, or too few clients answered.
    """
    check_at_hand(experiment, "a federation of node processes")
    simulation = _prepared(experiment)
    if nodes > simulation.population.size:
        raise ConfigError(
            f"--nodes {nodes} is more than the {simulation.population.size} clients to host; "
            "lower it"
        )
    environment = describe_environment(
        uuid.uuid4().hex,
        engine_of(experiment, mode="as-deployed", nodes=nodes),
        simulation.unsaid,
    )
    with RunDirectory.create(out, simulation.plan.experiment, environment) as directory:
        begin(simulation, directory, on_start)
        _over_processes(simulation, directory, nodes, on_round)
    return read_history(out)


def resume_as_deployed(path: Path, *, nodes: int, on_round: OnRound) -> History:
    """Go on with such a run, with new node processes."""
    with RunDirectory.open(path) as directory:
        if not directory.finished:
            simulation = prepare_again(path, directory.environment, directory.experiment, Pieces())
            begin(simulation, directory, None)
            _over_processes(simulation, directory, nodes, on_round)
    return read_history(path)


@dataclass(frozen=True, kw_only=True)
class Serving(common.Serving):
    """How the coordinator of an experiment is reached, and who hears what it does.

    Attributes:
        on_round: Called after each round.
        on_start: Called before the first round with how the examples lie at the clients.
    """

    on_round: OnRound
    on_start: OnStart | None = None


def serve(experiment: Experiment, out: Path, serving: Serving) -> History:
    """Coordinate an experiment over nodes that dial in.

    Args:
        experiment: What to run.
        out: The run directory.
        serving: How the coordinator is reached.

    Raises:
        ConfigError: The address cannot be listened on.
        RunDirectoryError: The directory is taken, or full: then the run can be resumed.
        RunFailed: Too few clients answered.
    """
    serving.check_address()
    simulation = _prepared(experiment)
    environment = describe_environment(
        uuid.uuid4().hex, engine_of(experiment, mode=SERVED, **serving.line()), simulation.unsaid
    )
    check_free(serving.listen)
    with RunDirectory.create(out, simulation.plan.experiment, environment) as directory:
        _serve(simulation, directory, serving)
    return read_history(out)


def resume_served(path: Path, serving: Serving) -> History:
    """Go on with such a run; nodes come back by themselves, or join again.

    Raises:
        ConfigError: The run was not served, or the address cannot be listened on.
        RunDirectoryError: The directory is not a run's, is in use, damaged or full.
        RunFailed: Too few clients answered, or a round that had ended cannot end in the same way.
    """
    serving.check_address()
    with RunDirectory.open(path) as directory:
        if directory.environment["engine"].get("mode") != SERVED:
            raise ConfigError(f"{path} was not served; go on with it by `roundel resume {path}`")
        if not directory.finished:
            simulation = prepare_again(path, directory.environment, directory.experiment, Pieces())
            _serve(simulation, directory, serving)
    return read_history(path)


def _serve(simulation: Simulation, directory: RunDirectory, serving: Serving) -> None:
    with (
        frozen(),
        coordinator(simulation, directory, serving.listen, serving.security) as running,
    ):
        begin(simulation, directory, serving.on_start)
        options = "--data PATH" if running.terms.own_data else ""
        announce(running, serving, options, resumed=bool(directory.hashes))
        with looking(running, serving):
            run_over(running, simulation, directory, serving.on_round, Patience(say=serving.say))
        running.security.record("run ended", run=running.terms.run)


@contextmanager
def coordinator(
    simulation: Simulation, directory: RunDirectory, listen: str, security: Security | None = None
) -> Iterator[Coordinator]:
    """Listen for the nodes of an experiment, and keep what they send in its directory."""
    experiment, strategy = simulation.plan.experiment, simulation.plan.strategy
    channels = strategy.channels(simulation.learner.spec)
    terms = Terms(
        run=directory.environment["run_id"],
        experiment=json.dumps(experiment.model_dump(mode="json", exclude_none=True)),
        population=simulation.population.size,
        fingerprint=registration(simulation),
        # No chain of codecs makes more than twice as much of a channel.
        update_limit=sum(2 * size * dtype.itemsize for size, dtype in channels.values()) + 2**20,
        stateful=simulation.plan.stateful(simulation.learner.spec),
        rounds=experiment.rounds,
        own_data=experiment.partition.kind == OWN,
    )
    # The rounds that checkpoints do not cover yet, and what each node is sending.
    payloads = experiment.cohort.size * (experiment.checkpoint.keep + 1) + _SENDING
    store = Store.open(directory.path, payloads * terms.update_limit)
    with (
        closing(store),
        Coordinator(terms, listen, time.monotonic, store=store, security=security) as running,
    ):
        yield running


def run_over(
    running: Coordinator,
    simulation: Simulation,
    directory: RunDirectory,
    on_round: OnRound,
    patience: Patience,
) -> None:
    """Wait until every client is hosted, then run the rounds that are left."""
    server = simulation.server(
        directory.environment["run_id"], directory.secret, bind_noise=directory.bind_noise
    )
    found = find_start(server, directory, states_elsewhere=True)
    start = replace(found, on_checkpoint=running.store.forget)
    _check_can_go_back(running, start.state.round)
    running.progress = Progress(done=start.state.round)
    if not _is_over(start, simulation.plan.experiment.rounds):
        wait_for_nodes(running, simulation.population.size, patience)
    clients = RemoteClients(
        running,
        simulation.population.size,
        time.monotonic,
        watch=patience.watch,
        say=patience.say,
        evaluation_s=simulation.plan.experiment.cohort.deadline_s,
    )
    simulation.learner.rest()
    with intra_op_threads(simulation.plan.experiment.engine.threads):
        last = run_rounds(server, clients, directory, start, on_round)
    running.store.forget(last.round)  # the model is written: nobody needs single updates any more


def _is_over(start: Start, rounds: int) -> bool:
    """Tell whether no round is left, so that no node is needed."""
    return start.state.round == rounds or bool(start.past and start.past[-1].get("stopped"))


def _check_can_go_back(running: Coordinator, round: int) -> None:
    """Refuse to begin at a round that the states of clients, on their nodes, cannot go back to."""
    earliest = running.store.journal.forgotten
    if running.terms.stateful and round < earliest:
        raise RunFailed(
            f"the newest checkpoint that is whole is of round {round}, and the states that clients "
            f"keep on their nodes go back to round {earliest} at most; put the checkpoints back, "
            "or start a new run"
        )


def share_of(simulation: Simulation, index: int, count: int) -> Hosted:
    """Return what node `index` of `count` (from 1) brings: every count-th client."""
    return hosted_by(simulation, range(index - 1, simulation.population.size, count))


def _prepared(experiment: Experiment) -> Simulation:
    """Make everything that a coordinator needs.

    Raises:
        ConfigError: Clients are to attack in a way that nodes cannot.
    """
    check_star(experiment, "a federation of nodes")
    simulation = prepare(experiment)
    check_apart(simulation.adversary)
    return simulation


def _over_processes(
    simulation: Simulation, directory: RunDirectory, nodes: int, on_round: OnRound
) -> None:
    with (
        coordinator(simulation, directory, "127.0.0.1:0") as running,
        _node_processes(
            running.address,
            nodes,
            directory.path / "nodes",
            own_functions(simulation.plan.experiment),
        ) as watch,
    ):
        patience = Patience(say=_silent, timeout_s=_JOIN_TIMEOUT_S, watch=watch)
        try:
            run_over(running, simulation, directory, on_round, patience)
        finally:
            running.dismiss()  # while the nodes are there to hear it: they end by themselves then


@contextmanager
def _node_processes(
    address: str, count: int, logs: Path, allowed: Sequence[str]
) -> Iterator[Callable[[], None]]:
    """Start node processes; yield a function that raises if one of them has ended."""
    with writing(logs):
        logs.mkdir(exist_ok=True)
        files = [(logs / f"node-{i}.log").open("ab") for i in range(1, count + 1)]
    processes: list[subprocess.Popen[bytes]] = []

    def watch() -> None:
        for number, process in enumerate(processes, start=1):
            if process.poll() is not None:
                log = (logs / f"node-{number}.log").read_text(errors="replace").strip()
                raise RunFailed(
                    f"node process {number} ended with code {process.returncode}: "
                    f"{log.splitlines()[-1] if log else 'it said nothing'}"
                )

    try:
        for number, file in enumerate(files, start=1):
            command = [sys.executable, "-m", "roundel.cli", "join", address, "--insecure"]
            command += ["--partition", f"{number}/{count}", "--name", f"node-{number}"]
            command += ["--state", str(logs / f"node-{number}")]
            command += [f"--allow={function}" for function in allowed]
            processes.append(
                subprocess.Popen(command, stdout=file, stderr=file)  # noqa: S603 - our own command
            )
        yield watch
    finally:
        _end(processes)
        for file in files:
            file.close()


def _end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Give processes a moment to end by themselves, then end them."""
    limit = time.monotonic() + 5.0
    for process in processes:
        try:
            process.wait(max(0.0, limit - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.terminate()
            process.wait()


def _silent(_line: str) -> None:
    """Say nothing."""
