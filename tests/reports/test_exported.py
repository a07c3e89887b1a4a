"""Which runs are exported, and what is said about them."""

import pytest

from roundel.core.errors import ConfigError, RunDirectoryError
from roundel.core.history import read_history
from roundel.reports.exported import ends_s, exported, plain_settings
from tests.reports.made_exports import BEGAN_S, made, made_comparison


def test_a_run_is_called_as_its_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(made(tmp_path / "first"))
    [run] = exported([tmp_path / "first" / ".." / "first"])
    assert (run.name, run.group, run.about) == ("first", "", {})
    assert len(run.history().rounds) == 2


def test_a_comparison_is_those_of_its_runs_that_have_begun(tmp_path):
    runs = exported([made_comparison(tmp_path / "both")])
    assert [run.name for run in runs] == [
        f"both/{run.path.relative_to(tmp_path / 'both' / 'cells')}" for run in runs
    ]
    assert [(run.group, run.about) for run in runs] == [
        ("both", {"problem": "", "arm": "fedavg"}),
        ("both", {"problem": "", "arm": "fedprox mu=0.1"}),
        ("both", {"problem": "", "arm": "fedavg"}),
    ]


def test_runs_of_one_name_are_refused(tmp_path):
    paths = [made(tmp_path / place / "run") for place in ("a", "b")]
    with pytest.raises(ConfigError, match="two runs are called run, and"):
        exported(paths)


def test_a_comparison_without_runs_is_refused(tmp_path):
    path = made_comparison(tmp_path / "both")
    (path / "cells").rename(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match=r"no run of .*both has begun; compute them with"):
        exported([path])


def test_what_is_no_run_is_found_when_it_is_read(tmp_path):
    [run] = exported([tmp_path])
    with pytest.raises(RunDirectoryError, match="is not a run directory"):
        run.history()


def test_settings_have_dotted_names_and_lists_are_text(tmp_path):
    found = plain_settings(read_history(made(tmp_path / "run", "client.lr=0.3")))
    assert (found["client.lr"], found["strategy.parts"], found["rounds"]) == (0.3, "[]", 50)
    assert all(isinstance(value, int | float | str) for value in found.values())


def test_rounds_end_when_those_before_them_are_over(tmp_path):
    history = read_history(made(tmp_path / "run", rounds=3))
    assert ends_s(history) == [BEGAN_S + 0.5, BEGAN_S + 1.0, BEGAN_S + 1.5]
