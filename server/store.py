"""What of a run outlives its coordinator: the journal, and payloads too large for it."""

from dataclasses import dataclass
from pathlib import Path

from roundel.core.messages import Ticket
from roundel.core.wire.payload import Receiver, Whole
from roundel.server.journal import Journal, Kept
from roundel.server.spool import Spool, SpoolReceiver, enough_open

IN_JOURNAL = 256 << 10
"""How large a payload is at most that lies in the journal itself, in bytes."""

_JOURNAL, _SPOOL = "federation.db", "spool"


@dataclass(frozen=True, kw_only=True)
class Store:
    """Where a coordinator keeps what it has acknowledged.

    Attributes:
        journal: The rows.
        spool: The files; None to keep payloads of any size in memory and in the journal.
    """

    journal: Journal
    spool: Spool | None

    @classmethod
    def open(cls, directory: Path, limit: int) -> "Store":
        """Open that of a run, and make it if there is none.

        Args:
            directory: The run directory.
            limit: How many bytes all spooled payloads together may have.

        Raises:
            RunDirectoryError: It cannot be written.
        """
        journal = Journal(directory / _JOURNAL)
        try:
            return cls(journal=journal, spool=Spool(directory / _SPOOL, limit, journal.files()))
        except BaseException:
            journal.close()
            raise

    @classmethod
    def in_memory(cls) -> "Store":
        """Return one that is forgotten with this process."""
        return cls(journal=Journal(), spool=None)

    def receiver(
        self, ticket: Ticket, digest: bytes, size: int, limit: int
    ) -> Receiver | SpoolReceiver:
        """Return what takes a payload in; see `Spool.receiver`."""
        if self.spool is None or size <= IN_JOURNAL:
            return Receiver(size, digest, limit)
        return self.spool.receiver(ticket, digest, size, limit)

    def arrived(self, ticket: Ticket, digest: bytes) -> int:
        """Return how many bytes of an unfinished payload an earlier session has left."""
        return 0 if self.spool is None else self.spool.arrived(ticket, digest)

    def finish(self, receiver: Receiver | SpoolReceiver) -> tuple[Whole, str]:
        """Return a whole payload, and the name of its file if it has one.

        Raises:
            ProtocolError: It is incomplete, or its digest differs.
            SendAgain: It must be sent again.
            RunDirectoryError: The disk is full.
        """
        if isinstance(receiver, Receiver):
            return receiver.finish(), ""
        assert self.spool is not None  # noqa: S101 - it has made the receiver
        name = self.spool.finish(receiver)
        try:
            with enough_open():
                return self.spool.load(name), name
        except BaseException:
            self.spool.drop(name)
            raise

    def load(self, kept: Kept) -> Whole:
        """Return the payload of an accepted update.

        Raises:
            RunDirectoryError: Its file is gone.
        """
        if not kept.file:
            return bytearray(kept.payload)
        assert self.spool is not None  # noqa: S101 - only a spool makes files
        return self.spool.load(kept.file)

    def drop(self, file: str) -> None:
        """Remove a payload that nobody needs, if it lies in a file."""
        if file and self.spool is not None:
            self.spool.drop(file)

    def forget(self, round: int) -> None:
        """Drop everything about the rounds up to one, which a checkpoint covers."""
        self.journal.forget(round)
        if self.spool is not None:
            self.spool.drop_rounds(round)

    def close(self) -> None:
        """Write what waits, and close all files."""
        self.journal.close()
        if self.spool is not None:
            self.spool.close()
