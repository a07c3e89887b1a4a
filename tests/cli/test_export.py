"""`roundel export` writes what runs have recorded for other tools."""

import re
from pathlib import Path

import pytest

from tests.commands import call
from tests.reports.made_exports import made, made_comparison


def test_tables_of_runs_and_comparisons_are_written(workplace):
    made(Path("run"))
    made_comparison(Path("both"))
    ended = call("export", "run", "both", "--to", "csv", "--out", "tables")
    assert (ended.code, ended.out, ended.err) == (0, "4 runs in tables\n", "")
    assert sorted(path.name for path in Path("tables").iterdir()) == ["clients.csv", "rounds.csv"]


def test_without_a_place_it_is_a_new_one(workplace):
    made(Path("run"))
    ended = call("export", "run", "--to", "tensorboard")
    assert re.fullmatch(r"1 run in exports/tensorboard-\d{8}-\d{6}\n", ended.out)
    assert Path(ended.out.split()[-1], "run", "events.out.tfevents.0").is_file()


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (("nowhere", "--to", "csv"), "there is no run directory nowhere; check the path"),
        (("run", "--to", "excel"), "Invalid value for '--to': 'excel' is not one of 'tensorboard'"),
        (("run",), "Missing option '--to'"),
        (("run", "--to", "csv", "--out", "run"), "run is not empty; choose another directory"),
        (("run", "--to", "csv", "--out", "run/config.toml"), "cannot write run/config.toml: "),
    ],
)
def test_what_cannot_be_exported_is_one_sentence_and_code_2(workplace, args, sentence):
    made(Path("run"))
    before = {path: path.stat().st_mtime_ns for path in workplace.rglob("*")}
    ended = call("export", *args)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith(f"roundel: {sentence}"), ended.err
    assert ended.err.count("\n") == 1
    assert {path: path.stat().st_mtime_ns for path in workplace.rglob("*")} == before
