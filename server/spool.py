"""Payloads that are too large for memory: each in a file, written as its chunks arrive.

A file whose payload has not arrived whole stays, so that an upload goes on where it broke off, also
after this process was killed. Once it is whole and its digest is right, it gets a name that no
upload can write to again.
"""

import mmap
import os
import threading
import uuid
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from blake3 import blake3

from roundel.core.behind import Behind
from roundel.core.errors import ProtocolError, RunDirectoryError
from roundel.core.files import has_too_many_open, sync_directory, writing
from roundel.core.messages import Ticket
from roundel.core.wire.payload import check_size

BATCH = 2 << 20
"""How many bytes wait in memory at most before they are written."""

_PIECE = 1 << 20
_IN_PIECES = -1
"""How much of a payload has been hashed on its way that did not come in one piece: nothing."""


class SendAgain(Exception):
    """A payload cannot be had now, and it may if it is sent again later."""


@contextmanager
def enough_open() -> Iterator[None]:
    """Let whoever sends a payload try later if no further file can be opened now.

    Raises:
        SendAgain: So it is; files are closed as payloads are dealt with.
    """
    try:
        yield
    except RunDirectoryError as error:
        if has_too_many_open(error.__cause__):
            raise SendAgain(
                "too many files are open here to take a payload in; send it later"
            ) from error
        raise


class Spool:
    """The directory of a run's payloads; its methods are for any thread."""

    def __init__(self, directory: Path, limit: int, kept: Collection[str] = ()) -> None:
        """Open the directory, and make it if there is none.

        Args:
            directory: Where.
            limit: How many bytes all payloads together may have.
            kept: Whole payloads of updates that were accepted. Others go on as unfinished ones.

        Raises:
            RunDirectoryError: It cannot be made.
        """
        self._directory = directory
        self._limit = limit
        self._lock = threading.Lock()
        self._sizes: dict[str, int] = {}
        self._open: dict[str, SpoolReceiver] = {}
        self._removing = Behind("remover")
        with writing(directory):
            directory.mkdir(mode=0o700, exist_ok=True)
            sync_directory(directory.parent)
            for file in list(directory.iterdir()):
                known = file if file.name in kept else file.replace(file.with_suffix(""))
                self._sizes[known.name] = known.stat().st_size

    def arrived(self, ticket: Ticket, digest: bytes) -> int:
        """Return how many bytes there are of a payload that is not whole yet."""
        name = _name(ticket, digest)
        with self._lock:
            receiver = self._open.get(name)
        if receiver is not None:
            receiver.flush()
            return receiver.filled
        path = self._directory / name
        return path.stat().st_size if path.exists() else 0

    def receiver(self, ticket: Ticket, digest: bytes, size: int, limit: int) -> "SpoolReceiver":
        """Return what takes a payload in; it goes on with what has arrived of it.

        Whatever took it in before stops to.

        Args:
            ticket: Whose payload it is.
            digest: The announced digest.
            size: The announced size.
            limit: The largest size.

        Raises:
            ProtocolError: The size is above the limit.
            SendAgain: The spool is full, or too many files are open.
            RunDirectoryError: The file cannot be written.
        """
        check_size(size, limit)
        name = _name(ticket, digest)
        with self._lock:
            others = sum(self._sizes.values()) - self._sizes.get(name, 0)
            if others + size > self._limit:
                raise SendAgain(
                    f"a payload of {size} bytes has no place beside the {others} bytes that are "
                    f"here: all together may have {self._limit}; send it later"
                )
            if before := self._open.pop(name, None):
                before.close()
            with enough_open():
                self._open[name] = SpoolReceiver(self._directory / name, digest, size)
            self._sizes[name] = size
            return self._open[name]

    def finish(self, receiver: "SpoolReceiver") -> str:
        """Make a payload durable; return the name under which it can be loaded.

        Raises:
            ProtocolError: It is incomplete, or its digest differs.
            SendAgain: Its digest differs, and it did not arrive in one piece; or too many files
                are open.
            RunDirectoryError: The disk is full.
        """
        receiver.check_whole()
        name = self._claimed(receiver)
        try:
            receiver.seal()
            with enough_open(), writing(self._directory):
                sync_directory(self._directory)
        except (ProtocolError, SendAgain):
            self.drop(name)
            raise
        return name

    def _claimed(self, receiver: "SpoolReceiver") -> str:
        """Give a payload a name of its own, so that no other call writes to it from now on."""
        name = f"{receiver.name}.{uuid.uuid4().hex[:8]}"
        with self._lock, writing(self._directory / name):
            if self._open.get(receiver.name) is not receiver:
                raise ProtocolError("this upload goes on in another call")
            (self._directory / receiver.name).rename(self._directory / name)
            self._sizes[name] = self._sizes.pop(receiver.name)
            del self._open[receiver.name]
        return name

    def load(self, name: str) -> mmap.mmap:
        """Return a whole payload, not read yet; writing to it changes nothing on disk.

        Raises:
            RunDirectoryError: It is not there.
        """
        try:
            with (self._directory / name).open("rb") as file:
                return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is empty"
            remedy = (
                "let this process open more files with `ulimit -n`"
                if has_too_many_open(error)
                else "put the file back, or start a new run"
            )
            raise RunDirectoryError(
                f"cannot read {self._directory / name}, an update that was accepted: {why}; "
                f"{remedy}"
            ) from error

    def drop(self, name: str) -> None:
        """Remove a payload, if it is there; whoever has loaded it keeps it."""
        with self._lock:
            if receiver := self._open.pop(name, None):
                receiver.close()
            self._sizes.pop(name, None)
        with writing(self._directory / name):
            (self._directory / name).unlink(missing_ok=True)

    def drop_rounds(self, round: int) -> None:
        """Remove the payloads of all rounds up to one, but for those that still come in.

        They are removed while others go on: a large file takes a tenth of a second.

        Raises:
            RunDirectoryError: Those of the last call could not be removed.
        """
        with self._lock:
            old = [n for n in self._sizes if _round(n) <= round and n not in self._open]
        self._removing.do(partial(self._drop_all, old))

    def _drop_all(self, names: Iterable[str]) -> None:
        for name in names:
            self.drop(name)

    def close(self) -> None:
        """Write what waits and take nothing more; what is to be removed is gone then."""
        self._removing.close()
        with self._lock:
            for receiver in self._open.values():
                receiver.close()


class SpoolReceiver:
    """Takes the chunks of one payload into its file.

    Chunks wait in memory until `flush`, which is for a thread that may wait for the disk.

    Attributes:
        name: The file's name.
    """

    def __init__(self, path: Path, digest: bytes, size: int) -> None:
        self.name = path.name
        self._path = path
        self._digest = digest
        self._size = size
        self._lock = threading.Lock()
        self._waiting: list[bytes | memoryview] = []
        self._closed = False
        with writing(path):
            self._handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
            self._written = min(size, os.fstat(self._handle).st_size)
        self._filled = self._began = self._written
        self._hasher, self._hashed = blake3(), 0

    @property
    def filled(self) -> int:
        """How many bytes have arrived."""
        return self._filled

    @property
    def waiting(self) -> int:
        """How many of them wait to be written."""
        return self._filled - self._written

    @property
    def complete(self) -> bool:
        """Whether all have arrived."""
        return self._filled == self._size

    def rewind(self, offset: int) -> None:
        """Let the next chunk come at an offset.

        Raises:
            ProtocolError: Not all that is before it has arrived.
        """
        self.flush()
        with self._lock:
            self._check_open()
            if offset > self._filled:
                raise ProtocolError(
                    f"a payload cannot go on at byte {offset}: {self._filled} have arrived"
                )
            self._filled = self._written = offset
            self._began = min(self._began, offset)
            self._hashed = offset if offset == self._hashed else _IN_PIECES

    def take(self, chunk: bytes | memoryview) -> None:
        """Append a chunk.

        Raises:
            ProtocolError: It would go past the announced size, or another call goes on with this.
        """
        with self._lock:
            self._check_open()
            if self._filled + len(chunk) > self._size:
                raise ProtocolError(f"more than the announced {self._size} bytes arrived")
            self._waiting.append(chunk)
            self._filled += len(chunk)

    def flush(self) -> None:
        """Write what waits.

        Raises:
            RunDirectoryError: The disk is full.
        """
        with self._lock:
            if self._closed:
                return
            with writing(self._path):
                for chunk in self._waiting:
                    if self._hashed == self._written:
                        self._hasher.update(chunk)
                        self._hashed += len(chunk)
                    self._written += _write(self._handle, chunk, self._written)
            self._waiting.clear()

    def check_whole(self) -> None:
        """Refuse a payload of which not all has arrived, or that goes on in another call.

        Raises:
            ProtocolError: So it is.
        """
        with self._lock:
            self._check_open()
            if self._filled != self._size:
                raise ProtocolError(f"{self._filled} of {self._size} announced bytes arrived")

    def seal(self) -> None:
        """Check the digest of a whole payload, make it durable and take nothing more.

        Raises:
            ProtocolError: Its digest differs.
            SendAgain: Its digest differs, and it did not arrive in one piece.
            RunDirectoryError: The disk is full.
        """
        self.flush()
        with self._lock:
            self._check_open()
            whole = self._hashed == self._size
            found = self._hasher.digest() if whole else _digest(self._handle, self._size)
            if found != self._digest:
                if self._began:
                    raise SendAgain("what had arrived of the payload is damaged; send it again")
                raise ProtocolError("the payload's digest differs from the announced one")
            with writing(self._path):
                os.ftruncate(self._handle, self._size)
                os.fsync(self._handle)
        self.close()

    def close(self) -> None:
        """Write what waits and take nothing more."""
        self.flush()
        with self._lock:
            if not self._closed:
                self._closed = True
                os.close(self._handle)

    def _check_open(self) -> None:
        if self._closed:
            raise ProtocolError("this upload goes on in another call")


def _name(ticket: Ticket, digest: bytes) -> str:
    return f"{ticket.round}-{ticket.stage}-{ticket.client_id}-{digest.hex()[:64]}"


def _round(name: str) -> int:
    number = name.partition("-")[0]
    return int(number) if number.isdecimal() else 0


def _write(handle: int, chunk: bytes | memoryview, offset: int) -> int:
    """Write a whole chunk; return its length."""
    done = 0
    while done < len(chunk):
        done += os.pwrite(handle, chunk[done:], offset + done)
    return done


def _digest(handle: int, size: int) -> bytes:
    """Hash a file through a small buffer: what is not mapped is not counted as our memory."""
    hasher, offset = blake3(), 0
    buffer = bytearray(_PIECE)
    while offset < size:
        count = os.preadv(handle, [memoryview(buffer)[: size - offset]], offset)
        if not count:
            break
        hasher.update(memoryview(buffer)[:count])
        offset += count
    return hasher.digest()
