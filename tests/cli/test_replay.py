"""`roundel replay` trains a client again and says by its code whether it came out the same."""

import json
import re
from pathlib import Path

import pytest

from roundel.core.history import History, read_history
from tests.commands import call, settings

MINE = """\
import sys
from dataclasses import replace
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy

from roundel.simulations.tasks.digits import digits


class Sly(Exception):
    def __str__(self):
        return 3 * "a very long story " * 100


def loss(outputs, targets):
    kind = int(Path("trouble").read_text())
    if kind and torch.is_grad_enabled() and (targets == 3).any():
        if kind == 1:
            raise ValueError("no threes")
        if kind == 2:
            sys.exit(0)
        raise Sly
    return cross_entropy(outputs, targets)


def task():
    return replace(digits(), loss=loss)
"""
LINE = MINE[: MINE.index('raise ValueError("no threes")')].count("\n") + 1
SETS = settings(
    task__name="mine:task",
    strategy__name="scaffold",
    rounds=3,
    cohort__size=5,
    evaluation__clients=0,
    client__steps=3,
    partition__clients=8,
    partition__alpha=0.1,
)


@pytest.fixture
def here(workplace) -> Path:
    """A directory with a task of the user's, which gives no trouble."""
    (workplace / "mine.py").write_text(MINE)
    trouble(0)
    return workplace


def trouble(kind: int) -> None:
    Path("trouble").write_text(str(kind))


def simulated(*sets: str) -> History:
    assert call("simulate", *SETS, *sets, "--out", "run").code == 0
    return read_history(Path("run"))


def clients(run: History, status: str, round: int = 3) -> list[int]:
    rows = run.clients()
    return [row["client"] for row in rows if (row["status"], row["round"]) == (status, round)]


def replayed(round: int, client: int, *more: str):
    return call("replay", "run", "--round", round, "--client", client, *more)


def test_an_update_that_comes_out_the_same_exits_with_0(here):
    run = simulated()
    client = clients(run, "accepted")[0]
    ended = replayed(3, client)
    assert (ended.code, ended.err) == (0, "")
    first, second, third = ended.out.splitlines()
    assert first == (
        f"client {client} of round 3: accepted in the run; from the initial model, with 2 rounds "
        "computed again"
    )
    row = next(r for r in run.clients() if (r["round"], r["client"]) == (3, client))
    assert second == (
        f"{row['num_examples']} examples, 3 steps, train_loss {row['train_loss']:.4f}, "
        f"update {row['update_blake3'][:12]}"
    )
    assert third == "the update is the recorded one, bit for bit"


def test_it_begins_at_the_checkpoint_before_the_round(here):
    run = simulated("-s", "checkpoint.every_s=0", "-s", "checkpoint.keep=9")
    before = [int(file.stem[-6:]) for file in Path("run/checkpoints").iterdir()]
    nearest = max((r for r in before if r < 3), default=0)
    ended = replayed(3, clients(run, "accepted")[0])
    start = f"the state after round {nearest}" if nearest else "the initial model"
    again = 2 - nearest
    assert ended.out.splitlines()[0].endswith(
        f"from {start}, with {again} round{'' if again == 1 else 's'} computed again"
    )
    assert ended.code == 0


def test_an_update_that_comes_out_otherwise_exits_with_1(here):
    run = simulated()
    file = Path("run/clients.jsonl")
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    for line in lines:
        if line["round"] == 3:
            line["update_blake3"] = "f" * 64
    file.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    ended = replayed(3, clients(run, "accepted")[0])
    assert ended.code == 1
    assert ended.out.splitlines()[-1] == "the update is NOT the recorded one, ffffffffffff"


def test_a_client_that_fails_again_shows_the_users_line_and_exits_with_0(here):
    trouble(1)
    run = simulated()
    ended = replayed(3, clients(run, "failed")[0])
    assert ended.code == 0
    assert "failed in the run (ValueError: no threes)" in ended.out
    assert ended.out.endswith("it failed as it did in the run\n")
    assert f'File "{here / "mine.py"}", line {LINE}, in loss' in ended.err
    assert ended.err.endswith("ValueError: no threes\n")
    assert ended.err.count("Traceback (most recent call last):") == 1


def test_a_client_that_does_not_fail_again_exits_with_1(here):
    trouble(1)
    run = simulated()
    trouble(0)
    ended = replayed(1, clients(run, "failed", round=1)[0])
    assert ended.code == 1
    assert ended.out.endswith("the run records no update of it to compare with\n")


def test_a_client_that_fails_otherwise_exits_with_1(here):
    trouble(1)
    run = simulated()
    trouble(3)
    ended = replayed(1, clients(run, "failed", round=1)[0])
    assert ended.code == 1
    assert ended.out.endswith("it failed otherwise than in the run\n")


def test_code_that_fails_where_the_run_did_not_exits_with_1(here):
    run = simulated()
    trouble(1)
    codes = {replayed(1, client).code for client in clients(run, "accepted", round=1)}
    assert codes == {0, 1}  # those without a three train as before


@pytest.mark.parametrize("kind", [2, 3], ids=["it exits", "its story is too long to be recorded"])
def test_errors_of_any_form_are_recognised(here, kind):
    trouble(kind)
    run = simulated()
    ended = replayed(1, clients(run, "failed", round=1)[0])
    assert ended.out.endswith("it failed as it did in the run\n")
    assert ended.code == 0


def test_a_client_that_failed_on_purpose_is_trained_all_the_same(here):
    run = simulated("-s", "faults.fail=0.5")
    ended = replayed(3, clients(run, "failed")[0])
    assert ended.code == 0
    assert "failed in the run (it failed on purpose (faults.fail))" in ended.out
    assert ended.out.endswith("the run records no update of it to compare with\n")


def test_the_debugger_opens_where_the_client_fails(here, monkeypatch):
    trouble(1)
    run = simulated()
    opened = []
    monkeypatch.setattr("pdb.post_mortem", opened.append)
    client = clients(run, "failed")[0]
    assert replayed(3, client).code == 0
    assert opened == []
    assert replayed(3, client, "--pdb").code == 0
    (traceback,) = opened
    while traceback.tb_next is not None:
        traceback = traceback.tb_next
    assert (traceback.tb_frame.f_code.co_name, traceback.tb_lineno) == ("loss", LINE)


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (("nowhere", "-r", 1, "-c", 0), "there is no run directory nowhere; check the path"),
        ((".", "-r", 1, "-c", 0), ". is not a run directory: it has no config.toml; give"),
        (("run", "-r", 9, "-c", 0), "run records no round 9; `roundel show run` lists them"),
        (("run", "-r", 1, "-c", 99), r"client 99 was not in the cohort of round 1, which was \d, "),
        (("run", "-r", 0, "-c", 0), "Invalid value for '--round' / '-r': 0 is not in the range"),
        (("run", "-r", 1), "Missing option '--client'"),
    ],
    ids=["no directory", "no run", "no such round", "no such client", "round 0", "no client"],
)
def test_what_was_not_there_is_one_sentence_and_code_2(here, args, sentence):
    simulated("-s", "rounds=1")
    before = {path: path.stat().st_mtime_ns for path in here.rglob("*")}
    ended = call("replay", *args)
    assert ended.code == 2
    assert ended.out == ""
    assert re.match(f"roundel: {sentence}", ended.err), ended.err
    assert ended.err.count("\n") == 1
    assert {path: path.stat().st_mtime_ns for path in here.rglob("*")} == before
