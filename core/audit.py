"""An audit trail: JSON lines, each of which holds the SHA-256 of the one before it.

    {"previous_sha256": "...", "at": "2026-05-01T12:00:00+00:00", "event": "enrolled", ...}

Whoever changes, adds or removes a line in the middle must change all lines after it. What the chain
alone cannot show is that lines are missing at its end: keep the digest that `verify` returns
somewhere else, and compare.
"""

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

from roundel.core.errors import ConfigError
from roundel.core.files import json_line, sync_directory, writing

FIRST = "0" * 64
"""What stands in the first line for the digest of the one before."""

_LONGEST_VALUE = 200
_LONGEST_LINE = 1 << 16

Fact = str | int | float


@dataclass(frozen=True, kw_only=True)
class Verified:
    """What was found in an audit trail.

    Attributes:
        lines: How many lines are as they were written.
        digest: SHA-256 of the last of them; `FIRST` if there is none.
        problem: What is wrong with the line after them; empty if nothing is.
    """

    lines: int
    digest: str
    problem: str = ""


class AuditLog:
    """An audit trail that grows; several processes may write to one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with writing(path):
            existed = path.exists()
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
            if not existed:
                sync_directory(path.parent)

    def append(self, event: str, now: datetime, **facts: Fact) -> None:
        """Add a line; it is on disk when this returns.

        Args:
            event: What happened.
            now: When, in UTC.
            facts: More about it, no secrets; long texts are cut off.

        Raises:
            RunDirectoryError: It cannot be written; the file is as it was.
        """
        with writing(self.path):
            handle = os.open(self.path, os.O_RDWR | os.O_APPEND)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX)
                line = {
                    "previous_sha256": _digest_of_last(handle),
                    "at": now.isoformat(timespec="milliseconds"),
                    "event": event,
                    **{name: _short(value) for name, value in facts.items()},
                }
                _add(handle, f"{json_line(line)}\n".encode())
            finally:
                os.close(handle)


def verify(path: Path) -> Verified:
    """Read an audit trail from its first line to its last.

    Raises:
        ConfigError: It cannot be read.
    """
    digest, count = FIRST, 0
    try:
        with path.open("rb") as file:
            for count, line in enumerate(_lines(file), 1):
                if problem := _problem(line, digest):
                    return Verified(lines=count - 1, digest=digest, problem=problem)
                digest = hashlib.sha256(line).hexdigest()
    except OSError as error:
        raise ConfigError(
            f"cannot read the audit trail {path}: {error.strerror}; name another file"
        ) from error
    return Verified(lines=count, digest=digest)


def _lines(file: BinaryIO) -> Iterator[bytes]:
    while line := file.readline(_LONGEST_LINE):
        yield line


def _problem(line: bytes, previous: str) -> str:
    """Say why a line cannot follow one of that digest; empty if it can."""
    if not line.endswith(b"\n"):
        return "is cut off, or longer than any line that is written here"
    try:
        read = json.loads(line)
    except (ValueError, RecursionError):  # the latter if it is nested deeply
        read = None
    if not isinstance(read, dict) or "previous_sha256" not in read:
        return "is not a line of an audit trail"
    if read["previous_sha256"] != previous:
        return "does not follow the line before it, so one of the two was changed, added or removed"
    return ""


def _short(value: Fact) -> Fact:
    return value[:_LONGEST_VALUE] if isinstance(value, str) else value


def _digest_of_last(handle: int) -> str:
    """Return the last line's digest; a line that a crash left unfinished is removed first."""
    size = os.fstat(handle).st_size
    begin = max(0, size - 2 * _LONGEST_LINE)
    whole, newline, torn = os.pread(handle, size - begin, begin).rpartition(b"\n")
    if torn:
        os.ftruncate(handle, size - len(torn))
    if not newline:
        return FIRST
    return hashlib.sha256(whole.rpartition(b"\n")[2] + b"\n").hexdigest()


def _add(handle: int, data: bytes) -> None:
    size = os.fstat(handle).st_size
    try:
        while data:
            data = data[os.write(handle, data) :]
        os.fsync(handle)
    except BaseException:
        os.ftruncate(handle, size)
        raise
