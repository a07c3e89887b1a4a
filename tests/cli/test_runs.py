"""`roundel runs` lists the runs of a directory."""

import json

from tests.commands import call
from tests.reports.made_runs import make_run, record, words


def test_it_is_a_table_with_one_line_a_run(tmp_path):
    make_run(tmp_path / "run", record(1), settings=["rounds=1", "name=mine"])
    ended = call("runs", tmp_path)
    assert (ended.code, ended.err) == (0, "")
    head, row = map(words, ended.out.splitlines())
    assert head.startswith("run name strategy task rounds state accuracy loss seconds began")
    assert row.startswith(
        f"{tmp_path / 'run'} mine fedavg digits 1/1 finished 0.1000 1.0000 0.5 20"
    )


def test_a_damaged_run_is_listed_and_the_code_is_0(tmp_path):
    make_run(tmp_path / "a", record(1))
    make_run(tmp_path / "b", record(1))
    (tmp_path / "a" / "metrics.jsonl").write_text("nonsense\n")
    ended = call("runs", tmp_path)
    assert (ended.code, ended.err) == (0, "")
    assert " damaged " in ended.out
    assert "metrics.jsonl is damaged in line 1" in ended.out.splitlines()[-1]


def test_json_is_one_object_a_run_and_nothing_else(tmp_path):
    for name in ("a", "b"):
        make_run(tmp_path / name, record(1))
    lines = [json.loads(line) for line in call("runs", tmp_path, "--json").out.splitlines()]
    assert sorted(line["path"] for line in lines) == [str(tmp_path / "a"), str(tmp_path / "b")]
    assert {line["state"] for line in lines} == {"finished"}


def test_without_a_directory_it_lists_runs_and_says_how_to_make_the_first_one(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    ended = call("runs")
    assert ended.code == 0
    assert ended.out == "there are no runs in runs; `roundel simulate` makes one in runs\n"
    make_run(tmp_path / "runs" / "one", record(1))
    assert "runs/one " in call("runs").out
    assert call("runs", "--json").out.count("\n") == 1


def test_a_directory_that_is_not_there_is_one_sentence_and_code_2(tmp_path):
    ended = call("runs", tmp_path / "absent")
    assert (ended.code, ended.out) == (2, "")
    assert ended.err == f"roundel: there is no directory {tmp_path / 'absent'}; check the path\n"
