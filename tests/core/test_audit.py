"""An audit trail shows at which line it was changed."""

import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from roundel.core import audit
from roundel.core.audit import FIRST, AuditLog, Verified, verify
from roundel.core.errors import ConfigError, RunDirectoryError

NOW = datetime(2026, 5, 1, 12, 0, tzinfo=UTC)


@pytest.fixture
def trail(tmp_path) -> Path:
    """Four lines."""
    log = AuditLog(tmp_path / "audit.jsonl")
    for number in range(4):
        log.append("enrolled", NOW, node=f"edge{number}")
    return log.path


def lines(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines(keepends=True)


def test_a_line_says_what_happened_and_what_it_follows(trail):
    first, second = (json.loads(line) for line in lines(trail)[:2])
    assert first == {
        "previous_sha256": "0" * 64,
        "at": "2026-05-01T12:00:00.000+00:00",
        "event": "enrolled",
        "node": "edge0",
    }
    assert second["previous_sha256"] == hashlib.sha256(lines(trail)[0]).hexdigest()


def test_a_trail_as_it_was_written_is_found_to_be_so(trail):
    last = hashlib.sha256(lines(trail)[3]).hexdigest()
    assert verify(trail) == Verified(lines=4, digest=last)


def test_an_empty_trail_has_no_lines(tmp_path):
    assert verify(AuditLog(tmp_path / "audit.jsonl").path) == Verified(lines=0, digest=FIRST)


def test_a_changed_line_is_found_at_the_line_after_it(trail):
    trail.write_bytes(trail.read_bytes().replace(b"edge1", b"edgeX"))
    found = verify(trail)
    assert found.lines == 2
    assert found.problem.startswith("does not follow the line before it")


@pytest.mark.parametrize(("removed", "whole"), [(0, 0), (1, 1), (2, 2)])
def test_a_removed_line_is_found_where_it_was(trail, removed, whole):
    kept = lines(trail)
    del kept[removed]
    trail.write_bytes(b"".join(kept))
    assert verify(trail).lines == whole
    assert verify(trail).problem


def test_two_lines_that_changed_places_are_found(trail):
    one, two, three, four = lines(trail)
    trail.write_bytes(one + three + two + four)
    assert verify(trail).lines == 1


@pytest.mark.parametrize(
    ("added", "problem"),
    [
        (b"hello\n", "is not a line of an audit trail"),
        (b"[]\n", "is not a line of an audit trail"),
        (b'{"event": "enrolled"}\n', "is not a line of an audit trail"),
        (b'{"previous', "is cut off, or longer than any line that is written here"),
        (b"x" * 70_000 + b"\n", "is cut off, or longer than any line that is written here"),
    ],
)
def test_what_is_no_line_is_found(trail, added, problem):
    trail.write_bytes(trail.read_bytes() + added)
    assert (verify(trail).lines, verify(trail).problem) == (4, problem)


def test_lines_missing_at_the_end_change_the_digest(trail):
    before = verify(trail).digest
    trail.write_bytes(b"".join(lines(trail)[:3]))
    assert verify(trail).problem == ""
    assert verify(trail).digest != before


def test_a_line_that_a_crash_left_unfinished_is_removed_when_the_next_is_added(trail):
    with trail.open("ab") as file:
        file.write(b'{"previous_sha256": "12')
    AuditLog(trail).append("enrolled", NOW, node="edge5")
    assert verify(trail).lines == 5
    assert verify(trail).problem == ""


def test_several_processes_may_add_to_one_trail(trail):
    one, other = AuditLog(trail), AuditLog(trail)
    for log in (one, other, one, other):
        log.append("renewed", NOW)
    assert verify(trail) == Verified(lines=8, digest=verify(trail).digest)


def test_what_a_stranger_says_cannot_make_a_line_of_its_own_or_a_long_one(trail):
    AuditLog(trail).append("refused", NOW, node="x\n{}\n" + "y" * 1000)
    assert verify(trail).lines == 5
    assert len(json.loads(lines(trail)[4])["node"]) == 200


def test_a_trail_is_private(trail):
    assert trail.stat().st_mode & 0o777 == 0o600


def test_a_full_disk_leaves_the_trail_as_it_was(trail, monkeypatch):
    def full(*_arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(audit.os, "fsync", full)
    before = trail.read_bytes()
    with pytest.raises(RunDirectoryError, match="No space left on device"):
        AuditLog(trail).append("enrolled", NOW)
    assert trail.read_bytes() == before


def test_a_missing_trail_is_a_sentence(tmp_path):
    with pytest.raises(ConfigError, match="cannot read the audit trail"):
        verify(tmp_path / "audit.jsonl")


def test_a_line_that_is_nested_deeply_is_a_damaged_one(trail):
    with trail.open("ab") as file:
        file.write(b"[" * 60_000 + b"\n")
    assert verify(trail).problem == "is not a line of an audit trail"
