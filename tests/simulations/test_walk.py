"""The models of a run, computed again in memory."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from roundel.core.errors import ConfigError, RunFailed
from roundel.simulations import simulate
from roundel.simulations import walk as module
from roundel.simulations.walk import Walk, walk
from tests.simulations.bowls import BOTTOM, PIECES, TARGETS, run_to


def silent(_what: str, _done: int, _of: int) -> None:
    pass


def walked(path: Path, round: int | None = None) -> Walk:
    return walk(path, round=round, runs=1, tell=silent, pieces=PIECES)


def test_the_path_leads_from_the_initial_model_to_the_last_one(tmp_path):
    run_to(tmp_path / "run")
    found = walked(tmp_path / "run")
    spec = found.spec
    assert list(found.path.numbers) == [0, 1, 2, 3, 4, 5]
    assert found.path.points.shape == (6, 4)
    initial = found.judge.rerun.simulation.learner.initial
    assert found.path.points[0].tolist() == initial.double().tolist()
    assert found.end.tolist() == found.final[spec.shared_trainable].double().tolist()


def test_losses_are_those_of_the_models_on_the_test_set(tmp_path):
    history = run_to(tmp_path / "run")
    found = walked(tmp_path / "run")
    assert found.path.losses[1:].tolist() == history.series("loss")
    by_hand = ((found.path.points - np.array(BOTTOM)) ** 2).sum(axis=1) / 2
    assert found.path.losses == pytest.approx(by_hand, rel=1e-6)


def test_losses_of_a_model_with_buffers_are_the_recorded_ones(tmp_path):
    history = simulate(
        settings=["task.model=mlp-norm", "rounds=2", "client.epochs=1", "evaluation.clients=0"],
        out=tmp_path / "run",
    )
    found = walk(tmp_path / "run", round=None, runs=1, tell=silent)
    assert found.path.losses[1:].tolist() == history.series("loss")


@pytest.mark.parametrize("executor", ["loop", "vectorized"])
def test_clients_are_where_their_training_led_them(tmp_path, executor):
    history = run_to(tmp_path / "run", f"engine.executor={executor}")
    found = walked(tmp_path / "run", round=3)
    cohort = [line["client"] for line in history.clients() if line["round"] == 3]
    assert list(found.clients.numbers) == cohort
    sent = found.path.points[2]
    for number, point, loss in zip(cohort, found.clients.points, found.clients.losses, strict=True):
        half_way = (sent + np.array(TARGETS[number])) / 2
        assert point == pytest.approx(half_way, rel=1e-6)
        assert loss == pytest.approx(((half_way - np.array(BOTTOM)) ** 2).sum() / 2, rel=1e-5)
    assert found.end == pytest.approx(found.clients.points.mean(axis=0), rel=1e-6)


def test_nothing_is_written_to_the_run(tmp_path):
    run_to(tmp_path / "run")
    before = {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in tmp_path.rglob("*")}
    walked(tmp_path / "run")
    assert {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in tmp_path.rglob("*")} == before


def test_of_a_long_path_some_rounds_are_kept_with_the_first_and_the_last_two(tmp_path, monkeypatch):
    run_to(tmp_path / "run", "rounds=9")
    monkeypatch.setattr(module, "MOST_NUMBERS", 4 * 4)
    found = walked(tmp_path / "run")
    assert list(found.path.numbers) == [0, 3, 6, 8, 9]
    assert found.path.points.shape == (5, 4)


def test_how_far_it_is_is_told_after_each_round(tmp_path):
    run_to(tmp_path / "run", "rounds=2")
    told: list[tuple[str, int, int]] = []
    walk(tmp_path / "run", round=None, runs=1, tell=lambda *all: told.append(all), pieces=PIECES)
    words = f"computing {tmp_path / 'run'} again"
    assert told == [(words, 0, 2), (words, 1, 2), (words, 2, 2)]


def test_a_round_that_comes_out_otherwise_ends_it(tmp_path):
    run_to(tmp_path / "run")
    file = tmp_path / "run" / "metrics.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    lines[1]["params_sha256"] = "f" * 64
    file.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    with pytest.raises(RunFailed, match="round 2 came out with another parameter hash"):
        walked(tmp_path / "run")
    walked(tmp_path / "run", round=1)


def test_a_round_that_is_not_recorded_is_one_sentence(tmp_path):
    run_to(tmp_path / "run")
    with pytest.raises(ConfigError, match="has recorded 5 rounds, and round 6 was asked for"):
        walked(tmp_path / "run", round=6)
    (tmp_path / "run" / "metrics.jsonl").write_text("")
    with pytest.raises(ConfigError, match="has recorded no round; draw it once it has"):
        walked(tmp_path / "run")


def test_a_model_that_is_not_finite_says_after_which_round():
    points = [np.zeros(2), np.array([1.0, np.inf]), np.array([np.nan, 0.0])]
    with pytest.raises(ConfigError, match="run diverged: after round 3 its parameters are not fin"):
        module._check_finite(Path("run"), [0, 3, 4], points)
    module._check_finite(Path("run"), [0], points[:1])


def test_without_a_test_set_losses_are_those_on_what_clients_hold_out(tmp_path):
    settings = ["task.name=synthetic", "rounds=1", "partition.clients=3", "cohort.size=2"]
    simulate(settings=[*settings, "evaluation.clients=0", "client.steps=1"], out=tmp_path / "run")
    found = walk(tmp_path / "run", round=None, runs=1, tell=silent)
    population = found.judge.rerun.simulation.population
    held = torch.cat([population.client(k).test.targets for k in range(3)])
    assert found.judge.examples.targets.tolist() == held.tolist()


def test_a_run_with_nothing_to_measure_a_loss_on_is_one_sentence(tmp_path):
    assert PIECES.task is not None
    pieces = replace(PIECES, task=replace(PIECES.task, load_test=None))
    run_to(tmp_path / "run", pieces=pieces)
    with pytest.raises(ConfigError, match="has no examples to measure a loss on"):
        walk(tmp_path / "run", round=None, runs=1, tell=silent, pieces=pieces)
