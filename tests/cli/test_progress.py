"""What a run shows: a live view on a terminal, a line or a JSON object a round elsewhere."""

import json
import re
from dataclasses import replace
from datetime import datetime
from math import inf, nan

import pytest
import torch
import typer

from roundel.cli.progress import _LiveView, interruptible, resumable, watching
from roundel.core.config import PartitionConfig
from roundel.core.data import Examples
from roundel.core.records import ClientRecord, RoundRecord, RoundReport
from roundel.core.runfiles import CONFIG
from roundel.core.status import NodeState, NodeStatus, RoundStatus, Snapshot
from roundel.simulations.partitions import describe
from roundel.simulations.population import PartitionedPopulation
from tests.commands import on_terminal, settings

BROKEN = ClientRecord(
    round=1, client=7, status="failed", reason="ValueError: bad pixel", location="mine.py:12"
)
REFUSED = ClientRecord(round=1, client=8, status="rejected", reason="it diverged")
SILENT = ClientRecord(round=1, client=9, status="lost", reason="its node is gone")


def report(round=1, clients=(), recomputed=False, **metrics: float) -> RoundReport:
    record = RoundRecord(
        round=round,
        metrics=metrics or {"loss": 0.5, "accuracy": 0.75},
        train_loss=0.25,
        cohort=20,
        completed=20 - len(clients),
        failures=len(clients),
        bytes_up=1_500,
        bytes_down=2_000,
        seconds=1.5,
        params_sha256="ab" * 32,
    )
    return RoundReport(record=record, clients=tuple(clients), recomputed=recomputed)


def shown(capsys, *reports: RoundReport, as_json=False) -> tuple[list[str], list[str]]:
    """Lines on stdout and stderr, neither of which is a terminal."""
    with watching(9, 0, as_json=as_json) as view:
        for one in reports:
            view.show(one)
    captured = capsys.readouterr()
    return captured.out.splitlines(), captured.err.splitlines()


def test_without_a_terminal_each_round_is_one_plain_line(capsys):
    out, err = shown(capsys, report(1), report(2))
    figures = "accuracy 0.7500  loss 0.5000  train_loss 0.2500  clients 20/20  3.5 kB  1.50 s"
    assert out == [f"round 1/9  {figures}", f"round 2/9  {figures}"]
    assert err == []


def test_json_is_one_object_a_round_as_the_run_directory_has_it(capsys):
    one = report(3)
    out, _ = shown(capsys, one, as_json=True)
    assert [json.loads(line) for line in out] == [one.record.line()]


@pytest.mark.parametrize("number", [nan, inf, -inf])
def test_a_figure_that_is_not_finite_is_null_in_json(capsys, number):
    (line,), _ = shown(capsys, report(loss=number), as_json=True)
    assert json.loads(line, parse_constant=pytest.fail)["loss"] is None


@pytest.mark.parametrize("as_json", [False, True])
def test_a_failed_client_is_reported_on_stderr_with_its_round_and_the_users_line(capsys, as_json):
    out, err = shown(capsys, report(1, [BROKEN]), as_json=as_json)
    assert len(out) == 1
    (line,) = err
    assert line == (
        "round 1: client 7 failed: ValueError: bad pixel at mine.py:12 "
        "(traceback in the run directory, failures/)"
    )


@pytest.mark.parametrize("as_json", [False, True])
def test_the_same_failure_is_reported_once(capsys, as_json):
    _, err = shown(capsys, report(1, [BROKEN]), report(2, [BROKEN]), as_json=as_json)
    assert len(err) == 1


def test_a_refused_client_is_reported_and_a_lost_one_is_only_counted(capsys):
    out, err = shown(capsys, report(1, [REFUSED, SILENT]))
    assert err == ["round 1: client 8 rejected: it diverged"]
    assert "clients 18/20" in out[0]


def test_that_memory_is_short_is_said_once_for_each_width(capsys):
    narrow = [
        RoundReport(record=replace(report(number).record, width=width))
        for number, width in ((1, None), (2, 8), (3, 8), (4, 4))
    ]
    _, err = shown(capsys, *narrow)
    assert err == [
        "round 2: memory is short; 8 clients at most are trained at once",
        "round 4: memory is short; 4 clients at most are trained at once",
    ]


@pytest.mark.parametrize("as_json", [False, True])
def test_a_round_that_was_shown_before_an_interruption_is_not_shown_again(capsys, as_json):
    out, err = shown(capsys, report(1, [BROKEN], recomputed=True), as_json=as_json)
    assert (out, err) == ([], [])


def test_on_a_terminal_the_last_lines_say_how_far_how_good_and_how_healthy(tmp_path):
    sets = settings(rounds=3, cohort__size=20, evaluation__clients=0)
    seen = on_terminal("simulate", *sets, cwd=tmp_path, columns=100)
    assert seen.code == 0
    assert seen.err == ""
    lines = [line.strip() for line in seen.text.splitlines() if line.strip()]
    bars = [line for line in lines if re.fullmatch(r"round \d/3 \S+ [0-9:-]+ left", line)]
    assert bars[0].endswith("-:--:-- left")
    assert bars[-1].startswith("round 3/3")
    assert bars[-1].endswith("0:00:00 left")
    figures, health = lines[-lines[::-1].index(bars[-1]) :][:2]
    assert re.fullmatch(
        r"accuracy 0\.\d{4} \([+-]0\.\d{4}\)  loss \d\.\d{4}  failures 0  2\.3 MB  "
        r"\d+\.\d\d s/round",
        figures,
    )
    assert re.fullmatch(r"norm \d\S*", health)
    assert lines[-1].startswith("results are in runs/experiment-")


def test_on_a_terminal_epsilon_grows_in_the_line_of_figures(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes any output for a terminal then
    told = []
    with watching(2, 0, as_json=False) as view:
        assert isinstance(view, _LiveView)
        for number, epsilon in ((1, 4.3771), (2, 6.5729)):
            one = report(number)
            spent = {"epsilon": epsilon, "delta": 1e-5}
            view.show(replace(one, record=replace(one.record, privacy=spent)))
            view.live.refresh()
            told += re.findall(r"loss 0\.5000  (epsilon \S+)  failures 0", plain(capsys))
    assert list(dict.fromkeys(told)) == ["epsilon 4.377", "epsilon 6.573"]


def plain(capsys) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", capsys.readouterr().out)


def test_on_a_terminal_a_private_run_ends_with_what_it_has_spent(tmp_path):
    private = {"strategy__name": "dp_fedavg", "strategy__sampling": "fixed"}
    sets = settings(rounds=2, evaluation__clients=0, **private)
    seen = on_terminal("simulate", *sets, cwd=tmp_path, columns=100)
    assert seen.code == 0
    # Which rounds are drawn on the way depends on how fast they are; the last one always is.
    spent = re.findall(r"loss \d\.\d{4}  epsilon (\S+)  failures 0", seen.text)
    assert spent[-1] == "6.573"


def test_nothing_of_the_live_view_is_wider_than_the_terminal(tmp_path):
    seen = on_terminal(
        *("simulate", "-s", "rounds=2", "-s", "evaluation.clients=0", "--out", "r"),
        cwd=tmp_path,
        columns=72,
    )
    assert max(map(len, seen.text.splitlines())) <= 72
    assert "s/round" in seen.text


def test_an_interrupt_exits_with_130_and_the_hint(capsys):
    with pytest.raises(typer.Exit) as exited, interruptible(lambda: "do that"):
        raise KeyboardInterrupt
    assert exited.value.exit_code == 130
    assert capsys.readouterr().err == "roundel: interrupted; do that\n"


def test_the_hint_names_the_run_only_if_it_has_begun(tmp_path, capsys):
    for expected in ("nothing was run yet", f"go on with `roundel resume {tmp_path}`"):
        with pytest.raises(typer.Exit), resumable(tmp_path):
            raise KeyboardInterrupt
        assert capsys.readouterr().err == f"roundel: interrupted; {expected}\n"
        (tmp_path / CONFIG).touch()


def test_the_partition_is_shown_once_before_the_rounds_and_not_in_json(capsys):
    population = PartitionedPopulation.of(
        PartitionConfig(clients=3, kind="iid"), Examples(torch.zeros(9), torch.arange(9) % 3), 0
    )
    for as_json in (False, True):
        with watching(9, 0, as_json=as_json) as view:
            view.begin(describe(population, seed=0))
        out = capsys.readouterr().out
        assert out.startswith("" if as_json else "iid: 3 clients, 9 examples\n")
        assert (out == "") is as_json


def test_a_failed_evaluation_is_reported_as_a_failed_training_is(capsys):
    failed = replace(BROKEN, stage="evaluate")
    _, err = shown(capsys, report(1, [failed]), report(2, [BROKEN, failed]))
    assert len(err) == 1
    assert "client 7 failed: ValueError: bad pixel at mine.py:12" in err[0]


# ---- a federation of nodes

HERE = NodeStatus(name="edge7", state=NodeState.TRAINING, clients=30, round=1, silent_s=0.5)
GONE = replace(HERE, state=NodeState.AWAY, silent_s=21.0)
OPENED = RoundStatus(round=1, cohort=16, accepted=0, target=16, quorum=12)


def federation(*nodes: NodeStatus, opened: RoundStatus | None = None) -> Snapshot:
    return Snapshot(
        run="r", rounds=9, done=0, population=100, hosted=30, nodes=nodes, open_round=opened
    )


STORY = (
    federation(),
    federation(HERE),
    federation(HERE, opened=OPENED),
    federation(GONE, opened=replace(OPENED, missing=("edge7",))),
    federation(HERE, opened=OPENED),
)


def test_without_a_terminal_what_changes_at_the_nodes_is_a_line_on_stderr(capsys):
    with watching(9, 0, as_json=False) as view:
        for snapshot in (*STORY, STORY[-1]):
            view.status(snapshot)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [
        "edge7 joined with 30 clients",
        "round 1/9 asks 16 clients",
        "edge7 is away with 30 clients",
        "edge7 is back with 30 clients",
    ]


def test_in_json_what_changes_is_an_object_with_an_event_and_rounds_have_none(capsys):
    with watching(9, 0, as_json=True) as view:
        for snapshot in STORY:
            view.status(snapshot)
        view.show(report(1))
    *events, last = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [event["event"] for event in events] == [
        *("node_joined", "round_started", "node_away", "round_waits", "node_back"),
    ]
    assert all(datetime.fromisoformat(event["time"]).tzinfo for event in events)
    assert events[0]["node"] == "edge7"
    assert last == report(1).record.line()


def test_on_a_terminal_the_nodes_are_a_table_above_the_progress(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "80")
    with watching(9, 0, as_json=False) as view:
        assert isinstance(view, _LiveView)
        for snapshot in STORY[:4]:
            view.status(snapshot)
        view.live.refresh()
        shown = [line.rstrip() for line in plain(capsys).splitlines()]
        assert "edge7 is away with 30 clients" in shown  # above, and it stays there
        assert "edge7 joined with 30 clients" not in shown
        table = shown[-7:]
        assert table[:5] == [
            "round 1/9   0 of 16 updates   quorum 12   open for 0:00",
            "1 node, 30 of 100 clients: 1 away",
            "round 1 waits for edge7, away: 12 updates short of its quorum",
            "node   state  round  open  progress     bytes  failed  seen",
            "edge7  away       1  0/30                 0 B       -  21 s",
        ]
        assert table[5].startswith("round 0/9")
        assert table[6] == "no round has finished yet"


def test_on_a_small_terminal_the_table_leaves_room_for_the_progress(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("LINES", "12")
    crowd = [replace(HERE, name=f"edge{number}") for number in range(200)]
    with watching(9, 0, as_json=False) as view:
        assert isinstance(view, _LiveView)
        view.status(federation(*crowd))
        capsys.readouterr()
        view.live.refresh()
        shown = [line.rstrip() for line in plain(capsys).splitlines()]
    assert len(shown) <= 12
    assert shown[-3] == "and 197 more: 197 training"
    assert shown[-1] == "no round has finished yet"
