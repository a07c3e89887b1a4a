"""Payloads in files: whole ones that nobody can change, and unfinished ones that go on."""

import errno
import os
import stat
from pathlib import Path

import pytest

from roundel.core.errors import ProtocolError, RunDirectoryError
from roundel.core.wire.payload import digest_of
from roundel.server import spool as spools
from roundel.server.spool import SendAgain, Spool, SpoolReceiver
from tests.server.toys import ticket_of

PAYLOAD = bytes(range(250)) * 4
DIGEST = digest_of(PAYLOAD)
LIMIT = 2000


@pytest.fixture
def spool(tmp_path) -> Spool:
    return Spool(tmp_path / "spool", LIMIT)


def receiver_of(spool: Spool, client: int = 0, size: int = 1000, **changes) -> SpoolReceiver:
    return spool.receiver(ticket_of(client, **changes), DIGEST, size, LIMIT)


def arrived(spool: Spool, *chunks: bytes, client: int = 0) -> SpoolReceiver:
    receiver = receiver_of(spool, client)
    for chunk in chunks:
        receiver.take(chunk)
    return receiver


def files(spool: Spool) -> list[str]:
    return sorted(path.name for path in spool._directory.iterdir())


def test_a_payload_that_arrived_in_chunks_is_loaded_whole(spool):
    name = spool.finish(arrived(spool, PAYLOAD[:300], PAYLOAD[300:]))
    assert bytes(spool.load(name)) == PAYLOAD
    assert files(spool) == [name]
    path = spool._directory / name
    assert [stat.S_IMODE(p.stat().st_mode) for p in (path, path.parent)] == [0o600, 0o700]


def test_what_is_loaded_can_be_written_to_and_the_file_stays_as_it_is(spool):
    name = spool.finish(arrived(spool, PAYLOAD))
    spool.load(name)[0] = 99
    assert bytes(spool.load(name)) == PAYLOAD


def test_what_is_loaded_stays_after_its_file_is_dropped(spool):
    name = spool.finish(arrived(spool, PAYLOAD))
    loaded = spool.load(name)
    spool.drop(name)
    assert bytes(loaded) == PAYLOAD
    assert files(spool) == []
    with pytest.raises(RunDirectoryError, match="an update that was accepted: No such file"):
        spool.load(name)


def test_chunks_wait_in_memory_until_they_are_written(spool):
    receiver = arrived(spool, PAYLOAD[:300], PAYLOAD[300:500])
    assert (receiver.filled, receiver.waiting, receiver.complete) == (500, 500, False)
    receiver.flush()
    assert (receiver.filled, receiver.waiting) == (500, 0)
    assert (spool._directory / receiver.name).read_bytes() == PAYLOAD[:500]


def test_an_unfinished_payload_goes_on_in_another_process(spool, tmp_path):
    arrived(spool, PAYLOAD[:500]).flush()
    again = Spool(tmp_path / "spool", LIMIT)
    assert again.arrived(ticket_of(0), DIGEST) == 500
    assert again.arrived(ticket_of(1), DIGEST) == again.arrived(ticket_of(0), b"x") == 0
    receiver = receiver_of(again)
    receiver.rewind(400)
    receiver.take(PAYLOAD[400:])
    assert bytes(again.load(again.finish(receiver))) == PAYLOAD


def test_a_whole_payload_that_was_not_accepted_yet_need_not_come_again(spool, tmp_path):
    accepted = spool.finish(arrived(spool, PAYLOAD))
    waiting = spool.finish(arrived(spool, PAYLOAD, client=1))
    again = Spool(tmp_path / "spool", LIMIT, {accepted})
    assert files(again) == sorted([accepted, waiting.partition(".")[0]])
    assert again.arrived(ticket_of(1), DIGEST) == 1000
    assert bytes(again.load(again.finish(receiver_of(again, 1)))) == PAYLOAD


def test_what_was_taken_in_is_told_even_before_it_is_written(spool):
    arrived(spool, PAYLOAD[:500])
    assert spool.arrived(ticket_of(0), DIGEST) == 500


def test_a_second_receiver_ends_the_first_and_cannot_harm_what_is_whole(spool):
    first = arrived(spool, PAYLOAD[:500])
    second = receiver_of(spool)
    with pytest.raises(ProtocolError, match=r"^this upload goes on in another call$"):
        first.take(PAYLOAD[500:])
    second.take(PAYLOAD[500:])
    name = spool.finish(second)
    third = arrived(spool, bytes(1000))
    with pytest.raises(ProtocolError, match="digest differs"):
        spool.finish(third)
    assert bytes(spool.load(name)) == PAYLOAD
    assert files(spool) == [name]


def test_going_on_beyond_what_has_arrived_is_refused(spool):
    with pytest.raises(ProtocolError, match=r"cannot go on at byte 501: 500 have arrived$"):
        arrived(spool, PAYLOAD[:500]).rewind(501)


def test_more_or_less_than_was_announced_is_refused(spool):
    receiver = arrived(spool, PAYLOAD[:999])
    with pytest.raises(ProtocolError, match=r"^999 of 1000 announced bytes arrived$"):
        spool.finish(receiver)
    with pytest.raises(ProtocolError, match=r"^more than the announced 1000 bytes arrived$"):
        receiver.take(b"xx")
    receiver.take(PAYLOAD[999:])
    assert bytes(spool.load(spool.finish(receiver))) == PAYLOAD


def test_a_payload_damaged_before_it_went_on_is_to_be_sent_again(spool, tmp_path):
    arrived(spool, bytes(500)).flush()
    again = Spool(tmp_path / "spool", LIMIT)
    receiver = receiver_of(again)
    receiver.take(PAYLOAD[500:])
    with pytest.raises(SendAgain):
        again.finish(receiver)
    assert files(again) == []


@pytest.mark.parametrize("size", [7, LIMIT + 1, 2**63])
def test_a_size_out_of_bounds_is_refused_before_a_file_is_made(spool, size):
    with pytest.raises(ProtocolError, match=rf"^a payload of {size} bytes is not between 8 and"):
        receiver_of(spool, size=size)
    assert files(spool) == []


def test_all_payloads_together_have_a_limit_too(spool, tmp_path):
    name = spool.finish(arrived(spool, PAYLOAD))
    receiver_of(spool, 1)
    with pytest.raises(SendAgain, match="beside the 2000 bytes that are here"):
        receiver_of(spool, 2, size=8)
    spool.drop(name)
    receiver_of(spool, 2)


def test_payloads_of_old_rounds_are_dropped(spool):
    names = []
    for round in (1, 2):
        receiver = receiver_of(spool, round=round)
        receiver.take(PAYLOAD)
        names.append(spool.finish(receiver))
    spool.drop_rounds(1)
    spool.close()
    assert files(spool) == [names[1]]


def test_what_cannot_be_removed_is_told_at_the_next_call(spool, monkeypatch):
    def denied(*_args: object, **_options: object) -> None:
        raise OSError(errno.EACCES, os.strerror(errno.EACCES))

    spool.finish(arrived(spool, PAYLOAD))
    monkeypatch.setattr(Path, "unlink", denied)
    spool.drop_rounds(1)
    with pytest.raises(RunDirectoryError, match="Permission denied"):
        spool.drop_rounds(2)


@pytest.mark.parametrize("offset", [0, 300, 500])
def test_a_payload_of_which_a_part_came_twice_is_whole(spool, offset):
    receiver = arrived(spool, PAYLOAD[:500])
    receiver.rewind(offset)
    receiver.take(PAYLOAD[offset:])
    assert bytes(spool.load(spool.finish(receiver))) == PAYLOAD


@pytest.mark.parametrize("offset", [0, 300])
def test_what_came_in_place_of_a_part_is_found_to_be_damaged(spool, offset):
    receiver = arrived(spool, PAYLOAD)
    receiver.rewind(offset)
    receiver.take(bytes(1000 - offset))
    with pytest.raises(ProtocolError, match="the payload's digest differs from the announced one"):
        spool.finish(receiver)


def test_a_full_disk_is_one_sentence(spool, monkeypatch):
    def full(*_args: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    receiver = arrived(spool, PAYLOAD)
    monkeypatch.setattr(spools.os, "pwrite", full)
    with pytest.raises(RunDirectoryError, match=r"^cannot write .*: No space left on device; free"):
        spool.finish(receiver)
    monkeypatch.undo()
    assert bytes(spool.load(spool.finish(arrived(spool, PAYLOAD)))) == PAYLOAD


def test_a_payload_for_which_no_file_can_be_opened_may_come_later(spool, monkeypatch):
    def too_many(*_args: object) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    whole = arrived(spool, PAYLOAD, client=1)
    monkeypatch.setattr(spools.os, "open", too_many)
    for attempt in (lambda: receiver_of(spool), lambda: spool.finish(whole)):
        with pytest.raises(SendAgain, match=r"^too many files are open here .*; send it later$"):
            attempt()
    monkeypatch.undo()
    assert files(spool) == []
    name = spool.finish(arrived(spool, PAYLOAD))
    monkeypatch.setattr(Path, "open", too_many)
    with pytest.raises(RunDirectoryError, match=r"Too many open files; .* with `ulimit -n`$"):
        spool.load(name)


def test_a_directory_that_cannot_be_made_is_one_sentence(tmp_path):
    Path(tmp_path / "file").write_text("")
    with pytest.raises(RunDirectoryError, match=r"^cannot write "):
        Spool(tmp_path / "file" / "spool", LIMIT)
