"""`roundel simulate` runs an experiment and says what came of it."""

import json

import pytest

from roundel.core.history import read_history
from roundel.simulations import deployed
from tests.commands import TINY, call, nodes_from_the_zygote, settings

KEYS = {
    *("round", "loss", "accuracy", "precision", "recall", "train_loss", "cohort", "completed"),
    *("failures", "bytes_up", "bytes_down", "seconds", "params_sha256", "health"),
}


@pytest.fixture
def run(tmp_path):
    return tmp_path / "run"


def test_it_prints_one_line_a_round_and_where_the_results_lie(run):
    ended = call("simulate", *TINY, "-s", "rounds=3", "--out", run)
    assert (ended.code, ended.err) == (0, "")
    picture, _, rest = ended.out.partition("\n\n")
    assert picture.startswith("dirichlet: 4 clients, 1,442 examples\n")
    *rounds, result, place = rest.splitlines()
    assert [line.split()[:2] for line in rounds] == [["round", f"{r}/3"] for r in (1, 2, 3)]
    last = read_history(run).rounds[-1]
    assert result.startswith(
        f"accuracy {last['accuracy']:.4f}, loss {last['loss']:.4f} after 3 rounds, "
    )
    assert place == f"results are in {run}"


def test_json_prints_one_object_a_round_and_nothing_else_on_stdout(run):
    ended = call("simulate", *TINY, "-s", "rounds=3", "--out", run, "--json")
    assert ended.code == 0
    lines = [json.loads(line) for line in ended.out.splitlines()]
    assert [set(line) for line in lines] == [KEYS, KEYS, KEYS | {"confusion"}]
    assert lines == list(read_history(run).rounds)
    assert f"results are in {run}" in ended.err


def test_the_last_round_also_tells_how_clients_fare(run):
    sets = settings(rounds=2, evaluation__clients=4, client__steps=1, cohort__size=2)
    ended = call("simulate", *sets, "--out", run, "--json")
    first, last = map(json.loads, ended.out.splitlines())
    assert set(first) == KEYS
    assert set(last) == KEYS | {"clients", "confusion"}
    assert last["clients"]["asked"] == 4
    assert "clients' own test examples: accuracy" in ended.err


def test_an_experiment_file_and_settings_over_it(run, tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text('name = "mine"\nrounds = 9\n[strategy]\nname = "fedprox"\nmu = 0.5\n')
    call("simulate", file, *TINY, "-s", "rounds=1", "--out", run)
    experiment = read_history(run).experiment
    assert (experiment.name, experiment.rounds) == ("mine", 1)
    assert (experiment.strategy.name, experiment.strategy.knobs) == (
        "fedprox",
        {"mu": 0.5, "server_lr": 1.0},
    )


def test_adapters_on_a_model_that_was_drawn_at_random_are_minded(tmp_path):
    sets = (*TINY, "-s", "rounds=1", "-s", "strategy.name=ffa_lora")
    ended = call("simulate", *sets, "--out", tmp_path / "first")
    assert ended.code == 0
    assert ended.err.startswith("roundel: ffa_lora freezes all but its adapters, and without task.")
    assert ended.err.count("\n") == 1
    initial = f"task.initial={tmp_path / 'first'}"
    assert call("simulate", *sets, "-s", initial, "--out", tmp_path / "second").err == ""


def test_more_workers_than_cores_are_minded(tmp_path, monkeypatch):
    monkeypatch.setattr("roundel.cli.run.available_cores", lambda: 1)
    sets = (*TINY, "-s", "rounds=1", "-s", "engine.workers=2")
    ended = call("simulate", *sets, "--out", tmp_path / "run")
    assert ended.err.startswith("roundel: 2 workers share 1 cores and wait for each other; engine.")
    assert ended.code == 0


def test_without_out_the_run_is_in_a_new_directory_under_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        assert call("simulate", *TINY, "-s", "rounds=1", "-s", "name=mine").code == 0
    made = sorted(path.name for path in (tmp_path / "runs").iterdir())
    assert len(made) == 2
    assert all(name.startswith("mine-2") for name in made)
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]


def test_as_deployed_ends_with_the_hashes_of_the_simulation(run, tmp_path, monkeypatch):
    nodes_from_the_zygote(monkeypatch, deployed, tmp_path)
    sets = (*TINY, "-s", "rounds=2", "-s", "strategy.name=scaffold", "-s", "engine.executor=loop")
    call("simulate", *sets, "--out", tmp_path / "simulated")
    ended = call("simulate", *sets, "--out", run, "--as-deployed", "--nodes", "3")
    assert (ended.code, ended.err) == (0, "")
    assert read_history(run).hashes == read_history(tmp_path / "simulated").hashes
    assert read_history(run).environment["engine"]["nodes"] == 3
    assert sorted(path.name for path in (run / "nodes").glob("*.log")) == [
        f"node-{number}.log" for number in (1, 2, 3)
    ]


def test_a_finished_run_leaves_what_the_documentation_promises(run):
    call("simulate", *TINY, "-s", "rounds=1", "--out", run)
    assert sorted(path.name for path in run.iterdir() if not path.name.startswith(".")) == [
        *("checkpoints", "clients.jsonl", "config.toml", "environment.json"),
        *("metrics.jsonl", "model.safetensors"),
        *("partition.json", "partition.npz", "partition.svg"),
    ]
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["round-000001.safetensors"]
