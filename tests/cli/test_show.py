"""`roundel show` tells everything about one run."""

import io
import json
import sys

import pytest

from roundel.cli.main import main
from roundel.core.history import read_history
from roundel.core.records import ClientRecord
from tests.commands import TINY, call
from tests.reports.made_runs import make_run, record, words


def test_a_real_run_is_told_with_its_curve_its_partition_and_where_its_files_are(tmp_path):
    run = tmp_path / "run"
    settings = ("-s", "rounds=3", "-s", "strategy.name=fedprox", "-s", "faults.fail=0.5")
    call("simulate", *TINY, *settings, "--out", run)
    ended = call("show", run)
    assert (ended.code, ended.err) == (0, "")
    last = read_history(run).rounds[-1]
    assert ended.out.startswith("experiment: fedprox (mu = 0.01, server_lr = 1.0) on digits")
    assert f"accuracy {last['accuracy']:.4f}" in ended.out
    assert "  cohort.size = 2\n" in ended.out
    assert "  mode simulate" in ended.out or ", mode simulate" in ended.out
    assert "accuracy by round, best" in ended.out
    assert "it failed on purpose (faults.fail)" in ended.out
    assert f"files in {run}" in ended.out
    found = json.loads(call("show", run, "--json").out)
    assert found["final"]["accuracy"] == last["accuracy"]
    assert sum(line["examples"] for line in found["classes"]) == 355
    assert found["partition"]["clients"] == 4


def test_a_round_is_told_client_by_client(tmp_path):
    clients = [
        ClientRecord(round=1, client=3, status="accepted", num_examples=20, update_blake3="ab"),
        ClientRecord(round=1, client=14, status="lost", reason="its node is gone"),
        ClientRecord(round=2, client=5, status="accepted"),
    ]
    make_run(tmp_path / "run", record(1), record(2), clients=clients)
    rows = call("show", tmp_path / "run", "--round", 1).out.splitlines()[1:]
    assert [words(row) for row in rows] == [
        "3 accepted 20 - - - -",
        "14 lost - - - - - its node is gone",
    ]
    lines = call("show", tmp_path / "run", "--round", 1, "--json").out.splitlines()
    assert [json.loads(line) for line in lines] == [one.line() for one in clients[:2]]


def test_a_terminal_without_blocks_gets_a_curve_all_the_same(tmp_path, monkeypatch):
    make_run(tmp_path / "run", record(1), record(2))
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, "latin-1", write_through=True))
    monkeypatch.setattr(sys, "argv", ["roundel", "show", str(tmp_path / "run")])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    assert b"  0.1000 ?? 0.2000\n" in written.getvalue()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["run", "--round", "7"], "run has no clients of round 7; choose one from 1 to 1"),
        (["absent"], "there is no run directory absent; check the path"),
        (["empty"], "empty is not a run directory: it has no config.toml"),
        (["broken"], "broken/metrics.jsonl is damaged in line 1"),
        (["run", "--round", "0"], "Invalid value for '--round'"),
    ],
)
def test_what_cannot_be_shown_is_one_sentence_and_code_2(
    tmp_path, monkeypatch, arguments, sentence
):
    monkeypatch.chdir(tmp_path)
    make_run(tmp_path / "run", record(1))
    make_run(tmp_path / "broken", record(1))
    (tmp_path / "broken" / "metrics.jsonl").write_text("[]\n")
    (tmp_path / "empty").mkdir()
    ended = call("show", *arguments)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith(f"roundel: {sentence}")
    assert ended.err.count("\n") == 1
