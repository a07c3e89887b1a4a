"""One run on several ranks: the same bits as on one."""

import os
import signal
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from roundel.core.config import Experiment
from roundel.core.errors import RunFailed
from roundel.core.history import History, read_history
from roundel.core.records import RoundReport
from roundel.simulations import Pieces, resume, simulate
from roundel.simulations.share import check_equal, told
from roundel.simulations.tasks.digits import digits
from roundel.strategies.compose import Part, compose
from roundel.strategies.registry import STRATEGIES
from roundel.strategies.sites import Selector
from tests.commands import call, settings, start
from tests.companies import on_ranks
from tests.killing import killed_in

TINY = {
    "rounds": 2,
    "partition": {"clients": 8},
    "cohort": {"size": 5},
    "client": {"steps": 2},
    "evaluation": {"clients": 5, "clients_every": 1},
    "checkpoint": {"every_s": 0},
}
CASES: Mapping[str, Mapping[str, Any]] = {
    "a sum": {},
    "clients that drop out and fail": {"faults": {"drop": 0.2, "fail": 0.2}},
    "more asked than counted": {"strategy": {"name": "over_selection"}},
    "cohorts of any size": {"strategy": {"name": "poisson"}},
    "losses that decide who is asked": {"strategy": {"name": "power_of_choice"}},
    "a rule over rows": {"strategy": {"name": "median"}},
    "control variates": {"strategy": {"name": "scaffold"}},
    "error feedback": {"strategy": {"name": "topk"}},
    "personal layers": {"strategy": {"name": "fedper"}},
    "noise by keys": {"strategy": {"name": "dp_fedavg"}},
    "noise at the clients": {"strategy": {"name": "local_dp"}},
    "attackers": {"attack": {"kind": "sign_flip", "share": 0.3}},
}


def run(out: Path, workers: int, **changes: Any) -> History:
    said = {**TINY, **changes, "engine": {"executor": "loop", "workers": workers}}
    return simulate(Experiment.model_validate(said), out=out)


def seen(history: History) -> list[Mapping[str, Any]]:
    """All that is recorded, without how long it took."""
    lines = [*history.rounds, *history.clients()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


@pytest.fixture
def same_keys(monkeypatch):
    """Keys of noise that are not drawn, so that runs can be compared."""
    monkeypatch.setattr("roundel.core.rundir.draw_secret", lambda: bytes(32))
    monkeypatch.setattr("uuid.uuid4", lambda: type("Id", (), {"hex": "0" * 32}))


@pytest.mark.usefixtures("same_keys")
@pytest.mark.parametrize("case", CASES)
def test_three_ranks_record_what_one_does(tmp_path, case):
    alone = run(tmp_path / "1", 1, **CASES[case])
    assert len(set(alone.hashes)) == 2
    together = run(tmp_path / "3", 3, **CASES[case])
    assert seen(together) == seen(alone)
    assert together.environment["engine"]["workers"] == 3


def test_a_killed_run_goes_on_with_another_number_of_ranks(tmp_path):
    changes = {"strategy": {"name": "scaffold"}, "rounds": 5}
    whole = run(tmp_path / "whole", 1, **changes)
    said = {**TINY, **changes, "engine": {"executor": "loop", "workers": 2}}
    with killed_in(2) as die:
        simulate(Experiment.model_validate(said), out=tmp_path / "run", on_round=die)
    with killed_in(4) as die:
        resume(tmp_path / "run", workers=3, on_round=die)
    assert seen(resume(tmp_path / "run", workers=1)) == seen(whole)


def test_states_beyond_the_memory_for_them_are_the_same_on_two_ranks(tmp_path):
    def histories(**engine: Any) -> list[Mapping[str, Any]]:
        said = {**TINY, "strategy": {"name": "scaffold"}, "engine": {"executor": "loop", **engine}}
        where = tmp_path / "-".join(map(str, engine.values()))
        return seen(simulate(Experiment.model_validate(said), out=where))

    assert histories(workers=2, state_memory_mb=0.02) == histories(workers=1)


def test_rank_0_alone_is_told_of_rounds(tmp_path):
    reports: list[RoundReport] = []
    said = {**TINY, "engine": {"executor": "loop", "workers": 3}}
    simulate(Experiment.model_validate(said), out=tmp_path / "run", on_round=reports.append)
    assert [report.record.round for report in reports] == [1, 2]
    assert not list((tmp_path / "run").rglob("*.partial"))


def test_too_few_clients_end_a_run_on_two_ranks_with_the_same_sentence_as_on_one(tmp_path):
    changes = {"faults": {"fail": 1.0}}
    sentences = []
    for workers in (1, 2):
        with pytest.raises(RunFailed) as caught:
            run(tmp_path / str(workers), workers, **changes)
        sentences.append(str(caught.value))
        assert (tmp_path / str(workers) / "failed.txt").exists()
    assert sentences[0] == sentences[1]


def test_a_selector_that_draws_from_somewhere_else_is_found_out(tmp_path):
    here = os.getpid()

    def select(_selection):
        return range(5) if os.getpid() == here else range(3, 8)

    strategy = compose(Part(name="mine", selector=Selector(name="mine", select=select)))
    said = {**TINY, "engine": {"executor": "loop", "workers": 2}}
    with pytest.raises(RunFailed, match=r"ranks chose other clients for round 1: a selector"):
        simulate(
            Experiment.model_validate(said), pieces=Pieces(strategy=strategy), out=tmp_path / "run"
        )


def test_ranks_that_came_apart_are_named_with_what_differs():
    line = {"round": 7, "params_sha256": "abc", "loss": float("nan")}
    check_equal([line, dict(line), {**line, "loss": float("nan")}])
    with pytest.raises(RunFailed, match=r"after round 7 rank 2 has the params_sha256 xyz and rank"):
        check_equal([line, line, {**line, "params_sha256": "xyz"}])
    with pytest.raises(RunFailed, match=r"rank 1 has the accuracy 0.5 and rank 0 None"):
        check_equal([line, {**line, "accuracy": 0.5}])


def test_a_secret_of_rank_0_is_told_to_all():
    def work(ranks):
        ask = (lambda round: bytes([round, 255])) if ranks.rank == 0 else None
        return told(ranks, ask)(3).hex()

    assert on_ranks(3, work) == ["03ff"] * 3


class Noisy(torch.nn.Module):
    """A model that draws at random when it is judged, and only then."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(64, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        outputs: torch.Tensor = self.linear(images.flatten(1))
        return outputs if self.training else outputs + torch.rand(())


@pytest.mark.parametrize("draws", [False, True])
def test_a_test_set_in_many_chunks_is_judged_the_same_on_several_ranks(
    tmp_path, monkeypatch, draws
):
    monkeypatch.setattr("roundel.core.learning.EVALUATION_BATCH", 64)
    task = replace(digits(), model=Noisy) if draws else digits()
    said = {**TINY, "evaluation": {"clients": 0}}
    figures = []
    for workers in (1, 2, 3):
        experiment = {**said, "engine": {"executor": "loop", "workers": workers}}
        history = simulate(
            Experiment.model_validate(experiment),
            pieces=Pieces(task=task),
            out=tmp_path / str(workers),
        )
        figures.append(seen(history))
    assert figures[0] == figures[1] == figures[2]


@pytest.mark.slow
@pytest.mark.usefixtures("same_keys")
@pytest.mark.parametrize("name", sorted(STRATEGIES))
def test_four_ranks_record_what_one_does_whatever_the_strategy(tmp_path, name):
    said = {"strategy": {"name": name}, "cohort": {"size": 8}}
    if name in {"fedbn", "fedit", "ffa_lora", "fltrust"}:
        pytest.skip("it wants what this experiment does not have")
    assert seen(run(tmp_path / "4", 4, **said)) == seen(run(tmp_path / "1", 1, **said))


@pytest.mark.slow
def test_a_run_on_four_ranks_survives_kill_minus_9_of_any_of_them(tmp_path):
    sets = settings(
        **{"rounds": 12, "partition.clients": 8, "cohort.size": 6, "client.steps": 10},
        **{"strategy.name": "scaffold", "checkpoint.every_s": 0, "evaluation.clients": 0},
        **{"engine.executor": "loop", "engine.workers": 4},
    )
    assert call("simulate", *sets, "--out", tmp_path / "whole").code == 0
    path = tmp_path / "run"
    command = start("simulate", *sets, "--out", path, cwd=tmp_path)
    for workers, victim in ((4, 0), (2, 1), (3, 0)):
        done = len(recorded(path))
        while command.poll() is None and len(recorded(path)) < done + 2:
            time.sleep(0.002)
        forks = children_of(command.pid)
        if command.poll() is None and forks:
            os.kill(forks[0] if victim else command.pid, signal.SIGKILL)
        ended = command.wait()
        if victim and ended.code:
            assert "rank 1" in ended.err
            assert "roundel resume" in ended.err
        assert not any(map(is_alive, forks))
        command = start("resume", path, "--workers", workers, cwd=tmp_path)
    assert command.wait().code == 0
    assert seen(read_history(path)) == seen(read_history(tmp_path / "whole"))


def recorded(path: Path) -> list[str]:
    lines = path / "metrics.jsonl"
    return lines.read_text().splitlines() if lines.exists() else []


def children_of(process: int) -> list[int]:
    return [
        int(child)
        for task in Path(f"/proc/{process}/task").iterdir()
        for child in (task / "children").read_text().split()
    ]


def is_alive(process: int) -> bool:
    """Give a process the time to end; tell whether it has not."""
    for _ in range(500):
        try:
            state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return False
        if state == "Z":
            return False
        time.sleep(0.01)
    return True
