"""Many runs: what has finished stays, what is left goes on, what fails leaves the others."""

import fcntl
import os
import signal
import threading
from math import isnan

import pytest

from roundel.core.configfile import load_experiment
from roundel.core.errors import RunFailed
from roundel.core.history import read_history
from roundel.core.runfiles import FAILED, MODEL
from roundel.simulations import cells
from roundel.simulations.cells import Job, RoundDone, RunEnded, run_jobs
from roundel.simulations.simulate import simulate

SETTINGS = ["partition.clients=4", "cohort.size=2", "client.steps=1", "evaluation.clients=0"]


def job(path, rounds=2, seed=0):
    return Job(
        path=path, experiment=load_experiment(None, [*SETTINGS, f"rounds={rounds}", f"seed={seed}"])
    )


def run(jobs, workers=1):
    """Run them; return all events and the ends by job."""
    events = []
    run_jobs(jobs, workers, events.append)
    return events, {event.job: event for event in events if isinstance(event, RunEnded)}


def breaking(monkeypatch, name, end):
    """Let the run of a directory's name end otherwise, on whatever process."""

    def simulated(experiment, *, out, on_round):
        if out.name == name:
            simulate(experiment, out=out, on_round=lambda _report: end())
        return simulate(experiment, out=out, on_round=on_round)

    monkeypatch.setattr(cells, "simulate", simulated)


def raise_here(error):
    raise error


@pytest.mark.parametrize("workers", [1, 2])
def test_each_run_tells_its_rounds_and_its_end(tmp_path, workers):
    jobs = [job(tmp_path / str(seed), seed=seed) for seed in range(3)]
    events, ends = run(jobs, workers)
    for number in range(3):
        own = [event for event in events if event.job == number]
        assert [event.round for event in own if isinstance(event, RoundDone)] == [1, 2]
        history = read_history(tmp_path / str(number))
        assert (ends[number].status, ends[number].rounds) == ("finished", 2)
        assert ends[number].metrics["accuracy"] == history.rounds[-1]["accuracy"]
        assert own[-1] == ends[number]


def test_the_number_of_workers_leaves_no_trace_in_the_bits(tmp_path):
    for workers in (1, 2):
        run([job(tmp_path / f"{workers}-{seed}", seed=seed) for seed in range(2)], workers)
    for seed in range(2):
        one, two = (read_history(tmp_path / f"{workers}-{seed}") for workers in (1, 2))
        assert one.hashes == two.hashes


def test_a_finished_run_is_left_alone_and_not_told_of(tmp_path):
    jobs = [job(tmp_path / "a")]
    run(jobs)
    before = (tmp_path / "a" / MODEL).stat().st_mtime_ns
    assert run(jobs) == ([], {})
    assert (tmp_path / "a" / MODEL).stat().st_mtime_ns == before


def test_an_interrupted_run_goes_on_to_the_same_end(tmp_path):
    whole, broken = job(tmp_path / "whole", rounds=3), job(tmp_path / "broken", rounds=3)
    run([whole])
    seen = []

    def interrupt(event):
        seen.append(event)
        if len(seen) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_jobs([broken], 1, interrupt)
    assert not (broken.path / FAILED).exists()
    _, ends = run([broken])
    assert ends[0].status == "finished"
    assert read_history(broken.path).hashes == read_history(whole.path).hashes


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RunFailed("too few clients"), "too few clients"),
        (MemoryError("no room"), "MemoryError: no room"),
        (SystemExit(3), "SystemExit: 3"),
    ],
)
def test_a_run_that_fails_says_why_and_leaves_the_others_alone(
    tmp_path, monkeypatch, workers, error, said
):
    breaking(monkeypatch, "1", lambda: raise_here(error))
    _, ends = run([job(tmp_path / str(number)) for number in range(3)], workers)
    assert [ends[number].status for number in range(3)] == ["finished", "failed", "finished"]
    assert ends[1].reason.startswith(said)
    assert "\n" not in ends[1].reason
    assert (tmp_path / "1" / FAILED).read_text().startswith(ends[1].reason)


def test_a_process_that_is_killed_costs_its_run_which_says_so_and_can_be_tried_again(
    tmp_path, monkeypatch
):
    jobs = [job(tmp_path / str(number)) for number in range(3)]
    with monkeypatch.context() as patch:
        breaking(patch, "1", lambda: os.kill(os.getpid(), signal.SIGKILL))
        _, ends = run(jobs, workers=2)
    assert [ends[number].status for number in range(3)] == ["finished", "failed", "finished"]
    assert ends[1].reason.startswith("its process was ended by the signal SIGKILL")
    assert (tmp_path / "1" / FAILED).exists()
    _, ends = run(jobs)
    assert ends.keys() == {1}
    assert ends[1].status == "finished"
    assert not (tmp_path / "1" / FAILED).exists()


def test_a_process_that_is_killed_with_its_run_done_costs_nothing(tmp_path, monkeypatch):
    def simulated(experiment, *, out, on_round):
        simulate(experiment, out=out, on_round=on_round)
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(cells, "simulate", simulated)
    _, ends = run([job(tmp_path / "a")], workers=2)
    assert (ends[0].status, ends[0].rounds) == ("finished", 2)
    assert "accuracy" in ends[0].metrics
    assert not (tmp_path / "a" / FAILED).exists()


def test_a_run_that_failed_before_it_began_begins_anew(tmp_path):
    path = tmp_path / "a"
    (path / "checkpoints").mkdir(parents=True)
    (path / FAILED).write_text("no data\n")
    _, ends = run([job(path)])
    assert ends[0].status == "finished"
    assert not (path / FAILED).exists()


def test_a_run_that_another_process_is_at_is_left_to_it(tmp_path, monkeypatch):
    monkeypatch.setattr(cells, "_GRACE_S", 0.01)
    with (tmp_path / ".a.lock").open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        _, ends = run([job(tmp_path / "a"), job(tmp_path / "b")])
    assert [ends[number].status for number in range(2)] == ["elsewhere", "finished"]
    assert not (tmp_path / "a").exists()


def test_one_that_is_about_to_let_go_is_waited_for(tmp_path):
    with (tmp_path / ".a.lock").open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        threading.Timer(0.1, lambda: fcntl.flock(file, fcntl.LOCK_UN)).start()
        _, ends = run([job(tmp_path / "a")])
    assert ends[0].status == "finished"


def test_a_figure_that_is_not_finite_comes_through(tmp_path, monkeypatch):
    def simulated(experiment, *, out, on_round):
        history = simulate(experiment, out=out, on_round=on_round)
        return type(history)(
            path=history.path,
            experiment=experiment,
            environment=history.environment,
            rounds=[*history.rounds[:-1], {**history.rounds[-1], "loss": float("nan")}],
        )

    monkeypatch.setattr(cells, "simulate", simulated)
    _, ends = run([job(tmp_path / str(number)) for number in range(2)], workers=2)
    assert isnan(ends[0].metrics["loss"])
