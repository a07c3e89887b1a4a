"""Write an experiment as an app that Flower runs: with its simulation, or on a SuperLink."""

from importlib.resources import files
from importlib.util import find_spec
from keyword import iskeyword
from pathlib import Path
from string import Template
from sys import stdlib_module_names

import tomli_w

from roundel.core.config import Experiment
from roundel.core.configfile import dump_experiment
from roundel.core.environment import roundel_version
from roundel.core.errors import ConfigError
from roundel.core.files import check_empty, write_atomic, writing
from roundel.core.flowerversion import WORKS
from roundel.server.stepwise import WAIT_S, check_stepwise
from roundel.simulations.attacks.adversary import check_apart
from roundel.simulations.division import check_at_hand
from roundel.simulations.prepare import Simulation, prepare
from roundel.simulations.registration import own_functions
from roundel.simulations.topologies.checks import check_star

EXPERIMENT = "experiment.toml"
ROUNDS, OUT, WAIT = "num-server-rounds", "out", "wait-s"

_SIDE = Template(
    '''"""The $whose side of the experiment that lies beside this file."""

from pathlib import Path

from roundel.simulations.flowerapps.flower_exported import ${side}_app

app = ${side}_app(Path(__file__).with_name("$experiment"))
'''
)


def prepared(experiment: Experiment, *, load_test: bool = True) -> Simulation:
    """Make everything that one side of an exported app needs, or say why it cannot be exported.

    Args:
        experiment: What is to be run.
        load_test: Whether to read the global test examples, which no client needs.

    Raises:
        ConfigError: The experiment is none for Flower's loop, or for nodes.
    """
    check_at_hand(experiment, "a Flower app")
    check_star(experiment, "a Flower app")
    simulation = prepare(experiment, load_test=load_test)
    check_apart(simulation.adversary)
    check_stepwise(simulation.plan)
    return simulation


def export_app(experiment: Experiment, path: Path) -> list[Path]:
    """Write an app into a new or empty directory.

    Args:
        experiment: What it is to run.
        path: The directory.

    Returns:
        The files.

    Raises:
        ConfigError: The experiment cannot be exported.
        RunDirectoryError: Something is in the directory already, or it cannot be written.
    """
    with writing(path):
        check_empty(path, "name a new one to write the app into")
    _check_paths(experiment)
    resolved = prepared(experiment).plan.experiment
    package = _package(path)
    contents = {
        "pyproject.toml": _project(package, resolved),
        "README.md": _readme(package, resolved),
        f"{package}/__init__.py": f'"""{resolved.name}, exported by Roundel."""\n',
        f"{package}/server_app.py": _side("server", "server's"),
        f"{package}/client_app.py": _side("client", "clients'"),
        f"{package}/{EXPERIMENT}": dump_experiment(resolved),
    }
    with writing(path):
        (path / package).mkdir(parents=True, exist_ok=True)
    for name, text in contents.items():
        write_atomic(path / name, text.encode())
    return [path / name for name in contents]


def _side(side: str, whose: str) -> str:
    return _SIDE.substitute(side=side, whose=whose, experiment=EXPERIMENT)


def _check_paths(experiment: Experiment) -> None:
    """Refuse paths that mean another file wherever Flower happens to start the app.

    Raises:
        ConfigError: There is one.
    """
    task = experiment.task
    for key, path in (("task.path", task.path), ("task.initial", task.initial)):
        if path is not None and not path.is_absolute():
            raise ConfigError(
                f"{key} = {str(path)!r} is relative, and where Flower starts an app nobody knows; "
                f"give it from the root on, as it is on every machine: -s {key}={path.resolve()}"
            )


def _package(path: Path) -> str:
    """Return a name for the app's package, after its directory, which no other module has.

    >>> _package(Path("apps/My App-2"))
    'my_app_2'
    >>> _package(Path("torch")), _package(Path("for")), _package(Path("2"))
    ('app_torch', 'app_for', 'app_2')
    """
    name = "".join(c if c.isascii() and c.isalnum() else "_" for c in path.resolve().name.lower())
    if not name.strip("_") or name[0].isdigit() or _is_taken(name):
        name = f"app_{name}"
    return name


def _is_taken(name: str) -> bool:
    """Tell whether a package of this name could not be imported, or something else instead."""
    if iskeyword(name) or name in stdlib_module_names or name == "roundel":
        return True
    found = find_spec(name)
    return found is not None and found.origin is not None  # a mere directory has none


def _project(package: str, experiment: Experiment) -> str:
    config = {
        ROUNDS: experiment.rounds,
        OUT: "",
        WAIT: WAIT_S,
        "seed": experiment.seed,
        "cohort": {"size": experiment.cohort.size},
        "client": {"lr": experiment.client.lr, "batch_size": experiment.client.batch_size},
    }
    components = {side: f"{package}.{side[:6]}_app:app" for side in ("serverapp", "clientapp")}
    tree = {
        "project": {
            "name": package.replace("_", "-").strip("-"),
            "version": "1.0.0",
            "description": f"{experiment.name}: an experiment of Roundel's",
            "license": "Apache-2.0",
            "requires-python": ">=3.11",
            # Roundel itself is to be there: on an index its name may be somebody else's.
            "dependencies": [],
        },
        "tool": {
            "flwr": {"app": {"publisher": "roundel", "components": components, "config": config}}
        },
    }
    return tomli_w.dumps(tree)


def _readme(package: str, experiment: Experiment) -> str:
    text = (files("roundel.simulations.flowerapps") / "exported.md").read_text()
    own = own_functions(experiment)
    paths = [str(p) for p in (experiment.task.path, experiment.task.initial) if p is not None]
    needs = ""
    if own:
        needs += (
            f"It names functions of your own: {', '.join(own)}. Put their modules into this "
            "directory, or install them on every machine.\n"
        )
    if paths:
        needs += f"It reads {' and '.join(paths)}: these must lie there on every machine.\n"
    return Template(text).substitute(
        name=experiment.name,
        package=package,
        strategy=experiment.strategy.name,
        clients=experiment.partition.clients,
        rounds=experiment.rounds,
        works=WORKS,
        version=roundel_version(),
        needs=f"\n{needs}" if needs else "",
    )
