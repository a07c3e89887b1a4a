"""Data-parallel SGD: its formula on ranks that are threads, and a run on real processes."""

import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from roundel.core.config import Experiment, TopologyConfig
from roundel.core.data import Examples
from roundel.core.errors import RunFailed
from roundel.core.learning import Learner
from roundel.simulations import resume, simulate
from roundel.simulations.topologies import allreduce
from roundel.simulations.topologies.allreduce import Rank, lr_scale, shard
from roundel.simulations.topologies.peers import Model
from roundel.simulations.topologies.ring import Ring
from roundel.strategies.plan import Plan
from tests.federations import Quadratic, quadratic_task
from tests.simulations.topologies.runs import TINY, tiny
from tests.simulations.topologies.test_ring import on_ranks

NO_INTEGERS = torch.empty(0, dtype=torch.int64)
START = torch.tensor([1.0, -2.0], dtype=torch.float64)


def train(examples: Examples, ranks: int, steps: int, **settings: object) -> list[Model]:
    """Train a point on ranks that are threads; return the model that each ends with."""
    experiment = Experiment.model_validate(
        {
            "client": {"lr": 0.25, "steps": 1, "batch_size": "full"},
            "topology": {"kind": "all-reduce", "ranks": ranks, **settings},
        }
    )
    task = quadratic_task(START)

    def one(ring: Ring) -> Model:
        rank = Rank(
            plan=Plan.of(experiment, task),
            learner=Learner(task, seed=0),
            examples=shard(examples, ring.rank, ranks),
            ring=ring,
        )
        return rank.train((START, NO_INTEGERS), 1, steps)[0]

    return list(on_ranks(ranks, one))


def examples_at(*centres: tuple[float, float]) -> Examples:
    each = [Quadratic.of([1.0, 2.0], list(centre)).examples() for centre in centres]
    return Examples(
        torch.cat([one.inputs for one in each]), torch.cat([one.targets for one in each])
    )


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_every_rank_descends_along_the_mean_gradient_of_all(ranks):
    centres = [(0.0, 1.0), (4.0, 5.0), (2.0, -3.0), (6.0, 1.0), (0.0, 0.0), (3.0, 2.0)]
    w, a = START.clone(), torch.tensor([1.0, 2.0], dtype=torch.float64)
    mean = torch.tensor(centres, dtype=torch.float64).mean(dim=0)
    for _ in range(4):
        w = w - 0.25 * a * (w - mean)  # equal shares: the mean of their gradients is that of all
    for vector, _ in train(examples_at(*centres), ranks, 4):
        torch.testing.assert_close(vector, w, rtol=1e-12, atol=1e-12)


def test_a_scaled_learning_rate_is_p_times_as_large():
    examples = examples_at((0.0, 1.0), (4.0, 5.0))
    (w, _), _ = train(examples, 2, 1, scale_lr=True)
    # Gradient at (1, -2): (1 - 2, 2 (-2 - 3)) = (-1, -10); times 2 * 1/4.
    assert w.tolist() == [1.5, 3.0]


def test_the_learning_rate_is_scaled_by_the_number_of_ranks_after_a_warm_up():
    plain, scaled = TopologyConfig(ranks=5), TopologyConfig(ranks=5, scale_lr=True)
    assert [lr_scale(plain, t) for t in (1, 9)] == [1, 1]
    assert [lr_scale(scaled, t) for t in (1, 9)] == [5, 5]
    slow = scaled.model_copy(update={"warmup_rounds": 4})
    assert [lr_scale(slow, t) for t in range(1, 7)] == [1, 2, 3, 4, 5, 5]


def test_examples_are_dealt_out_like_cards():
    deck = Examples(torch.arange(5.0).unsqueeze(1), torch.arange(5))
    assert [shard(deck, rank, 2).targets.tolist() for rank in (0, 1)] == [[0, 2, 4], [1, 3]]


def test_models_that_come_apart_are_noticed():
    def loss(outputs, _targets):
        return outputs.mean()

    task = quadratic_task(START)
    experiment = Experiment.model_validate({"topology": {"kind": "all-reduce"}})

    def one(ring: Ring) -> str:
        rank = Rank(
            plan=Plan.of(experiment, replace(task, loss=loss)),
            learner=Learner(task, seed=0),
            examples=examples_at((0.0, 1.0)),
            ring=ring,
        )
        with pytest.raises(RunFailed, match="the ranks' models came apart") as failed:
            rank.train((START + ring.rank, NO_INTEGERS), 1, 1)
        return str(failed.value)

    assert all("in round 1" in said for said in on_ranks(2, one))


@pytest.mark.slow
def test_a_run_on_two_processes_is_sgd_with_batches_twice_as_large(tmp_path):
    """One batch of all examples, so that the centralised learner takes the very same steps."""
    settings = ("client.batch_size=full", "partition.clients=2", "cohort.size=2", "client.steps=4")
    two = tiny(tmp_path / "two", *settings, kind="all-reduce")
    one = tiny(tmp_path / "one", *settings, "client.steps=2", kind="centralised")
    assert [line["topology"] for line in two.rounds] == [{"ranks": 2, "steps": 4}] * 3
    assert two.series("loss") == pytest.approx(one.series("loss"), rel=1e-3)
    assert two.rounds[-1]["confusion"] is not None
    # 64 * 64 + 64 + 64 * 10 + 10 parameters of 4 bytes, 2 (p - 1) times, in 4 steps.
    assert [line["bytes_up"] for line in two.rounds] == [4810 * 4 * 2 * 4] * 3


@pytest.mark.slow
def test_a_rank_that_is_killed_ends_the_run_with_one_sentence_and_it_can_go_on(
    tmp_path, monkeypatch
):
    started = []
    popen = allreduce.subprocess.Popen

    def noting(*arguments, **more):
        started.append(popen(*arguments, **more))
        return started[-1]

    monkeypatch.setattr(allreduce.subprocess, "Popen", noting)
    settings = [*TINY, "topology.kind=all-reduce"]
    with pytest.raises(RunFailed, match=r"rank 1 ended with code -9: it said nothing"):
        simulate(
            settings=settings, out=tmp_path / "run", on_round=lambda _report: started[0].kill()
        )
    assert started[0].poll() is not None
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 1
    run = resume(tmp_path / "run")
    assert [process.poll() for process in started] == [-9, 0]
    assert run.hashes == tiny(tmp_path / "whole", kind="all-reduce").hashes


def test_a_rank_ends_when_the_run_is_gone():
    """Whatever it is doing, and however the other end of its standard input came to be closed."""
    code = (
        "import time; from roundel.simulations.topologies.rank import end_with_the_run; "
        "end_with_the_run(); print('up', flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as rank:
        assert rank.stdin
        assert rank.stdout
        assert rank.stderr
        assert rank.stdout.readline() == "up\n"
        assert rank.poll() is None
        rank.stdin.close()
        assert rank.wait(timeout=30) == 1
        assert rank.stderr.read() == "the process of rank 0 is gone\n"
