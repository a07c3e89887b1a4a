"""A run that is killed, however often and whenever, ends as one that never was."""

import json
import os
import random
import re
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from roundel.core.configfile import load_experiment
from roundel.core.history import read_history
from roundel.core.params import params_sha256
from roundel.core.records import RoundReport
from roundel.simulations import resume
from roundel.simulations.population import PartitionedPopulation
from roundel.simulations.prepare import prepare
from tests.commands import TINY, call, run, settings, start

ROUNDS = 12
SCAFFOLD = settings(
    rounds=ROUNDS,
    strategy__name="scaffold",
    partition__clients=6,
    cohort__size=3,
    client__steps=10,
    evaluation__clients=0,
)
OFTEN, NEVER = settings(checkpoint__every_s=0), settings(checkpoint__every_s=3600)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """The run that nobody disturbs."""
    path = tmp_path_factory.mktemp("whole") / "run"
    assert call("simulate", *SCAFFOLD, *NEVER, "--out", path).code == 0
    return path


@pytest.fixture(scope="module")
def _stopped(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("stopped") / "run"
    sets = (*SCAFFOLD, *OFTEN, *settings(checkpoint__keep=3))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("roundel.server.run._SHARE", 0)  # then no checkpoint delays the next
        assert call("simulate", *sets, "--out", path).code == 0
    assert checkpoints(path) == [checkpoint(r) for r in (ROUNDS - 2, ROUNDS - 1, ROUNDS)]
    (path / "model.safetensors").unlink()
    return path


@pytest.fixture
def stopped(_stopped, tmp_path) -> Path:
    """A run that was killed before it wrote its model, with checkpoints of its last 3 rounds."""
    return shutil.copytree(_stopped, tmp_path / "run")


def checkpoint(round: int) -> str:
    return f"round-{round:06d}.safetensors"


def checkpoints(path: Path) -> list[str]:
    return sorted(file.name for file in (path / "checkpoints").iterdir())


def client_rows(path: Path) -> list[dict[str, Any]]:
    """The lines of clients.jsonl, without how long things took."""
    return [row | {"seconds": None} for row in read_history(path).clients()]


def check_same_end(path: Path, whole: Path) -> None:
    """Check that two runs cannot be told apart by what they left behind."""
    one, other = read_history(path), read_history(whole)
    assert one.series("round") == list(range(1, ROUNDS + 1))
    assert one.hashes == other.hashes
    assert one.series("loss") == other.series("loss")
    assert client_rows(path) == client_rows(whole)
    mine, theirs = (load_file(p / "checkpoints" / checkpoint(ROUNDS)) for p in (path, whole))
    assert mine.keys() == theirs.keys()
    assert sum(name.startswith("client/") for name in mine) == 6  # everyone took part by now
    for name, tensor in mine.items():
        assert torch.equal(tensor, theirs[name]), name
    model = "model.safetensors"
    assert (path / model).read_bytes() == (whole / model).read_bytes()
    assert not list(path.rglob(".*.partial"))


def resumed_rounds(path: Path) -> list[tuple[int, bool]]:
    """Resume a run; return each round that was computed and whether it had been recorded."""
    seen: list[tuple[int, bool]] = []

    def note(report: RoundReport) -> None:
        seen.append((report.record.round, report.recomputed))

    resume(path, on_round=note)
    return seen


# ---- kill -9


def survive(
    whole: Path, path: Path, sets: list[str], kills: int, seed: int, said: str = ""
) -> None:
    """Kill a run so many times at random moments, resume it each time, and check how it ends.

    A run that finishes before a kill could land is checked too, and begun anew. What it says on
    stderr is a line of the form `said`, or nothing.
    """
    moments = random.Random(seed)
    began = time.monotonic()
    assert run("simulate", *sets, "--out", path, cwd=path.parent).code == 0
    usual_s = min(1.0, time.monotonic() - began)
    shutil.rmtree(path)
    landed = 0
    while True:
        has_begun = (path / "config.toml").exists()
        verb = ["resume", path] if has_begun else ["simulate", *sets, "--out", path]
        process = start(*verb, cwd=path.parent)
        if landed < kills and not process.ends_within(moments.uniform(0.0, usual_s)):
            process.send(signal.SIGKILL)
            process.wait()
            landed += 1
            if not (path / "config.toml").exists():
                shutil.rmtree(path, ignore_errors=True)
            continue
        ended = process.wait()
        assert ended.code == 0
        assert re.fullmatch(f"({said}\n)?", ended.err), ended.err
        check_same_end(path, whole)
        if landed == kills:
            return
        shutil.rmtree(path)


@pytest.mark.parametrize("pace", [OFTEN, NEVER], ids=["often", "never"])
def test_a_run_killed_at_random_moments_ends_as_one_that_never_was(whole, tmp_path, pace):
    survive(whole, tmp_path / "run", [*SCAFFOLD, *pace], kills=4, seed=7)


def test_a_run_with_failures_on_purpose_killed_at_random_ends_as_one_that_never_was(tmp_path):
    faults = {"cohort__size": 6, "faults__drop": 0.2, "faults__fail": 0.2}
    sets = [*SCAFFOLD, *OFTEN, *settings(**faults)]
    assert call("simulate", *sets, "--out", tmp_path / "whole").code == 0
    statuses = {row["status"] for row in read_history(tmp_path / "whole").clients()}
    assert statuses == {"accepted", "lost", "failed"}
    said = r"round \d+: client \d failed: it failed on purpose \(faults.fail\)"
    survive(tmp_path / "whole", tmp_path / "run", sets, kills=2, seed=3, said=said)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("pace", [OFTEN, NEVER], ids=["often", "never"])
def test_a_run_killed_many_times_ends_as_one_that_never_was(whole, tmp_path, pace, seed):
    survive(whole, tmp_path / "run", [*SCAFFOLD, *pace], kills=12, seed=seed)


# ---- what a crash can leave behind


def test_lines_that_a_crash_tore_are_dropped(stopped, whole):
    for name in ("metrics.jsonl", "clients.jsonl"):
        file = stopped / name
        lines = file.read_bytes().splitlines(keepends=True)
        file.write_bytes(b"".join(lines[:-1]) + lines[-1][: len(lines[-1]) // 2])
    (stopped / "checkpoints" / checkpoint(ROUNDS)).unlink()
    assert resumed_rounds(stopped) == [(ROUNDS, False)]
    check_same_end(stopped, whole)


def test_a_run_can_be_read_while_a_line_is_being_written(stopped):
    with (stopped / "metrics.jsonl").open("a") as file:
        file.write('{"round": 13, "lo')
    assert read_history(stopped).series("round") == list(range(1, ROUNDS + 1))


def test_clients_of_a_round_that_was_not_finished_are_dropped(stopped, whole):
    file = stopped / "metrics.jsonl"
    file.write_bytes(b"".join(file.read_bytes().splitlines(keepends=True)[:-1]))
    (stopped / "checkpoints" / checkpoint(ROUNDS)).unlink()
    assert resumed_rounds(stopped) == [(ROUNDS, False)]
    check_same_end(stopped, whole)


def test_rounds_whose_clients_a_power_cut_has_lost_are_computed_again(stopped, whole):
    file = stopped / "clients.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines[:-4]))  # one of the last round but one, and all of the last
    for number in (ROUNDS - 1, ROUNDS):
        (stopped / "checkpoints" / checkpoint(number)).unlink()
    assert resumed_rounds(stopped) == [(ROUNDS - 1, False), (ROUNDS, False)]
    check_same_end(stopped, whole)


def test_a_checkpoint_that_was_being_written_is_removed(stopped, whole):
    (stopped / "checkpoints" / f".{checkpoint(13)}.partial").write_bytes(b"half of one")
    assert resumed_rounds(stopped) == []
    check_same_end(stopped, whole)


def flip_a_bit_of_a_control_variate(data: bytes) -> bytes:
    """Change the state of one client, and leave the parameters alone."""
    length = int.from_bytes(data[:8], "little")
    tensors = json.loads(data[8 : 8 + length])
    first = next(t["data_offsets"][0] for n, t in tensors.items() if n.startswith("client/"))
    place = 8 + length + first
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: b"",
        lambda data: data[: len(data) // 2],
        lambda data: os.urandom(len(data)),
        lambda data: bytes(len(data)),
        flip_a_bit_of_a_control_variate,
    ],
    ids=["empty", "truncated", "noise", "zeros", "one bit"],
)
def test_a_spoilt_checkpoint_gives_way_to_the_one_before(
    stopped, whole, spoil: Callable[[bytes], bytes]
):
    newest = stopped / "checkpoints" / checkpoint(ROUNDS)
    newest.write_bytes(spoil(newest.read_bytes()))
    assert resumed_rounds(stopped) == [(ROUNDS, True)]
    check_same_end(stopped, whole)


def test_without_a_checkpoint_the_run_starts_again_and_compares(stopped, whole):
    shutil.rmtree(stopped / "checkpoints")
    (stopped / "checkpoints").mkdir()
    assert resumed_rounds(stopped) == [(r, True) for r in range(1, ROUNDS + 1)]
    check_same_end(stopped, whole)


def test_a_round_that_comes_out_differently_is_refused_and_nothing_is_changed(stopped):
    file = stopped / "metrics.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    lines[-1]["params_sha256"] = "f" * 64
    file.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    (stopped / "checkpoints" / checkpoint(ROUNDS)).unlink()
    before = file.read_bytes()
    ended = call("resume", stopped)
    assert ended.code == 1
    assert ended.err.startswith(f"roundel: round {ROUNDS} was recomputed and gave the parameter")
    assert "ffffffffffff is recorded" in ended.err
    assert ended.err.count("\n") == 1
    assert file.read_bytes() == before
    assert not (stopped / "model.safetensors").exists()


# ---- checkpoints by time


def test_between_two_checkpoints_lies_the_time_that_was_asked_for(whole):
    assert checkpoints(whole) == [checkpoint(ROUNDS)]  # an hour between two: only the last


def test_checkpoints_take_a_twentieth_of_the_time_at_most_and_the_newest_are_kept(tmp_path):
    sets = [*TINY, *OFTEN, *settings(rounds=40, checkpoint__keep=1000)]
    call("simulate", *sets, "--out", tmp_path / "all")
    assert 1 <= len(checkpoints(tmp_path / "all")) < 40
    call("simulate", *sets, *settings(checkpoint__keep=1), "--out", tmp_path / "one")
    assert checkpoints(tmp_path / "one") == [checkpoint(40)]


# ---- determinism


def test_another_process_gives_the_same_hashes(whole, tmp_path):
    assert run("simulate", *SCAFFOLD, "--out", tmp_path / "run", cwd=tmp_path).code == 0
    check_same_end(tmp_path / "run", whole)


def hashes_of(path: Path, **changes: object) -> list[str]:
    sets = settings(**{"rounds": 2, "client__steps": 2, **changes})
    assert call("simulate", *SCAFFOLD, *sets, "--out", path).code == 0
    return read_history(path).hashes


def test_another_seed_gives_other_hashes_from_the_first_round_on(tmp_path):
    one, other = (hashes_of(tmp_path / str(seed), seed=seed) for seed in (1, 2))
    assert all(a != b for a, b in zip(one, other, strict=True))


def traits_of(path: Path, *sets: str) -> dict[str, object]:
    """What each seed decides: a fingerprint of it."""
    experiment = load_experiment(None, [s for s in (*SCAFFOLD, *sets) if s != "-s"])
    simulation = prepare(experiment)
    population = simulation.population
    assert isinstance(population, PartitionedPopulation)
    initial = simulation.server("").initial_state()
    hashes = hashes_of(path, **{key.replace(".", "__"): value for key, value in pairs(sets)})
    rows = read_history(path).clients()
    return {
        "data": [population.client(k).train.targets.tolist() for k in range(population.size)],
        "model": params_sha256(initial.params, initial.integers),
        "sampling": [(row["round"], row["client"]) for row in rows],
        "training": hashes[0],
    }


def pairs(sets: tuple[str, ...]) -> list[tuple[str, str]]:
    return [(s.partition("=")[0], s.partition("=")[2]) for s in sets if s != "-s"]


@pytest.mark.parametrize("varied", ["data", "model", "sampling", "training"])
def test_each_seed_varies_one_thing_alone(tmp_path, varied):
    before = traits_of(tmp_path / "before")
    after = traits_of(tmp_path / "after", *settings(**{f"seeds__{varied}": 5}))
    assert {name for name in before if before[name] != after[name]} == {varied, "training"}


def test_the_seed_is_what_a_seed_that_is_not_set_takes(tmp_path):
    every = {f"seeds__{name}": 5 for name in ("data", "model", "sampling", "training")}
    assert hashes_of(tmp_path / "one", seed=5) == hashes_of(tmp_path / "all", **every)
