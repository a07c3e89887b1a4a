"""The two sides of an exported app: from its experiment file to a ServerApp and a ClientApp."""

import json
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

from roundel.client import flower as at_client
from roundel.client.node import Hosted
from roundel.core.config import Experiment
from roundel.core.configfile import load_experiment
from roundel.core.environment import describe_environment
from roundel.core.errors import ConfigError, RoundAborted
from roundel.core.flower import Hello
from roundel.core.flower_names import ClientApp, Context, Grid, Result, ServerApp
from roundel.core.flowerversion import installed
from roundel.core.noise import draw_secret
from roundel.core.records import RoundReport
from roundel.core.rundir import RunDirectory
from roundel.core.threads import intra_op_threads
from roundel.server.aggregation import ServerState
from roundel.server.flower import RoundelStrategy
from roundel.server.run import final_model
from roundel.server.stepwise import WAIT_S
from roundel.simulations.flowerapps.export import OUT, ROUNDS, WAIT, prepared
from roundel.simulations.flowerapps.project import RunConfig
from roundel.simulations.prepare import Simulation
from roundel.simulations.registration import hosted_by, registration
from roundel.simulations.simulate import begin, engine_of


def server_app(file: Path) -> ServerApp:
    """Return the ServerApp of an experiment file."""
    app = ServerApp()

    def main(grid: Grid, context: Context) -> None:
        simulation = prepared(configured(file, context.run_config))
        keeping = Keeping(
            run=f"{context.run_id:016x}",
            out=str(context.run_config.get(OUT, "")),
            wait_s=float(context.run_config.get(WAIT, WAIT_S)),
        )
        run_on(grid, simulation, keeping)

    app.main()(main)
    return app


def client_app(file: Path) -> ClientApp:
    """Return the ClientApp of an experiment file; a process keeps what it has prepared for it.

    Flower's simulation pickles it, by name where that goes: it holds nothing that has a cache.
    """

    def prepare(context: Context) -> Hosted:
        partition, partitions = at_client.share_of(context)
        hosted = _made(file, json.dumps(dict(context.run_config)))
        hello = Hello(partition=partition, partitions=partitions)
        return replace(hosted, client_ids=hello.clients(hosted.population.size))

    return at_client.client_app(prepare)


@lru_cache(maxsize=1)
def _made(file: Path, config: str) -> Hosted:
    return hosted_by(prepared(configured(file, json.loads(config)), load_test=False), ())


def configured(file: Path, config: RunConfig) -> Experiment:
    """Return an experiment with the settings of an app.

    Args:
        file: The experiment.
        config: Keys of the experiment, and those of the app alone. They may come from another
            machine, so they name no code and no file here that the experiment does not.

    Raises:
        ConfigError: A key or value is wrong, or names such a thing.
    """
    settings = {
        "rounds" if key == ROUNDS else key: value
        for key, value in config.items()
        if key not in (OUT, WAIT)
    }
    own = load_experiment(file)
    found = load_experiment(file, [f"{key}={json.dumps(value)}" for key, value in settings.items()])
    for key, name in _named(found):
        if (key, name) not in _named(own):
            raise ConfigError(
                f"the app's settings say {key} = {name!r:.200}, which would run code or read files "
                f"here and does not stand in {file}; write it there if it is yours"
            )
    return found


def _named(experiment: Experiment) -> Collection[tuple[str, str]]:
    """Return what an experiment names of the code and the files of a machine, by key."""
    task, strategy = experiment.task, experiment.strategy
    parts = [part if isinstance(part, str) else part["name"] for part in strategy.parts]
    functions = [
        ("task.name", task.name),
        ("strategy.name", strategy.name),
        *(("strategy.parts", name) for name in parts),
        *(("evaluation.metrics", name) for name in experiment.evaluation.metrics),
    ]
    paths = {
        "task.path": task.path,
        "task.initial": task.initial,
        "partition.path": experiment.partition.path,
    }
    files = [(key, str(path)) for key, path in paths.items() if path is not None]
    return [*((key, name) for key, name in functions if ":" in name), *files]


@dataclass(frozen=True, kw_only=True)
class Keeping:
    """What is kept of a run on Flower.

    Attributes:
        run: Its identity.
        out: The run directory; empty for none.
        wait_s: How long to wait for nodes.
    """

    run: str
    out: str = ""
    wait_s: float = WAIT_S


def run_on(grid: Grid, simulation: Simulation, keeping: Keeping) -> tuple[RoundelStrategy, Result]:
    """Run an experiment over the nodes of a Grid, by Flower's own loop.

    Returns:
        The strategy after its last round, and Flower's result.

    Raises:
        RunFailed: Nodes are missing or do not fit, or too few clients answered.
        RunDirectoryError: The run directory is taken or cannot be written.
    """
    threads = simulation.plan.experiment.engine.threads
    with _kept(simulation, keeping) as kept, intra_op_threads(threads):
        strategy = RoundelStrategy(
            simulation.server(keeping.run, kept.secret, bind_noise=kept.bind),
            simulation.population.size,
            fingerprint=registration(simulation),
            wait_s=keeping.wait_s,
            on_report=kept.add,
        )
        result = strategy.start(
            grid=grid,
            initial_arrays=strategy.initial_arrays,
            num_rounds=strategy.num_rounds,
            timeout=strategy.timeout_s,
            evaluate_fn=strategy.evaluate,
        )
        kept.finish(strategy)
    return strategy, result


@dataclass(frozen=True, kw_only=True)
class _Kept:
    """Where the keys of noise are, and what rounds leave behind."""

    secret: Callable[[int], bytes]
    bind: Callable[[int, str], None] | None = None
    add: Callable[[ServerState, RoundReport], None] = field(default=lambda _state, _report: None)
    finish: Callable[[RoundelStrategy], None] = field(default=lambda _strategy: None)


@contextmanager
def _kept(simulation: Simulation, keeping: Keeping) -> Iterator[_Kept]:
    """Yield a run directory as the strategy needs it, or what does without one."""
    if not keeping.out:
        keys: dict[int, bytes] = {}
        yield _Kept(secret=lambda round: keys.setdefault(round, draw_secret()))
        return
    experiment = simulation.plan.experiment
    engine = engine_of(experiment, mode="flower", flwr=installed())
    environment: Mapping[str, object] = describe_environment(keeping.run, engine, simulation.unsaid)
    with RunDirectory.create(Path(keeping.out), experiment, environment) as directory:
        begin(simulation, directory, None)

        def finish(strategy: RoundelStrategy) -> None:
            if strategy.state is not None:
                model = final_model(strategy.server, strategy.state)
                directory.save_model(model.state_dict())

        try:
            yield _Kept(
                secret=directory.secret,
                bind=directory.bind_noise,
                add=lambda _, report: directory.add_round(report),
                finish=finish,
            )
        except RoundAborted as aborted:
            directory.add_clients(aborted.clients, aborted.failures)
            raise
