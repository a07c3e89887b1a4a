"""What lies in a run directory is read without writing to it."""

import json

import pytest

from roundel.core.configfile import dump_experiment, load_experiment
from roundel.core.errors import RunDirectoryError
from roundel.core.runfiles import SCHEMA_VERSION, is_run, read_lines, read_run, read_secrets

EXPERIMENT = load_experiment(None, ["rounds=3"])
ENVIRONMENT = {"schema_version": SCHEMA_VERSION, "run_id": "r", "engine": {"threads": 1}}


@pytest.fixture
def run(tmp_path):
    (tmp_path / "config.toml").write_text(dump_experiment(EXPERIMENT))
    (tmp_path / "environment.json").write_text(json.dumps(ENVIRONMENT))
    return tmp_path


def test_a_run_says_what_it_ran_and_on_what(run):
    assert is_run(run)
    assert read_run(run) == (EXPERIMENT, ENVIRONMENT)


def test_a_directory_without_an_experiment_is_no_run(tmp_path):
    assert not is_run(tmp_path)
    with pytest.raises(RunDirectoryError, match=r"is not a run directory: it has no config.toml"):
        read_run(tmp_path)
    with pytest.raises(RunDirectoryError, match=r"there is no run directory .*nowhere; check"):
        read_run(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("config.toml", "rounds = 'x'", r"is damaged: rounds = 'x' is not allowed"),
        ("environment.json", "{", r"is damaged: environment.json cannot be read"),
        ("environment.json", "{}", r"is damaged: environment.json cannot be read"),
    ],
)
def test_a_damaged_file_is_named(run, name, content, sentence):
    (run / name).write_text(content)
    with pytest.raises(RunDirectoryError, match=sentence):
        read_run(run)


def test_a_run_of_another_format_is_not_read(run):
    (run / "environment.json").write_text(json.dumps({**ENVIRONMENT, "schema_version": 99}))
    with pytest.raises(RunDirectoryError, match="was written in format 99"):
        read_run(run)


def test_a_line_without_its_end_does_not_count_and_a_file_that_is_not_there_has_none(tmp_path):
    lines = tmp_path / "metrics.jsonl"
    assert list(read_lines(lines)) == []
    lines.write_text('{"round": 1}\n{"round": 2}')
    assert list(read_lines(lines)) == [{"round": 1}]


@pytest.mark.parametrize("line", ["[]", "{", '{"loss": 1}'])
def test_a_line_that_is_no_object_about_a_round_is_damage_with_its_number(tmp_path, line):
    lines = tmp_path / "metrics.jsonl"
    lines.write_text(f'{{"round": 1}}\n{line}\n')
    with pytest.raises(RunDirectoryError, match=r"metrics.jsonl is damaged in line 2; restore it"):
        list(read_lines(lines))


def test_a_run_that_has_drawn_no_keys_has_none(run):
    assert read_secrets(run) == {}


@pytest.mark.parametrize(
    "line",
    [
        {"round": 2},
        {"round": 2, "key": None},
        {"round": 2, "key": 7},
        {"round": 2, "key": "no hex"},
        {"round": 2, "key": "00" * 31},
        {"round": 2, "key": "00" * 33},
        {"key": "00" * 32},
    ],
)
def test_a_line_that_is_no_key_is_named(run, line):
    good = {"round": 1, "key": "01" * 32}
    (run / "secrets.jsonl").write_text(f"{json.dumps(good)}\n{json.dumps(line)}\n")
    with pytest.raises(RunDirectoryError, match=r"secrets.jsonl is damaged in line 2"):
        read_secrets(run)


def test_keys_are_read_while_one_is_being_written(run):
    good = {"round": 1, "key": "01" * 32}
    (run / "secrets.jsonl").write_text(f'{json.dumps(good)}\n{{"round": 2, "ke')
    assert read_secrets(run) == {1: bytes([1]) * 32}
