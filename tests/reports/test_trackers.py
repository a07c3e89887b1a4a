"""What trackers are told; stand-ins for their packages write it down."""

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from roundel.core.errors import ConfigError, RunFailed
from roundel.reports import trackers
from roundel.reports.exported import exported
from roundel.reports.trackers import export_mlflow, export_wandb, need_tracker
from tests.reports.made_exports import BEGAN_S, made, made_comparison

ENVIRONMENT = (
    *("WANDB_MODE", "WANDB_PROJECT", "WANDB_ERROR_REPORTING"),
    *("MLFLOW_TRACKING_URI", "MLFLOW_DISABLE_TELEMETRY"),
)


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch):
    for name in ENVIRONMENT:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


class Wandb(ModuleType):
    """Notes what a run would be given."""

    def __init__(self) -> None:
        super().__init__("wandb")
        self.runs: list[dict[str, Any]] = []
        self.Settings = dict

    def init(self, **given: Any) -> SimpleNamespace:
        run = {**given, "lines": [], "finished": False}
        self.runs.append(run)

        def log(values: dict[str, float], step: int) -> None:
            run["lines"].append((step, values))

        return SimpleNamespace(log=log, finish=lambda: run.update(finished=True))


class Mlflow:
    """Notes what its server would be given."""

    def __init__(self) -> None:
        self.uri = ""
        self.experiments: dict[str, str | None] = {}
        self.runs: list[dict[str, Any]] = []

    def packages(self) -> dict[str, ModuleType]:
        package, tracking, entities = (
            ModuleType(f"mlflow{name}") for name in ("", ".tracking", ".entities")
        )
        tracking.__dict__["MlflowClient"] = self.client
        entities.__dict__.update(Param=lambda *all: all, Metric=lambda *all: all)
        return {m.__name__: m for m in (package, tracking, entities)}

    def client(self, tracking_uri: str) -> "Mlflow":
        self.uri = tracking_uri
        return self

    def get_experiment_by_name(self, name: str) -> SimpleNamespace | None:
        return SimpleNamespace(experiment_id=name) if name in self.experiments else None

    def create_experiment(self, name: str, artifact_location: str | None) -> str:
        self.experiments[name] = artifact_location
        return name

    def create_run(self, experiment: str, **given: Any) -> SimpleNamespace:
        self.runs.append({"experiment": experiment, **given, "batches": []})
        return SimpleNamespace(info=SimpleNamespace(run_id=len(self.runs) - 1))

    def log_batch(self, run: int, **batch: Any) -> None:
        self.runs[run]["batches"].append(batch)

    def set_terminated(self, run: int, end_time: int) -> None:
        self.runs[run]["end_time"] = end_time


@pytest.fixture
def wandb(monkeypatch) -> Wandb:
    module = Wandb()
    monkeypatch.setitem(sys.modules, "wandb", module)
    return module


@pytest.fixture
def mlflow(monkeypatch) -> Mlflow:
    made = Mlflow()
    for name, module in made.packages().items():
        monkeypatch.setitem(sys.modules, name, module)
    return made


def test_wandb_gets_settings_and_figures_of_each_run_and_stays_offline(tmp_path, wandb):
    export_wandb(exported([made(tmp_path / "run", "client.lr=0.3")]), tmp_path)
    [run] = wandb.runs
    assert (run["project"], run["name"], run["group"], run["mode"], run["dir"]) == (
        *("roundel", "run", None),
        *("offline", str(tmp_path)),
    )
    assert run["config"]["client.lr"] == 0.3
    assert [step for step, _ in run["lines"]] == [1, 2]
    assert run["lines"][1][1]["test/accuracy"] == 0.2
    assert run["finished"]


def test_runs_of_a_comparison_are_a_group_at_wandb(tmp_path, wandb):
    export_wandb(exported([made_comparison(tmp_path / "both")]), tmp_path)
    assert [(run["group"], run["config"]["arm"]) for run in wandb.runs] == [
        ("both", "fedavg"),
        ("both", "fedprox mu=0.1"),
        ("both", "fedavg"),
    ]


def test_the_environment_may_say_that_wandb_sends(tmp_path, wandb, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    export_wandb(exported([made(tmp_path / "run")]), tmp_path)
    assert (wandb.runs[0]["mode"], wandb.runs[0]["project"]) == ("online", "mine")


def test_mlflow_gets_settings_and_figures_with_their_times(tmp_path, mlflow):
    export_mlflow(exported([made(tmp_path / "run", "client.lr=0.3")]), tmp_path)
    assert mlflow.uri == f"sqlite:///{tmp_path}/mlflow.db"
    assert mlflow.experiments == {"roundel": (tmp_path / "files").as_uri()}
    [run] = mlflow.runs
    assert (run["run_name"], run["start_time"], run["tags"]) == ("run", 1000 * BEGAN_S, {})
    assert run["end_time"] == 1000 * BEGAN_S + 1000
    params = [p for batch in run["batches"] for p in batch.get("params", ())]
    metrics = [m for batch in run["batches"] for m in batch.get("metrics", ())]
    assert ("client.lr", "0.3") in params
    assert ("test/accuracy", 0.2, 1000 * BEGAN_S + 1000, 2) in metrics


def test_mlflow_gets_no_more_at_once_than_it_takes(tmp_path, mlflow):
    export_mlflow(exported([made(tmp_path / "run", rounds=150)]), tmp_path)
    sizes = [len(part) for batch in mlflow.runs[0]["batches"] for part in batch.values()]
    assert max(sizes) == 1000
    assert all(
        len(batch.get("params", ())) <= 100 and len(batch.get("metrics", ())) <= 1000
        for batch in mlflow.runs[0]["batches"]
    )


def test_a_comparison_is_one_experiment_at_mlflow(tmp_path, mlflow, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mine")
    export_mlflow(exported([made_comparison(tmp_path / "both")]), tmp_path)
    assert mlflow.uri == "http://mine"
    assert mlflow.experiments == {"both": None}
    assert [run["tags"]["arm"] for run in mlflow.runs] == ["fedavg", "fedprox mu=0.1", "fedavg"]


def test_trackers_do_not_report_on_who_uses_them(tmp_path, wandb, mlflow, monkeypatch):
    export_wandb([], tmp_path)
    export_mlflow([], tmp_path)
    assert trackers.os.environ["WANDB_ERROR_REPORTING"] == "false"
    assert trackers.os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"


def test_a_tracker_that_fails_is_one_error_and_the_run_is_as_it_was(tmp_path, wandb, monkeypatch):
    path = made(tmp_path / "run")
    before = {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}

    def init(**_given: Any) -> None:
        raise TypeError("no such mode")

    monkeypatch.setattr(wandb, "init", init)
    with pytest.raises(RunFailed, match="writing run by wandb failed: TypeError: no such mode"):
        export_wandb(exported([path]), tmp_path)
    assert {file: file.read_bytes() for file in path.rglob("*") if file.is_file()} == before


def test_a_missing_tracker_is_one_sentence(monkeypatch):
    monkeypatch.setattr(trackers, "find_spec", lambda _name: None)
    with pytest.raises(ConfigError, match=r"--to mlflow needs the package mlflow, .*pip install"):
        need_tracker("mlflow")
