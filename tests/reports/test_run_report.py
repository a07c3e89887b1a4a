"""What a page of runs is made of."""

from pathlib import Path

import pytest

from roundel.core.configfile import load_experiment
from roundel.core.errors import RunDirectoryError
from roundel.core.records import ClientRecord
from roundel.reports.run_report import labels_of, read_picture, read_runs, simulation_command
from tests.commands import call
from tests.reports.made_runs import make_run, record


def test_labels_are_the_ends_of_paths_that_differ():
    assert labels_of([Path("runs/one")]) == ["one"]
    assert labels_of([Path("a/b/seed-0"), Path("a/c/seed-0")]) == ["b/seed-0", "c/seed-0"]
    assert labels_of([Path("a/b"), Path("a/b")]) == ["b", "b"]


def test_curves_are_of_accuracy_and_losses_with_what_was_spent_until_then(tmp_path):
    make_run(tmp_path / "run", record(1), record(2))
    (run,) = read_runs([tmp_path / "run"])
    assert [band.metric for band in run.bands] == ["accuracy", "loss", "train_loss"]
    accuracy = run.bands[0]
    assert accuracy.mean == (0.1, 0.2)
    assert accuracy.rounds == (1.0, 2.0)
    assert accuracy.bytes == (3_000.0, 6_000.0)
    assert accuracy.seconds == (0.5, 1.0)
    assert (run.bytes_up, run.bytes_down, run.lost) == (2_000, 4_000, 2)


def test_the_budget_of_privacy_and_figures_by_class_are_no_curves(tmp_path):
    metrics = {"loss": 1.0, "accuracy": 0.5, "precision": 0.5, "recall": 0.5}
    make_run(tmp_path / "run", record(1, metrics=metrics, privacy={"epsilon": 1.0, "delta": 1e-5}))
    (run,) = read_runs([tmp_path / "run"])
    assert [band.metric for band in run.bands] == ["accuracy", "loss", "train_loss"]


def test_a_run_that_has_only_begun_is_a_report_without_curves(tmp_path):
    make_run(tmp_path / "run", finished=False)
    (run,) = read_runs([tmp_path / "run"])
    assert (run.bands, run.heat, run.picture) == ((), None, None)


def test_clients_and_the_picture_of_the_partition_are_read(tmp_path):
    client = ClientRecord(round=1, client=4, status="accepted", train_loss=0.25)
    make_run(tmp_path / "run", record(1), clients=[client])
    (tmp_path / "run" / "partition.svg").write_bytes(b"<svg/>")
    (run,) = read_runs([tmp_path / "run"])
    assert run.heat is not None
    assert run.heat.clients == (4,)
    assert run.picture == b"<svg/>"
    assert read_picture(tmp_path) is None


def test_the_command_of_a_simulated_run_says_all_that_is_not_the_default(tmp_path):
    settings = ["name=two words", "rounds=7", "strategy.parts=['prox']", "client.lr=0.05"]
    history = make_run(tmp_path / "run", record(1), settings=settings)
    command = simulation_command(history)
    assert command is not None
    words = list(command.split(" -s ")[1:])
    assert sorted(words) == sorted(
        ["'name=\"two words\"'", "rounds=7", "'strategy.parts=[\"prox\"]'", "client.lr=0.05"]
    )
    served = make_run(tmp_path / "served", record(1), engine={"mode": "serve"})
    assert simulation_command(served) is None


def test_the_command_computes_the_same_run_again(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    import shlex

    from roundel.core.history import read_history

    said = ("-s", "rounds=2", "-s", "partition.clients=4", "-s", "cohort.size=2")
    call("simulate", *said, "-s", "strategy.name=fedprox", "-s", "client.steps=1", "--out", "one")
    command = simulation_command(read_history("one"))
    assert command is not None
    assert call(*shlex.split(command)[1:], "--out", "other").code == 0
    assert read_history("one").hashes == read_history("other").hashes
    assert load_experiment(Path("one/config.toml")) == load_experiment(Path("other/config.toml"))


def test_what_is_no_run_is_one_sentence(tmp_path):
    with pytest.raises(RunDirectoryError, match="is not a run directory"):
        read_runs([tmp_path])
