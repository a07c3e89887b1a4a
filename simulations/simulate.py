"""Run an experiment with a population that this machine simulates.

>>> from roundel.simulations import simulate
>>> run = simulate(
...     settings=["rounds=2", "evaluation.clients=0"], out=getfixture("tmp_path") / "run"
... )
>>> [line["completed"] for line in run.rounds]
[10, 10]
"""

import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from roundel.core.config import Experiment
from roundel.core.configfile import load_experiment
from roundel.core.environment import describe_environment
from roundel.core.errors import ConfigError
from roundel.core.history import History, read_history
from roundel.core.ranks import Ranks
from roundel.core.records import RoundReport
from roundel.core.rundir import RunDirectory
from roundel.core.runfiles import METRICS, MODEL, read_lines, read_run
from roundel.core.threads import intra_op_threads
from roundel.server.run import OnRound, find_start
from roundel.simulations.blocks import narrowed
from roundel.simulations.devices import check_can_fork, check_present, device_of, repeatable
from roundel.simulations.division import check_at_hand
from roundel.simulations.engine import Engine, Legacy, choose
from roundel.simulations.forks import forked
from roundel.simulations.launch import announce, check_can_share, followed, heard
from roundel.simulations.partitions import (
    PartitionReport,
    describe,
    is_described,
    write_report,
)
from roundel.simulations.prepare import Pieces, Simulation, prepare, prepare_again
from roundel.simulations.ranks import is_launched, launched
from roundel.simulations.share import Opening, Share
from roundel.simulations.topologies.run import run_topology

OnStart = Callable[[PartitionReport], None]
"""Called once before the first round of a new run."""


def simulate(
    experiment: Experiment | Path | str | None = None,
    *,
    settings: Sequence[str] = (),
    pieces: Pieces = Pieces(),
    out: Path | str | None = None,
    on_start: OnStart | None = None,
    on_round: OnRound | None = None,
) -> History:
    """Run an experiment from its first round.

    Args:
        experiment: An experiment, or the path of its TOML file; None for the defaults: federated
            averaging of 100 clients with non-IID shares of the UCI digits.
        settings: Overrides such as ``"client.lr=0.05"``, for a path or the defaults.
        pieces: Your own task, strategy or population, in place of named ones.
        out: The run directory; by default a new one under ``runs/``.
        on_start: Called before the first round with how the examples lie at the clients.
        on_round: Called after each round.

    Returns:
        The run as it stands on disk.

    Raises:
        ConfigError: A key or value is wrong.
        RunDirectoryError: The directory is taken or cannot be written.
        RunFailed: Too few clients answered in a round.
    """
    if isinstance(experiment, Experiment):
        if settings:
            raise ConfigError(
                f"settings {list(settings)} are for a file or the defaults, and an experiment is "
                "given; change that one"
            )
    else:
        experiment = load_experiment(None if experiment is None else Path(experiment), settings)
    check_at_hand(experiment, "a simulation")
    simulation = prepare(experiment, pieces)
    engine = choose(simulation)
    with launched() as ranks:
        engine = _on(ranks, engine, simulation)
        if ranks.rank:
            return _followed(simulation, ranks)
        directory = RunDirectory.create(
            new_run_path(experiment.name) if out is None else Path(out),
            simulation.plan.experiment,
            describe_environment(
                uuid.uuid4().hex, {**engine.line(), "mode": "simulate"}, simulation.unsaid
            ),
        )
        return _run(simulation, directory, engine, ranks, on_start, on_round)


def _on(ranks: Ranks, engine: Engine, simulation: Simulation) -> Engine:
    """Return how a run is computed that torchrun may have started on several ranks."""
    if ranks.size == 1:
        check_can_fork(engine.device, engine.workers)
        return engine
    check_can_share(simulation)
    return replace(engine, workers=ranks.size)


def _followed(simulation: Simulation, ranks: Ranks) -> History:
    """Do the part of a rank that torchrun has started, with the engine that rank 0 has chosen."""
    opening = heard(simulation, ranks)
    engine = Engine.recorded(opening.environment["engine"])
    check_present(engine.device, opening.path)
    device = device_of(engine.device)
    with intra_op_threads(engine.threads), repeatable(device):
        return followed(simulation.on(device), engine, opening, ranks)


def begin(simulation: Simulation, directory: RunDirectory, on_start: OnStart | None) -> None:
    """Write into a run how its examples lie at the clients, and tell, unless that was done."""
    if is_described(directory.path):
        return
    seed = simulation.plan.experiment.seed_for("data")
    report = describe(simulation.population, seed)
    write_report(report, directory.path)
    if on_start is not None:
        on_start(report)


def resume(
    run: Path | str,
    *,
    pieces: Pieces = Pieces(),
    workers: int | None = None,
    on_round: OnRound | None = None,
) -> History:
    """Go on with a run that was interrupted; a finished one is left as it is.

    Args:
        run: The run directory.
        pieces: The same pieces that the run began with.
        workers: Processes that share the work from now on; by default as many as before.
        on_round: Called after each round.

    Raises:
        RunDirectoryError: The directory is not a run's, is damaged, or is in use.
        RunFailed: Too few clients answered, or recomputed rounds gave other hashes.
    """
    experiment, environment = read_run(Path(run))
    if is_launched() and (Path(run) / MODEL).exists():
        return read_history(run)  # all ranks see that there is nothing to share
    simulation = prepare_again(Path(run), environment, experiment, pieces)
    engine = Engine.recorded(environment["engine"])
    as_before = engine.workers if engine.device == "cpu" else 1  # GPUs' ranks come from torchrun
    engine = replace(engine, workers=workers or as_before)
    with launched() as ranks:
        engine = _on(ranks, engine, simulation)
        if ranks.rank:
            return _followed(simulation, ranks)
        return _run(simulation, RunDirectory.open(Path(run)), engine, ranks, None, on_round)


def _run(
    simulation: Simulation,
    directory: RunDirectory,
    engine: Engine,
    ranks: Ranks,
    on_start: OnStart | None,
    on_round: OnRound | None,
) -> History:
    """Do rank 0's part, among forks of this process if nobody else has started other ranks."""
    with directory, intra_op_threads(engine.threads):
        if directory.finished:
            return read_history(directory.path)
        check_present(engine.device, directory.path)
        device = device_of(engine.device)
        begin(simulation, directory, on_start)
        run = directory.environment["run_id"]
        server = simulation.server(run, directory.secret, bind_noise=directory.bind_noise)
        if simulation.plan.experiment.topology.kind != "star":
            run_topology(simulation, server, directory, on_round or _silent)
            return read_history(directory.path)
        start = find_start(server, directory)
        opening = Opening(
            path=directory.path,
            environment=directory.environment,
            start=start,
            key=_key(simulation, directory),
            legacy=Legacy(
                stateful=bool(start.clients),
                narrowed=narrowed(read_lines(directory.path / METRICS)),
            ),
        )
        share = Share(simulation=simulation.on(device), engine=engine, opening=opening)
        with repeatable(device), _others(share, directory, ranks) as all_ranks:
            share.lead(all_ranks, directory, on_round or _silent)
    return read_history(directory.path)


def _key(simulation: Simulation, directory: RunDirectory) -> bytes:
    """Return what clients' own noise is drawn from, if they add any that nobody may know."""
    secret = any(codec.secret for codec in simulation.plan.strategy.codecs)
    return directory.secret(0) if secret else b""


@contextmanager
def _others(share: Share, directory: RunDirectory, launched: Ranks) -> Iterator[Ranks]:
    """Let the other ranks begin, and yield all."""
    if launched.size > 1:
        announce(launched, share.opening)
        yield launched
        return

    def follow(ranks: Ranks) -> None:
        directory.close()  # a fork has its files and its lock open, too
        with intra_op_threads(share.engine.threads):
            share.follow(ranks)

    with forked(share.engine.workers, follow, directory.path) as ranks:
        yield ranks


def new_run_path(name: str) -> Path:
    """Return a directory for a new run under ``runs/`` that does not exist yet."""
    stem = f"{name.replace('/', '-')[:100]}-{time.strftime('%Y%m%d-%H%M%S')}"
    path, count = Path("runs") / stem, 1
    while path.exists():
        count += 1
        path = Path("runs") / f"{stem}-{count}"
    return path


def engine_of(experiment: Experiment, **more: object) -> dict[str, object]:
    """Return what `environment.json` says about the engine where nodes train."""
    return {**Engine(threads=experiment.engine.threads).line(), **more}


def _silent(_report: RoundReport) -> None:
    """Say nothing about a round."""
