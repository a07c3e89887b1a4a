"""Small payloads lie in the journal, large ones in files; both are forgotten together."""

import errno
import os
from pathlib import Path

import pytest

from roundel.core.wire.payload import Receiver, digest_of
from roundel.server import store as stores
from roundel.server.journal import Kept
from roundel.server.spool import SendAgain, SpoolReceiver
from roundel.server.store import Store
from tests.server.toys import ticket_of

PAYLOAD = bytes(range(100))


def arrived(store: Store, round: int = 1) -> tuple[bytes, str]:
    receiver = store.receiver(ticket_of(0, round=round), digest_of(PAYLOAD), len(PAYLOAD), 1000)
    receiver.take(PAYLOAD)
    data, file = store.finish(receiver)
    return bytes(data), file


@pytest.mark.parametrize(("limit", "kind"), [(99, SpoolReceiver), (100, Receiver)])
def test_a_payload_lies_in_a_file_if_it_is_larger_than_the_limit(
    tmp_path, monkeypatch, limit, kind
):
    monkeypatch.setattr(stores, "IN_JOURNAL", limit)
    store = Store.open(tmp_path, 10**6)
    assert isinstance(store.receiver(ticket_of(1), b"", 100, 1000), kind)
    data, file = arrived(store)
    assert data == PAYLOAD
    assert bool(file) == (kind is SpoolReceiver)
    kept = Kept(
        ticket=ticket_of(0), identity=b"", header=b"", payload=b"" if file else data, file=file
    )
    assert bytes(store.load(kept)) == PAYLOAD
    store.close()


def test_without_a_spool_everything_is_in_memory():
    store = Store.in_memory()
    assert isinstance(store.receiver(ticket_of(0), b"", 10**6, 10**7), Receiver)
    assert store.arrived(ticket_of(0), b"") == 0
    store.drop("anything")
    store.forget(3)
    store.close()


def test_files_are_forgotten_with_their_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(stores, "IN_JOURNAL", 0)
    store = Store.open(tmp_path, 10**6)
    for round in (1, 2):
        _, file = arrived(store, round)
        ticket = ticket_of(0, round=round)
        store.journal.accept(Kept(ticket=ticket, identity=b"", header=b"", file=file)).result(10)
    store.forget(1)
    assert store.journal.files() == {file}
    store.close()  # by then what is removed aside is gone
    assert [path.name for path in (tmp_path / "spool").iterdir()] == [file]
    again = Store.open(tmp_path, 10**6)
    assert [path.name for path in (tmp_path / "spool").iterdir()] == [file]
    again.close()


def test_a_payload_that_cannot_be_read_now_is_dropped_and_may_come_again(tmp_path, monkeypatch):
    def too_many(*_args: object) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(stores, "IN_JOURNAL", 0)
    store = Store.open(tmp_path, 10**6)
    monkeypatch.setattr(Path, "open", too_many)
    with pytest.raises(SendAgain, match="too many files are open"):
        arrived(store)
    monkeypatch.undo()
    assert list((tmp_path / "spool").iterdir()) == []
    data, _ = arrived(store)
    assert data == PAYLOAD
    store.close()
