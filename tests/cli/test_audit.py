"""`roundel audit verify` finds the line that was changed."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from roundel.core.audit import AuditLog, verify
from tests.commands import call

NOW = datetime(2026, 5, 1, 12, 0, tzinfo=UTC)


@pytest.fixture
def trail(tmp_path, monkeypatch) -> Path:
    """Two lines, where the authority of this user has its own."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    directory = tmp_path / "roundel" / "authority"
    directory.mkdir(parents=True)
    log = AuditLog(directory / "audit.jsonl")
    for node in ("a", "b"):
        log.append("enrolled", NOW, node=node)
    return log.path


def test_a_trail_that_is_whole_is_summed_up_in_a_line(trail):
    ended = call("audit", "verify")
    said = f"{trail}: 2 lines, as they were written; the digest of the last is"
    assert (ended.code, ended.out) == (0, f"{said} {verify(trail).digest}\n")


def test_a_file_or_a_directory_may_be_named(trail, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "elsewhere"))
    assert call("audit", "verify", trail).code == 0
    assert call("audit", "verify", "--authority", trail.parent).code == 0
    assert call("audit", "verify").code == 2


def test_a_trail_that_was_changed_is_a_line_with_its_number_and_code_1(trail):
    trail.write_bytes(trail.read_bytes().replace(b'"a"', b'"z"'))
    ended = call("audit", "verify")
    assert ended.code == 1
    assert ended.out == (
        f"{trail}: line 2 does not follow the line before it, so one of the two was changed, added "
        "or removed\n"
    )


def test_without_a_word_the_command_says_what_is_missing():
    ended = call("audit")
    assert ended.code == 2
    assert ended.err == "roundel: Missing command (see `roundel audit --help`)\n"
