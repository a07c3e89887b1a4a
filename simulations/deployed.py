"""A coordinator, and an experiment as deployed: node processes on this machine, real gRPC."""

import json
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from roundel.client.node import Hosted, honest
from roundel.core.config import Experiment
from roundel.core.environment import describe_environment
from roundel.core.errors import ConfigError, RunFailed
from roundel.core.files import writing
from roundel.core.history import History, read_history
from roundel.core.rundir import RunDirectory
from roundel.server.grpc_coordinator import Coordinator, Terms
from roundel.server.remote import LEASE_S, RemoteClients
from roundel.server.run import OnRound, find_start, run_rounds
from roundel.simulations.prepare import Pieces, Simulation, prepare, prepare_again
from roundel.simulations.simulate import OnStart, begin, engine_of, intra_op_threads
from roundel.simulations.topologies.checks import check_star

_LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
_JOIN_TIMEOUT_S = 120.0


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


def serve(
    experiment: Experiment,
    *,
    listen: str,
    out: Path,
    on_start: OnStart | None = None,
    on_round: OnRound,
    say: Callable[[str], None],
) -> History:
    """Coordinate an experiment over nodes that dial in.

    Args:
        experiment: What to run.
        listen: ``host:port``; a loopback address, since the wire is not encrypted.
        out: The run directory.
        on_start: Called before the first round with how the examples lie at the clients.
        on_round: Called after each round.
        say: Is told, in one line each, what happens.

    Raises:
        ConfigError: The address is not a free loopback address.
        RunFailed: Too few clients answered.
    """
    if listen.rpartition(":")[0] not in _LOOPBACK:
        raise ConfigError(
            f"--listen {listen} is not a loopback address, and the wire is not encrypted; use "
            f"one of {', '.join(f'{host}:PORT' for host in _LOOPBACK)}"
        )
    simulation = _prepared(experiment)
    environment = describe_environment(
        uuid.uuid4().hex, engine_of(experiment, mode="serve"), simulation.unsaid
    )
    with (
        coordinator(simulation, environment["run_id"], listen) as running,
        RunDirectory.create(out, simulation.plan.experiment, environment) as directory,
    ):
        begin(simulation, directory, on_start)
        say(f"listening on {running.address}; join with: roundel join {running.address}")
        run_over(running, simulation, directory, on_round, _Patience(say=say))
    return read_history(out)


@contextmanager
def coordinator(simulation: Simulation, run: str, listen: str) -> Iterator[Coordinator]:
    """Listen for the nodes of an experiment."""
    spec = simulation.learner.spec
    channels = simulation.plan.strategy.channels(spec)
    terms = Terms(
        run=run,
        experiment=json.dumps(
            simulation.plan.experiment.model_dump(mode="json", exclude_none=True)
        ),
        population=simulation.population.size,
        fingerprint=simulation.fingerprint,
        # No chain of codecs makes more than twice as much of a channel.
        update_limit=sum(2 * size * dtype.itemsize for size, dtype in channels.values()) + 2**20,
    )
    with Coordinator(terms, listen, time.monotonic) as running:
        yield running


@dataclass(frozen=True, kw_only=True)
class _Patience:
    """How to wait for nodes.

    Attributes:
        say: Is told how many clients are there.
        timeout_s: How long to wait; None for ever.
        watch: Called while waiting; may raise.
    """

    say: Callable[[str], None]
    timeout_s: float | None = None
    watch: Callable[[], None] = lambda: None


def run_over(
    running: Coordinator,
    simulation: Simulation,
    directory: RunDirectory,
    on_round: OnRound,
    patience: _Patience,
) -> None:
    """Wait until every client is hosted, then run the rounds.

    Strategies that keep client state start from the first round, because the states are with nodes
    that are gone; the rounds that are recorded are computed again and compared.
    """
    server = simulation.server(
        directory.environment["run_id"], directory.secret, bind_noise=directory.bind_noise
    )
    _wait(running, simulation.population.size, patience)
    clients = RemoteClients(
        running,
        simulation.population.size,
        time.monotonic,
        stateful=simulation.plan.stateful(simulation.learner.spec),
        watch=patience.watch,
    )
    with intra_op_threads(simulation.plan.experiment.engine.threads):
        run_rounds(server, clients, directory, find_start(server, directory), on_round)


def own_functions(experiment: Experiment) -> list[str]:
    """Return the functions of the user's own that an experiment names."""
    strategy = experiment.strategy
    parts = [part if isinstance(part, str) else part["name"] for part in strategy.parts]
    named = [experiment.task.name, *experiment.evaluation.metrics, strategy.name, *parts]
    return [name for name in named if ":" in name]


def share_of(simulation: Simulation, index: int, count: int) -> Hosted:
    """Return what node `index` of `count` (from 1) brings: every count-th client."""
    return Hosted(
        plan=simulation.plan,
        learner=simulation.learner,
        population=simulation.clients,
        client_ids=range(index - 1, simulation.population.size, count),
        fingerprint=simulation.fingerprint,
        tamper=simulation.adversary.tamper if simulation.adversary else honest,
    )


def _prepared(experiment: Experiment) -> Simulation:
    """Make everything that a coordinator needs.

    Raises:
        ConfigError: Clients are to attack in a way that nodes cannot.
    """
    check_star(experiment, "a federation of nodes")
    simulation = prepare(experiment)
    adversary = simulation.adversary
    if adversary is not None and adversary.plots:
        raise ConfigError(
            f"attack.kind = {adversary.attack.name!r} is made from the updates of several clients, "
            "which no node sees; simulate it in one process, or choose an attack that each client "
            "does by itself, such as sign_flip"
        )
    return simulation


def _wait(running: Coordinator, clients: int, patience: _Patience) -> None:
    began = time.monotonic()
    told = -1
    while not running.nodes.wait_for(clients, timeout_s=0.5):
        patience.watch()
        running.nodes.remove_silent(LEASE_S)  # so that others can host their clients
        if (hosted := running.nodes.hosted()) != told:
            patience.say(f"waiting for nodes: {hosted} of {clients} clients are hosted")
            told = hosted
        if patience.timeout_s is not None and time.monotonic() - began > patience.timeout_s:
            raise RunFailed(
                f"only {hosted} of {clients} clients were hosted after {patience.timeout_s:g} s"
            )


def _over_processes(
    simulation: Simulation, directory: RunDirectory, nodes: int, on_round: OnRound
) -> None:
    with (
        coordinator(simulation, directory.environment["run_id"], "127.0.0.1:0") as running,
        _node_processes(
            running.address,
            nodes,
            directory.path / "nodes",
            own_functions(simulation.plan.experiment),
        ) as watch,
    ):
        patience = _Patience(say=_silent, timeout_s=_JOIN_TIMEOUT_S, watch=watch)
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
            command = [sys.executable, "-m", "roundel.cli", "join", address]
            command += ["--partition", f"{number}/{count}", "--name", f"node-{number}"]
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
