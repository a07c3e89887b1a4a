"""Files with secrets: made so that at no moment anybody but their owner can read them."""

import os
from glob import escape
from pathlib import Path

from roundel.core.errors import ConfigError
from roundel.core.files import PARTIAL, replace_file, sync_directory, writing

_LARGEST = 1 << 16


def private_directory(path: Path) -> None:
    """Make a directory that only its owner can look into, unless there is one.

    Raises:
        ConfigError: There is one that others can look into.
        RunDirectoryError: It cannot be made.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(mode=0o700, exist_ok=True)
        mode = path.stat().st_mode
    if mode & 0o077:
        raise ConfigError(
            f"others can look into {path} (mode {mode & 0o777:o}), where secrets are kept; "
            f"`chmod 700 {path}` first, or name another directory"
        )


def write_private(path: Path, data: bytes) -> None:
    """Write a file that only its owner can read, in one step; what was there before is replaced.

    Raises:
        RunDirectoryError: It cannot be written; the old file is as it was.
    """
    with writing(path):
        for half in path.parent.glob(PARTIAL.replace("*", f"{escape(path.name)}.*")):
            half.unlink(missing_ok=True)  # of a process that was killed
        replace_file(path, [data], mode=0o600)
        sync_directory(path.parent)


def read_private(path: Path) -> bytes:
    """Read a file that only its owner can read.

    Raises:
        ConfigError: Others can read it, it is not there, or it is far too large.
    """
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            data = file.read(_LARGEST + 1)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    if mode & 0o077:
        raise ConfigError(
            f"others can read {path} (mode {mode & 0o777:o}), which is a secret; if nobody has, "
            f"`chmod 600 {path}`"
        )
    if len(data) > _LARGEST:
        raise ConfigError(f"{path} has more than {_LARGEST} bytes, so it is no key; name another")
    return data


def make_private(database: Path) -> None:
    """Make a file that its owner alone can read from its first byte on, unless it is there.

    A database that is there is left alone. Closing any handle of a file gives up all locks that
    this process has on it, SQLite's too, and the next process to close the database would take the
    write-ahead log, which this one still writes to, for its own to remove.
    """
    if not database.exists():
        os.close(os.open(database, os.O_WRONLY | os.O_CREAT, 0o600))
