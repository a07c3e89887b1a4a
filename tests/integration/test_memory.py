"""A device whose memory does not suffice for as many clients at once as a run began with.

There is none here, so training together says so itself: of more than eight clients.
"""

from collections.abc import Sequence

import pytest
import torch

from roundel.core.history import History
from roundel.core.job import LocalJob, Trained
from roundel.simulations import simulate
from roundel.simulations.replay import replay
from roundel.simulations.simulate import resume
from roundel.simulations.vectorized import Stack
from tests.killing import killed_in

SETTINGS = (
    *("rounds=3", "partition.clients=40", "cohort.size=20", "client.epochs=1"),
    *("strategy.name=scaffold", "engine.executor=vectorized", "evaluation.clients=0"),
)
MOST = 8


@pytest.fixture
def small(monkeypatch) -> list[int]:
    """Let memory be short from the second round on; how many stacks were trained goes up."""
    train, trained = Stack.train, [0]

    def short(self: Stack, jobs: Sequence[LocalJob]) -> list[Trained]:
        trained[0] += 1
        if len(jobs) > MOST and trained[0] > 1:
            raise torch.OutOfMemoryError("out of memory")
        return train(self, jobs)

    monkeypatch.setattr(Stack, "train", short)
    return trained


def widths(run: History) -> list[int | None]:
    return [line.get("width") for line in run.rounds]


def test_it_goes_on_with_half_as_many_at_once_and_says_so_in_each_rounds_line(small, tmp_path):
    run = simulate(settings=[*SETTINGS, "engine.width=32"], out=tmp_path / "run")
    assert run.environment["engine"]["width"] == 32
    assert widths(run) == [None, 8, 8]
    assert [line["completed"] for line in run.rounds] == [20, 20, 20]


def test_a_round_in_which_it_was_found_out_is_as_if_it_had_been_known_before(small, tmp_path):
    small[0] = 1
    narrow = simulate(settings=[*SETTINGS, "engine.width=8"], out=tmp_path / "narrow")
    small[0] = 1
    run = simulate(settings=[*SETTINGS, "engine.width=16"], out=tmp_path / "run")
    assert (widths(narrow), widths(run)) == ([None] * 3, [8] * 3)
    assert run.hashes == narrow.hashes


def test_several_ranks_find_out_in_the_same_round(monkeypatch, tmp_path):
    train = Stack.train

    def short(self: Stack, jobs: Sequence[LocalJob]) -> list[Trained]:
        if len(jobs) > MOST and jobs[0].seed % 2:
            raise torch.OutOfMemoryError("out of memory")
        return train(self, jobs)

    monkeypatch.setattr(Stack, "train", short)
    both = [
        simulate(
            settings=[*SETTINGS, "engine.width=32", f"engine.workers={workers}"],
            out=tmp_path / f"{workers}",
        )
        for workers in (1, 2)
    ]
    assert widths(both[0]) == widths(both[1])
    assert widths(both[0])[-1] == MOST
    assert both[0].hashes == both[1].hashes


def test_a_run_goes_on_and_is_replayed_as_wide_as_it_was_even_with_more_memory(
    small, monkeypatch, tmp_path
):
    settings = [*SETTINGS, "engine.width=32"]
    whole = simulate(settings=settings, out=tmp_path / "whole")
    small[0] = 0
    with killed_in(2) as die:
        simulate(settings=settings, out=tmp_path / "run", on_round=die)
    monkeypatch.undo()
    seen: list[int] = []
    train = Stack.train

    def watched(self: Stack, jobs: Sequence[LocalJob]) -> list[Trained]:
        seen.append(len(jobs))
        return train(self, jobs)

    monkeypatch.setattr(Stack, "train", watched)
    run = resume(tmp_path / "run")
    assert widths(run) == [None, 8, 8]
    assert seen == [20, 5, 5, 5, 5, 5, 5, 5, 5]
    assert run.hashes == whole.hashes
    client = next(row["client"] for row in run.clients() if row["round"] == 3)
    assert replay(tmp_path / "run", 3, client).matches
