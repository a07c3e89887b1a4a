"""All runs of a directory in one table, damaged ones included."""

import json
import os

import pytest

from roundel.core.errors import RunDirectoryError
from roundel.core.runfiles import read_run
from roundel.reports.listing import RunRow, list_runs, listing, read_row
from tests.reports.made_runs import make_run, record, words


def at(path, seconds: int):
    """Let a run have begun so many seconds after the beginning of 1970."""
    os.utime(path / "config.toml", (seconds, seconds))


def test_a_row_says_what_ran_how_far_it_came_and_how_good_it_is(tmp_path):
    path = tmp_path / "run"
    make_run(
        path, record(1), record(2), settings=["rounds=2", "name=mine", "strategy.name=fedadam"]
    )
    at(path, 60)
    assert read_row(path) == RunRow(
        path=path,
        state="finished",
        name="mine",
        strategy="fedadam",
        task="digits",
        done=2,
        rounds=2,
        accuracy=0.2,
        loss=0.5,
        seconds=1.0,
        began="1970-01-01T00:01:00+00:00",
    )


def test_a_run_without_a_final_model_is_unfinished(tmp_path):
    make_run(tmp_path / "run", record(1), settings=["rounds=5"], finished=False)
    row = read_row(tmp_path / "run")
    assert (row.state, row.done, row.rounds) == ("unfinished", 1, 5)


def test_a_run_that_failed_says_why_in_one_line(tmp_path):
    make_run(tmp_path / "run", record(1), settings=["rounds=5"], finished=False)
    (tmp_path / "run" / "failed.txt").write_text("round 2 has no update\n\nTraceback ...\n")
    row = read_row(tmp_path / "run")
    assert (row.state, row.problem) == (
        "failed",
        f"{tmp_path / 'run'} failed: round 2 has no update",
    )


def test_a_run_without_a_round_has_no_figures(tmp_path):
    make_run(tmp_path / "run", finished=False)
    row = read_row(tmp_path / "run")
    assert (row.done, row.accuracy, row.loss, row.seconds) == (0, None, None, 0.0)


def test_the_figures_are_those_of_the_last_round_that_was_evaluated(tmp_path):
    make_run(tmp_path / "run", record(1), record(2), record(3, metrics={}))
    row = read_row(tmp_path / "run")
    assert (row.done, row.accuracy, row.loss) == (3, 0.2, 0.5)


def test_a_run_that_stopped_early_is_finished_and_says_why(tmp_path):
    make_run(tmp_path / "run", record(1, stopped="accuracy reached 0.1"))
    row = read_row(tmp_path / "run")
    assert (row.state, row.stopped) == ("finished", "accuracy reached 0.1")
    assert "  stopped early  " in listing([row])


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("config.toml", "rounds = "),
        ("config.toml", "no_such_key = 1"),
        ("environment.json", "{"),
        ("environment.json", "[]"),
        ("environment.json", '{"schema_version": 99, "run_id": "a", "engine": {}}'),
        ("metrics.jsonl", "nonsense\n"),
        ("metrics.jsonl", '{"round": 1}\n[]\n'),
    ],
)
def test_a_damaged_run_is_a_row_with_the_reason_and_the_others_are_listed(tmp_path, file, content):
    make_run(tmp_path / "broken", record(1))
    make_run(tmp_path / "whole", record(1))
    (tmp_path / "broken" / file).write_text(content)
    broken, whole = sorted(list_runs(tmp_path), key=lambda row: row.path)
    assert (broken.state, whole.state) == ("damaged", "finished")
    assert broken.problem is not None
    assert str(tmp_path / "broken") in broken.problem
    assert listing([broken, whole]).endswith(broken.problem)


@pytest.mark.parametrize("file", ["config.toml", "environment.json"])
def test_a_run_that_lost_a_file_is_damaged(tmp_path, file):
    make_run(tmp_path / "run", record(1))
    (tmp_path / "run" / file).unlink()
    (row,) = list_runs(tmp_path)
    assert row.state == "damaged"


def test_lines_of_another_version_are_read_as_far_as_they_are_understood(tmp_path):
    make_run(tmp_path / "run", record(1))
    line = {"round": 1, "accuracy": "high", "loss": 0.5, "seconds": None, "params_sha256": "00"}
    (tmp_path / "run" / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    row = read_row(tmp_path / "run")
    assert (row.accuracy, row.loss, row.seconds) == (None, 0.5, 0.0)


def test_runs_are_found_in_directories_below_and_the_newest_comes_last(tmp_path):
    for name, seconds in (("b", 30), ("study/a", 20), ("study/seeds/1", 40), ("z", 10)):
        make_run(tmp_path / name, record(1))
        at(tmp_path / name, seconds)
    found = [str(row.path.relative_to(tmp_path)) for row in list_runs(tmp_path)]
    assert found == ["z", "study/a", "b", "study/seeds/1"]


def test_the_runs_of_a_comparison_are_listed_with_the_others(tmp_path):
    make_run(tmp_path / "comparison" / "cells" / "alpha=0.1" / "fedavg" / "seed-0", record(1))
    assert len(list_runs(tmp_path)) == 1


def test_what_lies_in_a_run_or_is_none_is_not_listed(tmp_path):
    make_run(tmp_path / "run", record(1))
    make_run(tmp_path / "run" / "inner", record(1))
    make_run(tmp_path / ".hidden", record(1))
    (tmp_path / "notes").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "run")
    assert [row.path.name for row in list_runs(tmp_path)] == ["run"]


def test_the_directory_may_be_a_run_itself(tmp_path):
    make_run(tmp_path / "run", record(1))
    assert [row.path for row in list_runs(tmp_path / "run")] == [tmp_path / "run"]


def test_a_directory_that_is_not_there_is_one_sentence(tmp_path):
    with pytest.raises(RunDirectoryError, match=r"there is no directory .*absent; check the path"):
        list_runs(tmp_path / "absent")


def test_the_table_has_a_line_a_run_and_dashes_for_what_is_not_known(tmp_path):
    rows = [
        RunRow(
            path=tmp_path / "a",
            state="finished",
            name="mine",
            strategy="fedavg",
            task="digits",
            done=5,
            rounds=5,
            accuracy=0.5,
            loss=1.25,
            seconds=3.25,
        ),
        RunRow(path=tmp_path / "b", state="damaged", problem="b is damaged"),
    ]
    head, *lines, problem = map(words, listing(rows).splitlines())
    assert head == "run name strategy task rounds state accuracy loss seconds began"
    assert lines == [
        f"{tmp_path / 'a'} mine fedavg digits 5/5 finished 0.5000 1.2500 3.2 -",
        f"{tmp_path / 'b'} - - - - damaged - - - -",
    ]
    assert problem == "b is damaged"


def test_the_run_of_a_flower_app_is_listed_by_how_far_it_came(tmp_path):
    for name, files in {
        "open": (),
        "over": ("finished.txt",),
        "wrong": ("failed.txt",),
    }.items():
        (tmp_path / name).mkdir()
        for file in ("flower.toml", "environment.json", "metrics.jsonl", *files):
            (tmp_path / name / file).write_text("no node\n" if file == "failed.txt" else "")
    rows = {row.path.name: row for row in list_runs(tmp_path)}
    states = {name: (row.state, row.task, row.problem) for name, row in rows.items()}
    why = f"{tmp_path / 'wrong'} failed: no node"
    assert states == {
        "open": ("unfinished", "a Flower app", None),
        "over": ("finished", "a Flower app", None),
        "wrong": ("failed", "a Flower app", why),
    }
    with pytest.raises(RunDirectoryError, match="over is the run of a Flower app, of which no"):
        read_run(tmp_path / "over")
