"""The processes that `benchmarks/simulation.py` and `benchmarks/scale.py` start."""

import json
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def _as_the_scripts_import(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)


def tiny(**changes):
    jobs = import_module("contenders.jobs")
    workload = jobs.Workload.whole("tiny", (4, 3, 10), examples=6, batch=2, cohort=3)
    return jobs.Job(**{"workload": workload, "folder": "", "rounds": 0, **changes})


def test_a_job_survives_the_command_line(monkeypatch):
    job = tiny(workers=2, executor="loop")
    monkeypatch.setattr("sys.argv", ["contender", job.text()])
    assert type(job).of_command() == job


def test_the_cnn_is_the_one_of_the_paper():
    workload = import_module("contenders.jobs").Workload.whole("w3", (), 600, 10, 4)
    models = import_module("contenders.models")
    assert len(models.flat(models.make_model(workload))) == 1_663_370
    assert models.client_tensors(workload, 1)[0].shape == (600, 1, 28, 28)


def test_clients_beyond_the_distinct_ones_share_their_tensors():
    workload = import_module("scale").workload_of(10, 1_000)
    client_tensors = import_module("contenders.models").client_tensors
    assert client_tensors(workload, 107)[0] is client_tensors(workload, 7)[0]
    assert not client_tensors(workload, 8)[0].equal(client_tensors(workload, 7)[0])


@pytest.mark.parametrize("executor", ["loop", "vectorized", "auto"])
def test_the_engine_learns_what_the_bare_loop_learns(executor, tmp_path):
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    for folder in (ours, theirs):
        folder.mkdir()
    import_module("contenders.engine").run(tiny(folder=str(ours), executor=executor))
    order = import_module("contenders.shuffled").as_roundel_shuffles
    import_module("contenders.bare").run(tiny(folder=str(theirs)), order)
    found, expected = (np.load(folder / "weights.npy") for folder in (ours, theirs))
    assert np.abs(expected[1] - expected[0]).max() > 1e-3
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.slow
def test_two_bare_processes_learn_what_one_learns(tmp_path):
    bare = import_module("contenders.bare")
    bare.run(tiny(folder=str(tmp_path)), bare.as_they_lie)
    outcome = import_module("contenders.processes").run("bare", tiny(workers=2))
    np.testing.assert_allclose(outcome.weights, np.load(tmp_path / "weights.npy"), atol=1e-6)
    assert outcome.round_seconds == ()
    assert outcome.peak_rss_mb > 50
    assert outcome.cold_start_s > 0


def test_timed_rounds_come_after_the_first_and_keep_no_weights(tmp_path):
    bare = import_module("contenders.bare")
    bare.run(tiny(folder=str(tmp_path), rounds=2), bare.as_they_lie)
    assert [path.name for path in tmp_path.iterdir()] == ["ends.json"]
    assert len(json.loads((tmp_path / "ends.json").read_text())) == 3


def test_a_contender_that_fails_says_why():
    processes = import_module("contenders.processes")
    with pytest.raises(processes.ContenderFailed, match=r"engine\.executor"):
        processes.run("engine", tiny(executor="nonsense"))
