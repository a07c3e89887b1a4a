"""What a node keeps on its disk, so that it may be killed at any moment and go on.

    DIR/.lock                           held by the process that uses the directory; its time is
                                        when the coordinator was last reached
    DIR/runs/RUN/secret                 key of the noise that protects the node's clients
    DIR/runs/RUN/client-17-3.state      the state of client 17 as of round 3
    DIR/runs/RUN/client-17-4.pending    what it becomes if round 4 counts the client's update
    DIR/runs/RUN/client-17-4-0.update   that update (of round 4, stage 0), until it has been taken

A file gets its name when it is whole. A pending state reaches the disk before its update can leave,
so that whatever the coordinator counts, the state that goes with it is there. An update by itself
can be made again: it is only worth the time of a disk if it took longer than that.
"""

import fcntl
import os
import re
import shutil
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import IO, Self

from roundel.core.clientstate import ClientState
from roundel.core.errors import ProtocolError, RunDirectoryError
from roundel.core.files import PARTIAL, replace_file, sync_directory
from roundel.core.noise import draw_secret
from roundel.core.private import read_private, write_private
from roundel.core.statefiles import read_state
from roundel.core.tensorfiles import sealed

KEPT_DAYS = 30
"""How long the files of a run are kept after the last time that it was joined."""

WORTH_SYNCING_S = 1.0
"""An update that took longer to make is made durable although it could be made again."""

_DAY_S = 86_400.0
_RUNS, _LOCK, _SECRET = "runs", ".lock", "secret"
_RUN = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}", re.ASCII)
_STATE = re.compile(r"client-(\d+)-(\d+)\.(state|pending)", re.ASCII)
_UPDATE = re.compile(r"client-(\d+)-(\d+)-(\d+)\.update", re.ASCII)
_WORD = 4  # bytes of the length of what is known about an update, at the end of its file

Piece = bytes | memoryview


@dataclass(frozen=True, kw_only=True, order=True)
class Work:
    """Which work of a client an update is the answer to.

    Attributes:
        client_id: Whose.
        round: From 1.
        stage: Of a reduction in several stages.
    """

    client_id: int
    round: int
    stage: int = 0


@dataclass(frozen=True, kw_only=True)
class Held:
    """Which states of a client there are.

    Attributes:
        client_id: Whose.
        committed: The round whose commit gave the client its state; 0 for none.
        pending: The round of a state that may become final; 0 for none.
    """

    client_id: int
    committed: int = 0
    pending: int = 0


@dataclass(frozen=True, kw_only=True)
class Kept:
    """An update on the disk.

    Attributes:
        about: What was said about it when it was kept.
        payload: Its tensors, as they travel; they are read from the disk as they are needed.
    """

    about: bytes
    payload: memoryview


class NodeDirectory:
    """The directory of one node, which this process alone uses."""

    def __init__(self, path: Path) -> None:
        """Take hold of it, and make it if it is not there.

        Args:
            path: Of the directory.

        Raises:
            RunDirectoryError: Another process uses it, or it cannot be written.
        """
        self.path = path
        with _writing(path):
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            (path / _RUNS).mkdir(mode=0o700, exist_ok=True)
            sync_directory(path)
        self._lock = _locked(path)

    def journal(self, run: str, now_s: float) -> "Journal":
        """Open what is kept of a run, and remove what was kept of runs long ago.

        Args:
            run: The run's identity, which the coordinator gave.
            now_s: Seconds since 1970.

        Raises:
            ProtocolError: The run's identity would not do as the name of a directory.
            RunDirectoryError: The directory cannot be written.
        """
        if not _RUN.fullmatch(run):
            raise ProtocolError(
                f"{run[:80]!r} cannot be the identity of a run: a coordinator gives letters and "
                "digits, at most 64; check what answers there"
            )
        runs = self.path / _RUNS
        with _writing(runs):
            (runs / run).mkdir(mode=0o700, exist_ok=True)
            sync_directory(runs)  # a file is durable if the folders on the way to it are
            os.utime(runs / run, (now_s, now_s))
            for other in runs.iterdir():
                if other.stat().st_mtime < now_s - KEPT_DAYS * _DAY_S:
                    shutil.rmtree(other)
        return Journal(runs / run)

    def note_contact(self, now_s: float) -> None:
        """Leave for others to see when the coordinator was reached.

        Args:
            now_s: Seconds since 1970.
        """
        os.utime(self._lock.fileno(), (now_s, now_s))

    def close(self) -> None:
        """Let other processes use it."""
        self._lock.close()

    def __enter__(self) -> Self:
        """Return itself; it is closed at the end of the block."""
        return self

    def __exit__(self, *_error: object) -> None:
        """Close it."""
        self.close()


class Journal:
    """What a node keeps of one run."""

    def __init__(self, path: Path) -> None:
        """Read which files there are.

        Args:
            path: A directory that this process alone uses.
        """
        self._path = path
        self._rounds: dict[str, dict[int, int]] = {"state": {}, "pending": {}}
        self._updates: dict[int, Work] = {}
        with _writing(path):
            for file in list(path.iterdir()):
                self._note(file.name)

    def secret(self) -> bytes:
        """Return a key that only this node knows, the same for the whole run.

        What is sent twice must hide under the same noise: two different ones would give more away.
        """
        path = self._path / _SECRET
        if not path.exists():
            with _writing(path):
                write_private(path, draw_secret())
        return read_private(path)

    def state(self, client_id: int) -> ClientState:
        """Return a client's committed state; empty for one that never took part.

        Raises:
            RunDirectoryError: It is damaged.
        """
        round = self._rounds["state"].get(client_id)
        return {} if round is None else read_state(self._path / _named(client_id, round, "state"))

    def held(self, clients: Collection[int] | None) -> list[Held]:
        """Return which states there are of these clients; those without any are left out.

        Args:
            clients: None for all.
        """
        committed, pending = self._rounds["state"], self._rounds["pending"]
        return [
            Held(
                client_id=client_id,
                committed=committed.get(client_id, 0),
                pending=pending.get(client_id, 0),
            )
            for client_id in sorted(committed.keys() | pending.keys())
            if clients is None or client_id in clients
        ]

    def keep(
        self,
        work: Work,
        payload: Sequence[Piece],
        about: bytes,
        state: ClientState | None,
        *,
        seconds: float,
    ) -> Kept:
        """Write an update down, with the state that its client has if it counts.

        Args:
            work: What it is the answer to; an earlier update of that client is dropped.
            payload: Its tensors, as they travel, in pieces.
            about: Comes back with it.
            state: The client's next state, which is durable when this returns; None if clients
                keep none.
            seconds: How long it took to make.

        Returns:
            The same from the disk, so that its tensors need no memory any more.

        Raises:
            RunDirectoryError: The disk is full.
        """
        worth_it = seconds > WORTH_SYNCING_S
        self.drop(work.client_id)
        if state is not None:
            self._stage(work, state)
        tail = about + len(about).to_bytes(_WORD, "little")
        self._write(_update(work), [*payload, tail], durable=worth_it)
        self._updates[work.client_id] = work
        if worth_it or state is not None:
            with _writing(self._path):
                sync_directory(self._path)
        kept = self.kept(work)
        assert kept is not None  # noqa: S101 - it was written just now
        return kept

    def kept(self, work: Work) -> Kept | None:
        """Return the update that is kept for this work, if there is one that can be read.

        What a power cut left of it may be damaged; what is said about it must tell.
        """
        if self._updates.get(work.client_id) != work:
            return None
        try:
            with (self._path / _update(work)).open("rb") as file:
                whole = memoryview(mmap(file.fileno(), 0, access=ACCESS_READ))
        except (OSError, ValueError):
            return None
        end = len(whole) - _WORD
        begin = end - int.from_bytes(whole[max(0, end) :], "little")
        if begin < 0:
            return None
        return Kept(about=bytes(whole[begin:end]), payload=whole[:begin])

    def drop(self, client_id: int) -> None:
        """Forget a client's update: it has been taken, or nobody will want it."""
        if work := self._updates.pop(client_id, None):
            self._remove(_update(work))

    def drop_before(self, round: int) -> None:
        """Forget all updates of earlier rounds: those are over."""
        for client_id, work in list(self._updates.items()):
            if work.round < round:
                self.drop(client_id)

    def commit(self, round: int, accepted: Iterable[int]) -> None:
        """Make the pending states of a round final for the clients whose updates counted.

        Those of others are forgotten, and so is everything of this round and earlier ones that
        waited for it. A commit that is repeated changes nothing.

        Args:
            round: From 1.
            accepted: Whose updates counted.
        """
        for client_id in accepted:
            if self._rounds["pending"].get(client_id) == round:
                self._promote(client_id)
        for client_id, pending in list(self._rounds["pending"].items()):
            if pending <= round:
                self._forget_pending(client_id)
        self.drop_before(round + 1)

    def settle(self, client_id: int, round: int) -> None:
        """Bring a client's state in line with the round whose state counts.

        Args:
            client_id: Whose.
            round: The last one that counted an update of the client; 0 for none.

        Raises:
            RunDirectoryError: There is no state of that round.
        """
        pending = self._rounds["pending"].get(client_id, 0)
        if round and pending == round:
            self._promote(client_id)
        elif pending and pending < round:
            self._forget_pending(client_id)
        if (held := self._rounds["state"].get(client_id, 0)) != round:
            raise RunDirectoryError(
                f"{self._path} has the state of client {client_id} as of round {held}, and the run "
                f"counts on that of round {round}; join with the --state directory of the node "
                "that hosted the client then"
            )

    def _stage(self, work: Work, state: ClientState) -> None:
        """Write a pending state in the place of one that the client had."""
        client_id = work.client_id
        self._write(_named(client_id, work.round, "pending"), sealed(state, {}), durable=True)
        before = self._rounds["pending"].get(client_id, work.round)
        self._rounds["pending"][client_id] = work.round
        if before != work.round:
            self._remove(_named(client_id, before, "pending"))

    def _promote(self, client_id: int) -> None:
        # Not synced: should the power fail now, the pending state is there and is settled again.
        round = self._rounds["pending"].pop(client_id)
        before = self._rounds["state"].get(client_id)
        with _writing(self._path):
            pending = self._path / _named(client_id, round, "pending")
            pending.replace(self._path / _named(client_id, round, "state"))
        self._rounds["state"][client_id] = round
        if before is not None:
            self._remove(_named(client_id, before, "state"))

    def _forget_pending(self, client_id: int) -> None:
        self._remove(_named(client_id, self._rounds["pending"].pop(client_id), "pending"))

    def _note(self, name: str) -> None:
        """Take a file up that was there before; remove what a crash left over."""
        if found := _STATE.fullmatch(name):
            client_id, round, kind = int(found[1]), int(found[2]), found[3]
            older = self._rounds[kind].get(client_id, round)
            self._rounds[kind][client_id] = max(older, round)
            if older != round:
                self._remove(_named(client_id, min(older, round), kind))
        elif found := _UPDATE.fullmatch(name):
            work = Work(client_id=int(found[1]), round=int(found[2]), stage=int(found[3]))
            older_work = self._updates.get(work.client_id, work)
            self._updates[work.client_id] = max(older_work, work)
            if older_work != work:
                self._remove(_update(min(older_work, work)))
        elif name.endswith(PARTIAL.rpartition("*")[2]):
            self._remove(name)

    def _write(self, name: str, pieces: Iterable[Piece], *, durable: bool) -> None:
        """Write a file that only its owner can read: it tells about the clients' examples."""
        with _writing(self._path):
            replace_file(self._path / name, pieces, mode=0o600, durable=durable)

    def _remove(self, name: str) -> None:
        with _writing(self._path):
            (self._path / name).unlink(missing_ok=True)


def _named(client_id: int, round: int, kind: str) -> str:
    return f"client-{client_id}-{round}.{kind}"


def _update(work: Work) -> str:
    return f"client-{work.client_id}-{work.round}-{work.stage}.update"


def _locked(path: Path) -> IO[bytes]:
    with _writing(path):
        handle = os.open(path / _LOCK, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        file = os.fdopen(handle, "wb")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        raise RunDirectoryError(
            f"{path} is in use by another node; end that one, or join with another --name or "
            "--state"
        ) from error
    return file


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Turn the operating system's errors into a sentence about the directory."""
    try:
        yield
    except OSError as error:
        raise RunDirectoryError(
            f"cannot write {path}: {error.strerror}; free some space, or copy it to another place "
            "and join with --state there: what is finished is kept"
        ) from error
