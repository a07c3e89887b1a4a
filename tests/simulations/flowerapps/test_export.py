"""An experiment becomes a Flower app that says everything it needs."""

import tomllib
from importlib.metadata import version

import pytest

from roundel.core.configfile import load_experiment
from roundel.core.errors import ConfigError, RunDirectoryError
from roundel.simulations.flowerapps.export import export_app

SMALL = ("rounds=2", "partition.clients=3", "cohort.size=2")


def exported(folder, *settings, name="my-app"):
    export_app(load_experiment(None, [*SMALL, *settings]), folder / name)
    return folder / name


def test_it_writes_a_project_a_package_and_a_readme(tmp_path):
    files = export_app(load_experiment(None, SMALL), tmp_path / "my-app")
    assert [str(file.relative_to(tmp_path / "my-app")) for file in files] == [
        "pyproject.toml",
        "README.md",
        "my_app/__init__.py",
        "my_app/server_app.py",
        "my_app/client_app.py",
        "my_app/experiment.toml",
    ]
    project = tomllib.loads(files[0].read_text())
    assert project["project"]["dependencies"] == []
    app = project["tool"]["flwr"]["app"]
    assert app["components"] == {
        "serverapp": "my_app.server_app:app",
        "clientapp": "my_app.client_app:app",
    }
    assert app["config"] == {
        "num-server-rounds": 2,
        "out": "",
        "wait-s": 600.0,
        "seed": 0,
        "cohort": {"size": 2},
        "client": {"lr": 0.2, "batch_size": 10},
    }


def test_the_experiment_is_whole(tmp_path):
    root = exported(tmp_path, "strategy.name=fedadam")
    experiment = load_experiment(root / "my_app" / "experiment.toml")
    assert experiment.partition.clients == 3
    assert "beta_1" in experiment.strategy.knobs
    assert experiment.client.epochs == 5


def test_the_readme_says_what_must_be_on_every_machine(tmp_path, monkeypatch):
    (tmp_path / "sparrows.py").write_text(
        "from roundel.simulations.tasks.digits import digits\n\ndef task():\n    return digits()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    text = (exported(tmp_path, "task.name=sparrows:task") / "README.md").read_text()
    assert "functions of your own: sparrows:task. Put their modules into this" in text
    plain = (exported(tmp_path, name="plain") / "README.md").read_text()
    assert "functions of your own" not in plain
    assert "# experiment, as a Flower app" in plain
    assert "fedavg with 3 clients over 2 rounds" in plain


def test_the_readme_installs_the_wheel_that_wrote_it_and_the_flower_that_works(tmp_path):
    text = (exported(tmp_path) / "README.md").read_text()
    assert f"pip install './roundel-{version('roundel')}-py3-none-any.whl[flower]'" in text
    assert "pip install 'flwr[simulation]==1.41.*'" in text
    assert "$" not in text


@pytest.mark.parametrize(
    ("name", "package"), [("My App", "my_app"), ("2nd", "app_2nd"), ("é", "app__")]
)
def test_the_package_has_a_name_that_can_be_imported(name, package, tmp_path):
    assert (exported(tmp_path, name=name) / package / "server_app.py").exists()


def test_a_directory_that_is_not_empty_is_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(RunDirectoryError, match="is not an empty directory; name a new one"):
        export_app(load_experiment(None, SMALL), tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (["partition.kind=own"], "partition.kind = 'own' leaves the clients' examples"),
        (["topology.kind=gossip"], "topology.kind = 'gossip' is simulated in one piece"),
        (["cohort.deadline_factor=2"], "cohort.deadline_factor = 2 goes by when"),
        (["attack.kind=alie", "attack.clients=[0]"], "attack.kind = 'alie' is made from the upda"),
        (["cohort.size=9"], "cohort.size = 9 is more than the population of 3 clients"),
    ],
)
def test_what_cannot_run_on_flower_is_refused_and_nothing_is_written(settings, sentence, tmp_path):
    with pytest.raises(ConfigError, match=sentence):
        exported(tmp_path, *settings)
    assert not (tmp_path / "my-app").exists()


@pytest.mark.parametrize("key", ["task.path", "task.initial"])
def test_a_path_that_depends_on_where_one_is_is_refused_with_the_one_that_does_not(key, workplace):
    with pytest.raises(ConfigError, match=f"-s {key}={workplace}/birds.npz"):
        exported(workplace, f"{key}=birds.npz")
    assert not (workplace / "my-app").exists()


@pytest.mark.parametrize("name", ["torch", "json", "class", "roundel", "7"])
def test_the_package_is_named_as_no_other_module(name, tmp_path):
    assert (exported(tmp_path, name=name) / f"app_{name}" / "server_app.py").is_file()
