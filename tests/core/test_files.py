"""Files that are whole or not there."""

import errno
import os
from math import inf, nan

import pytest

from roundel.core.errors import RunDirectoryError
from roundel.core.files import LineFile, check_empty, json_line, replace_file, write_atomic, writing


def test_a_file_is_replaced_in_one_step_and_nothing_is_left_beside_it(tmp_path):
    path = tmp_path / "config.toml"
    write_atomic(path, b"old")
    write_atomic(path, b"new")
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_cannot_be_replaced_stays_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "model"
    write_atomic(path, b"old")

    def full(_handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunDirectoryError, match=r"cannot write .*model: No space left on device"):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_two_that_write_a_file_at_once_leave_each_other_alone(tmp_path):
    path = tmp_path / "report.html"

    def slowly():
        yield b"one "
        write_atomic(path, b"another")
        yield b"whole"

    replace_file(path, slowly())
    assert path.read_bytes() == b"one whole"
    assert list(tmp_path.iterdir()) == [path]


def test_errors_of_the_system_become_a_sentence_about_the_file(tmp_path):
    with (
        pytest.raises(RunDirectoryError, match="choose another place with --out"),
        writing(tmp_path),
    ):
        (tmp_path / "missing" / "file").write_bytes(b"")


def test_a_lack_of_file_handles_does_not_read_like_a_full_disk(tmp_path):
    with (
        pytest.raises(RunDirectoryError, match=r"Too many open files; .* with `ulimit -n`$"),
        writing(tmp_path),
    ):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


def test_lines_are_added_in_order(tmp_path):
    lines = LineFile(tmp_path / "metrics.jsonl")
    lines.append([{"round": 1}, {"round": 2}])
    lines.append([{"round": 3}])
    lines.sync()
    lines.close()
    assert lines.path.read_text() == '{"round": 1}\n{"round": 2}\n{"round": 3}\n'


def test_a_batch_of_lines_that_does_not_fit_leaves_no_part_of_it(tmp_path, monkeypatch):
    lines = LineFile(tmp_path / "clients.jsonl")
    lines.append([{"round": 1}])
    write = os.write

    def half_then_full(handle, data):
        monkeypatch.setattr(os, "write", full)
        return write(handle, data[: len(data) // 2])

    def full(_handle, _data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", half_then_full)
    with pytest.raises(RunDirectoryError, match="No space left on device"):
        lines.append([{"round": 2}, {"round": 3}])
    lines.close()
    assert lines.path.read_text() == '{"round": 1}\n'


@pytest.mark.parametrize("value", [nan, inf, -inf])
def test_a_number_that_json_cannot_say_is_null(value):
    line = json_line({"loss": value, "clients": {"p10": [value, 1.5]}})
    assert line == '{"loss": null, "clients": {"p10": [null, 1.5]}}'


def test_a_directory_for_something_new_is_empty_or_not_there_yet(tmp_path):
    check_empty(tmp_path / "new", "name another")
    check_empty(tmp_path, "name another")
    (tmp_path / "file").write_text("")
    for path in (tmp_path, tmp_path / "file"):
        with pytest.raises(RunDirectoryError) as refused:
            check_empty(path, "name another")
        assert str(refused.value) == f"{path} is not an empty directory; name another"
