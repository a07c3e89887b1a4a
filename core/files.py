"""Writing files so that a crash leaves the old one or the new one, never half of one."""

import errno
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from math import isfinite
from pathlib import Path
from secrets import token_hex
from typing import Any

from roundel.core.errors import RunDirectoryError

PARTIAL = ".*.partial"
"""What a file is called while it is being written; a crash may leave one."""


_STRICT = json.JSONEncoder(allow_nan=False)  # `json.dumps` makes a new one for each call


def json_line(value: Mapping[str, Any]) -> str:
    """Return one line of JSON; a number that is not finite, for which JSON has no word, is null.

    >>> json_line({"round": 1, "loss": float("nan")})
    '{"round": 1, "loss": null}'
    """
    try:
        return _STRICT.encode(dict(value))
    except ValueError:
        return json.dumps(_finite(value))


def _finite(value: object) -> object:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not isfinite(value) else value


def write_atomic(path: Path, *pieces: bytes | memoryview) -> None:
    """Write a file in one step: to a temporary name, to the disk, then renamed.

    Raises:
        RunDirectoryError: It cannot be written; the old file is as it was.
    """
    with writing(path):
        replace_file(path, pieces)
        sync_directory(path.parent)


def replace_file(
    path: Path, pieces: Iterable[bytes | memoryview], *, mode: int = 0o666, durable: bool = True
) -> None:
    """Write a file under a temporary name, then rename it; `sync_directory` keeps the name.

    Several processes may do so at once: the file is what one of them has written.

    Args:
        path: The file; what was there before is replaced.
        pieces: What it is to hold.
        mode: Who may use it, less what the process's mask takes away.
        durable: Whether what it holds is on disk before it gets its name.

    Raises:
        OSError: It cannot be written; the old file is as it was.
    """
    temporary = path.with_name(PARTIAL.replace("*", f"{path.name}.{token_hex(4)}"))
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(handle, "wb") as file:
            file.writelines(pieces)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def sync_directory(path: Path) -> None:
    """Make renames in a directory durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def has_too_many_open(error: BaseException | None) -> bool:
    """Tell whether an error says that no further file can be opened now."""
    return isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn the operating system's errors into a sentence about the file."""
    try:
        yield
    except OSError as error:
        remedy = (
            "let this process open more files with `ulimit -n`"
            if has_too_many_open(error)
            else "free some space or choose another place with --out"
        )
        raise RunDirectoryError(f"cannot write {path}: {error.strerror}; {remedy}") from error


def check_empty(path: Path, remedy: str) -> None:
    """Refuse a directory in which something lies, or what is none; it need not be there.

    Args:
        path: The directory.
        remedy: What to do instead.

    Raises:
        RunDirectoryError: Something does.
    """
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise RunDirectoryError(f"{path} is not an empty directory; {remedy}")


class LineFile:
    """A JSON-lines file that grows by whole batches of lines or not at all."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with writing(path):
            self._handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def append(self, objects: Iterable[Mapping[str, Any]]) -> None:
        """Add one line for each object.

        Raises:
            RunDirectoryError: They cannot be written; the file is as it was.
        """
        data = "".join(f"{json_line(o)}\n" for o in objects).encode()
        size = os.fstat(self._handle).st_size
        with writing(self.path):
            try:
                while data:
                    data = data[os.write(self._handle, data) :]
            except BaseException:
                os.ftruncate(self._handle, size)
                raise

    def sync(self) -> None:
        """Make everything that was added durable."""
        with writing(self.path):
            os.fsync(self._handle)

    def close(self) -> None:
        """Close the file."""
        os.close(self._handle)
