"""Private runs from the outside: keys, budgets, going on, and replaying."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from roundel.core.errors import RunDirectoryError
from roundel.core.history import History, read_history
from roundel.core.records import RoundReport
from roundel.simulations import resume, simulate
from roundel.simulations.replay import replay
from roundel.strategies.compose import compose
from roundel.strategies.dp_fedavg import dp_fedavg
from tests.commands import call, settings
from tests.federations import Quadratic, federate, quadratic_task
from tests.killing import killed_in

SMALL = {
    "rounds": 5,
    "partition.clients": 12,
    "cohort.size": 4,
    "client.steps": 2,
    "evaluation.clients": 0,
    "checkpoint.every_s": 3600,
}
PRIVATE = pytest.mark.parametrize("strategy", ["dp_fedavg", "dp_adaptive", "local_dp"])


def sets(strategy: str, **changes: Any) -> list[str]:
    values = {**SMALL, "strategy.name": strategy}
    values |= {key.replace("__", "."): value for key, value in changes.items()}
    return [f"{key}={value}" for key, value in values.items()]


def ran(path: Path, strategy: str, **changes: Any) -> History:
    return simulate(settings=sets(strategy, **changes), out=path)


def cohorts(history: History) -> list[tuple[int, int]]:
    return [(row["round"], row["client"]) for row in history.clients()]


# ---- where noise comes from


@PRIVATE
def test_secure_noise_differs_between_two_runs_with_the_same_seed(tmp_path, strategy):
    one, other = (ran(tmp_path / name, strategy, rounds=2) for name in "ab")
    assert all(a != b for a, b in zip(one.hashes, other.hashes, strict=True))
    assert (one.path / "secrets.jsonl").stat().st_mode & 0o777 == 0o600


@PRIVATE
def test_seeded_noise_is_the_same_and_there_is_no_key(tmp_path, strategy):
    one, other = (
        ran(tmp_path / name, strategy, rounds=2, strategy__noise="seeded") for name in "ab"
    )
    assert one.hashes == other.hashes
    assert cohorts(one) == cohorts(other)
    assert not (one.path / "secrets.jsonl").exists()


def test_who_is_in_a_sampled_cohort_is_as_secret_as_the_noise(tmp_path):
    one, other = (ran(tmp_path / name, "dp_fedavg") for name in "ab")
    assert cohorts(one) != cohorts(other)
    fixed = [ran(tmp_path / f"fixed {n}", "dp_fedavg", strategy__sampling="fixed") for n in "ab"]
    assert cohorts(fixed[0]) == cohorts(fixed[1])


def test_the_same_key_hides_different_sums_by_different_noise(tmp_path, monkeypatch):
    # Were the noise the same, the difference of the two models would be that of the sums, to the
    # last digits.
    monkeypatch.setattr("roundel.core.rundir.draw_secret", lambda: bytes(32))
    models = []
    for name, centre in (("a", 0.0), ("b", 0.0), ("c", 1.0)):
        client = Quadratic.of([1.0, 1.0], [centre, centre]).examples()
        federation = federate(
            tmp_path / name,
            compose(dp_fedavg(clip_norm=4.0, sampling="fixed")),
            quadratic_task(torch.zeros(2, dtype=torch.float64)),
            [client, client],
            lr=0.5,
            steps=1,
            batch_size="full",
        )
        models.append(federation.model["w"])
    still, again, moved = models
    assert still.equal(again)
    assert float((moved - still - 0.5).abs().min()) > 1e-3


def test_nobody_in_a_cohort_is_a_round_of_noise(tmp_path):
    run = ran(tmp_path / "run", "dp_fedavg", cohort__size=1, rounds=8, strategy__noise="seeded")
    empty = [line for line in run.rounds if line["cohort"] == 0]
    assert empty
    assert len(set(run.hashes)) == 8
    assert all(line["train_loss"] is None for line in empty)
    spent = [line["epsilon"] for line in run.rounds]
    assert spent == sorted(set(spent))


def test_rounds_in_which_everybody_drops_out_are_rounds_of_noise(tmp_path):
    # Poisson cohorts of 1 or 2, of whom every other drops out: some rounds hear nobody.
    options = {"cohort__size": 1, "rounds": 12, "faults__drop": 0.5, "strategy__noise": "seeded"}
    run = ran(tmp_path / "run", "dp_fedavg", **options)
    silent = [line for line in run.rounds if line["cohort"] and not line["completed"]]
    assert silent
    assert len(set(run.hashes)) == 12
    assert all(line["train_loss"] is None for line in silent)


def test_an_attacker_does_not_clip_or_hide_what_it_sends_by_noise_of_its_own(tmp_path):
    attack = {"attack__kind": "gaussian", "attack__clients": "[0]", "attack__mean": 1000}
    run = ran(tmp_path / "run", "local_dp", rounds=1, cohort__size=12, **attack)
    norms = {row["client"]: row["update_norm"] for row in run.clients()}
    size = load_file(run.path / "model.safetensors")
    width = sum(tensor.numel() for tensor in size.values())
    assert norms.pop(0) == pytest.approx(1000 * width**0.5, rel=0.01)
    assert max(norms.values()) < 2 * width**0.5


def test_neither_losses_nor_counts_of_clipped_batches_are_told(tmp_path):
    run = ran(tmp_path / "run", "local_dp", rounds=2, client__clip_norm=0.1)
    assert run.series("train_loss") == [None, None]
    assert all("train_loss" not in row for row in run.clients())
    assert [line["health"]["clipped"] for line in run.rounds] == [None, None]


# ---- going on


def unfinished(history: History) -> Path:
    """Take away what a run has written last, as if it had been killed right after its lines."""
    (history.path / "model.safetensors").unlink()
    shutil.rmtree(history.path / "checkpoints")
    (history.path / "checkpoints").mkdir()
    return history.path


@PRIVATE
def test_a_run_that_is_computed_again_gets_the_same_noise(tmp_path, strategy):
    run = ran(tmp_path / "run", strategy)
    before = {p.name: p.read_bytes() for p in run.path.iterdir() if p.suffix == ".jsonl"}
    model = load_file(run.path / "model.safetensors")
    seen: list[RoundReport] = []
    again = resume(unfinished(run), on_round=seen.append)
    assert [report.recomputed for report in seen] == [True] * 5
    assert again.hashes == run.hashes
    assert before == {p.name: p.read_bytes() for p in run.path.iterdir() if p.suffix == ".jsonl"}
    assert all(v.equal(model[n]) for n, v in load_file(run.path / "model.safetensors").items())


@PRIVATE
def test_a_run_that_was_killed_goes_on_with_its_account(tmp_path, strategy):
    with killed_in(3) as die:
        simulate(settings=sets(strategy), out=tmp_path / "run", on_round=die)
    before = read_history(tmp_path / "run")
    keys = (tmp_path / "run" / "secrets.jsonl").read_bytes()
    assert before.series("round") == [1, 2, 3]
    after = resume(tmp_path / "run")
    assert after.hashes[:3] == before.hashes
    assert (tmp_path / "run" / "secrets.jsonl").read_bytes().startswith(keys)
    whole = ran(tmp_path / "whole", strategy)
    assert after.series("epsilon") == whole.series("epsilon")


def test_without_its_keys_a_run_does_not_go_on(tmp_path):
    path = unfinished(ran(tmp_path / "run", "dp_fedavg"))
    (path / "secrets.jsonl").unlink()
    with pytest.raises(RunDirectoryError, match="lacks the key of round 1, which is recorded"):
        resume(path)


@PRIVATE
def test_a_client_of_a_private_run_can_be_replayed(tmp_path, strategy):
    run = ran(tmp_path / "run", strategy, rounds=3)
    rows = list(run.clients())
    for row in (rows[0], rows[-1]):
        assert replay(run.path, row["round"], row["client"]).matches is True


def test_a_key_that_only_a_node_has_is_missed_with_a_sentence(tmp_path):
    run = ran(tmp_path / "run", "local_dp", rounds=1)
    (run.path / "secrets.jsonl").unlink()
    row = next(iter(run.clients()))
    with pytest.raises(RunDirectoryError) as raised:
        replay(run.path, row["round"], row["client"])
    assert str(raised.value) == (
        f"{run.path} does not hold the key of the noise of its clients, which nodes keep to "
        "themselves; what depends on it cannot be computed again"
    )


# ---- budgets


def test_a_run_stops_before_its_budget_is_exceeded_and_stays_stopped(tmp_path):
    path = tmp_path / "run"
    budget = {"strategy__epsilon_budget": 8.0, "strategy__noise_multiplier": 2.0}
    options = settings(**{k.replace(".", "__"): v for k, v in SMALL.items()} | budget)
    ended = call(
        *("simulate", *options, "-s", "rounds=40", "-s", "strategy.name=dp_fedavg"),
        *("-s", "strategy.sampling=fixed", "--out", path),
    )
    assert (ended.code, ended.err) == (0, "")
    lines = read_history(path).rounds
    assert len(lines) == 11  # 10 rounds cost 7.51, 11 cost 7.96 and 12 would cost 8.38
    reason = "one more round would raise epsilon to 8.385, above the budget of 8"
    assert lines[-1]["stopped"] == reason
    assert f"stopped early: {reason}" in ended.out.splitlines()
    assert "any one client is protected by epsilon = 7.955 at delta = 1e-05" in ended.out
    files = {p: p.read_bytes() for p in path.iterdir() if p.is_file()}
    assert call("resume", path).code == 0
    (path / "model.safetensors").unlink()
    assert call("resume", path).code == 0
    assert read_history(path).rounds == lines
    assert files == {p: p.read_bytes() for p in path.iterdir() if p.is_file()}


def test_a_budget_that_is_too_small_leaves_no_run_behind(tmp_path):
    ended = call(
        *("simulate", "-s", "strategy.name=local_dp", "-s", "strategy.epsilon_budget=0.1"),
        *("--out", tmp_path / "run"),
    )
    assert ended.code == 2
    assert ended.err.startswith("roundel: the budget of epsilon = 0.1 does not reach for one round")
    assert not (tmp_path / "run").exists()


def test_what_is_shown_of_a_run_says_what_it_has_spent(tmp_path):
    path = tmp_path / "run"
    ran(path, "dp_fedavg", rounds=2, strategy__sampling="fixed")
    spent = read_history(path).series("epsilon")
    shown = call("show", path).out
    (head,) = [line for line in shown.splitlines() if line.split()[:1] == ["round"]]
    assert "epsilon" in head.split()
    assert all(f"{epsilon:.4f}" in shown for epsilon in spent)
