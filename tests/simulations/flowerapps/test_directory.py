"""The run directory of an app."""

from contextlib import closing

import pytest

from roundel.core.errors import RunDirectoryError
from roundel.core.runfiles import is_app_run
from roundel.simulations.flowerapps.directory import AppDirectory

ENVIRONMENT = {"run_id": "r"}


def made(path):
    return closing(AppDirectory.create(path, {"seed": 1}, ENVIRONMENT))


def test_one_that_was_made_can_be_opened_with_what_it_says(tmp_path):
    assert not is_app_run(tmp_path / "run")
    with made(tmp_path / "run") as directory:
        directory.add_round({"round": 1})
        directory.fail("no reply")
    assert is_app_run(tmp_path / "run")
    with closing(AppDirectory.open(tmp_path / "run")) as directory:
        assert (directory.app, directory.environment) == ({"seed": 1}, ENVIRONMENT)
        assert (directory.rounds, directory.finished) == (1, False)
        directory.save_model(b"arrays")
        assert not directory.finished
        directory.finish()
        assert directory.finished
    assert (tmp_path / "run/finished.txt").read_text() == "1\n"


def test_a_run_without_arrays_is_finished_too(tmp_path):
    with made(tmp_path / "run") as directory:
        directory.finish()
    with closing(AppDirectory.open(tmp_path / "run")) as directory:
        assert directory.finished


def test_why_a_run_failed_is_kept_until_it_does_go_on(tmp_path):
    with made(tmp_path / "run") as directory:
        directory.fail("no reply")
    with closing(AppDirectory.open(tmp_path / "run")) as directory:
        assert (tmp_path / "run/failed.txt").read_text() == "no reply\n"
        directory.go_on()
        assert not (tmp_path / "run/failed.txt").exists()
        directory.go_on()


def test_half_a_line_that_a_crash_has_left_is_cut_off(tmp_path):
    with made(tmp_path / "run") as directory:
        directory.add_round({"round": 1})
    with (tmp_path / "run/metrics.jsonl").open("a") as file:
        file.write('{"round": 2, "tr')
    with closing(AppDirectory.open(tmp_path / "run")) as directory:
        directory.add_round({"round": 2})
        assert directory.rounds == 2
    assert (tmp_path / "run/metrics.jsonl").read_text() == '{"round": 1}\n{"round": 2}\n'


def test_two_processes_cannot_write_to_one(tmp_path):
    with (
        made(tmp_path / "run"),
        pytest.raises(RunDirectoryError, match="in use by another process"),
    ):
        AppDirectory.open(tmp_path / "run")


def test_what_is_none_is_one_sentence(tmp_path):
    with pytest.raises(RunDirectoryError, match=r"is damaged: its flower\.toml or environment"):
        AppDirectory.open(tmp_path)
