"""Client states that do not fit into memory, each in a file of its own.

A file is written once and never changed: a client's next state is a new file, whose number is
higher. So a checkpoint holds numbers in place of states, and a crash leaves the files of the last
checkpoint as they were. What a crash left half-written has a number that no checkpoint names.

    states/client-17-230.safetensors     the state of client 17, written as number 230
"""

import os
import re
import shutil
import tempfile
import weakref
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from torch import Tensor

from roundel.core.errors import RunDirectoryError
from roundel.core.files import sync_directory, writing
from roundel.core.tensorfiles import seal, unseal

_NAME = re.compile(r"client-(\d+)-(\d+)\.safetensors", re.ASCII)


def name_of(client_id: int, number: int) -> str:
    """Return what the file of a client's state is called."""
    return f"client-{client_id}-{number}.safetensors"


def number_of(path: Path) -> int:
    """Return the number under which a file was written; 0 for what is none of ours."""
    found = _NAME.fullmatch(path.name)
    return int(found[2]) if found else 0


def read_state(path: Path) -> dict[str, Tensor]:
    """Read a client's state.

    Raises:
        RunDirectoryError: It is gone or damaged.
    """
    try:
        return unseal(path.read_bytes())[0]
    except FileNotFoundError as error:
        raise RunDirectoryError(
            f"{path} is gone; if the run goes on meanwhile, do this again, else restore the file"
        ) from error
    except (OSError, ValueError) as error:
        raise RunDirectoryError(
            f"{path} is damaged; restore it, or start a new run ({error})"
        ) from error


def drop_unused(directory: Path, used: Collection[str]) -> None:
    """Remove the files of states whose names are not among those in use."""
    if not directory.is_dir():
        return
    with writing(directory), os.scandir(directory) as found:
        for file in found:
            if _NAME.fullmatch(file.name) and file.name not in used:
                Path(file.path).unlink()


class StateFiles:
    """A directory to write states to, by this process alone."""

    def __init__(self, directory: Path | None = None) -> None:
        """Name the directory.

        Args:
            directory: Made when it is needed; None for a temporary one, which goes with this
                object.
        """
        self._given = directory
        self._temporary: Path | None = None
        self._last: int | None = None
        self._unsynced: set[Path] = set()

    @property
    def directory(self) -> Path | None:
        """The directory that was given."""
        return self._given

    def write(self, client_id: int, state: Mapping[str, Tensor]) -> Path:
        """Write a state to a new file; it is durable after the next `keep`.

        Raises:
            RunDirectoryError: It cannot be written.
        """
        directory = self._made()
        self._last = self._numbered() + 1
        path = directory / name_of(client_id, self._last)
        with writing(path):
            path.write_bytes(seal(state, {}))
        self._unsynced.add(path)
        return path

    def discard(self, path: Path) -> None:
        """Remove a file that nobody needs any more, unless a checkpoint may name it."""
        if path in self._unsynced:
            self._unsynced.remove(path)
            path.unlink(missing_ok=True)

    def keep(self) -> None:
        """Make all files durable, so that a checkpoint may name them."""
        for path in self._unsynced:
            with writing(path), path.open("rb") as file:
                os.fsync(file.fileno())
        if self._unsynced:
            sync_directory(self._made())
        self._unsynced.clear()

    def _made(self) -> Path:
        if self._given is not None:
            if not self._given.is_dir():
                with writing(self._given):
                    self._given.mkdir()
                    sync_directory(self._given.parent)
            return self._given
        if self._temporary is None:
            self._temporary = Path(tempfile.mkdtemp(prefix="roundel-states-"))
            weakref.finalize(self, shutil.rmtree, self._temporary, ignore_errors=True)
        return self._temporary

    def _numbered(self) -> int:
        """Return the highest number in use."""
        if self._last is None:
            there = self._given.iterdir() if self._given and self._given.is_dir() else ()
            self._last = max((number_of(path) for path in there), default=0)
        return self._last


class FiledStates(Mapping[int, Mapping[str, Tensor]]):
    """Client states that lie in files; each is read when it is asked for.

    Attributes:
        paths: Client to its file.
    """

    def __init__(self, paths: Mapping[int, Path]) -> None:
        self.paths = paths

    def __getitem__(self, client_id: int) -> Mapping[str, Tensor]:
        """Read a client's state."""
        return read_state(self.paths[client_id])

    def __iter__(self) -> Iterator[int]:
        """Yield the clients."""
        return iter(self.paths)

    def __len__(self) -> int:
        """Return how many clients there are."""
        return len(self.paths)
