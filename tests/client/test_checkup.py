"""Whether a machine can be a node."""

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from roundel.client import checkup
from roundel.client.checkup import (
    Finding,
    Level,
    certificate_finding,
    check_connection,
    check_data,
    check_disk,
    check_enrolment,
    check_name,
    check_tls,
    clock_finding,
    failed,
    free_memory,
    memory_finding,
    protocol_finding,
    warned,
)
from roundel.core.certificates import (
    Signer,
    key_to_pem,
    member_certificate,
    new_authority,
    new_key,
    server_certificate,
    to_pem,
)
from roundel.core.wire.channel import COORDINATOR
from roundel.core.wire.versions import OURS, Version

NOW = datetime.now(UTC).replace(microsecond=0)
LOOPBACK = "127.0.0.1"


@pytest.fixture(scope="module")
def authority() -> Signer:
    return new_authority(NOW, serial=1)


def pem(signer: Signer) -> bytes:
    return to_pem(signer.certificate)


@contextmanager
def listening(answer) -> Iterator[int]:
    """Yield the port of a server that answers one connection."""
    with socket.create_server((LOOPBACK, 0)) as server:
        thread = threading.Thread(target=lambda: answer(server.accept()[0]))
        thread.start()
        yield server.getsockname()[1]
        thread.join()


@contextmanager
def coordinator(
    signer: Signer, folder: Path, *, name: str = COORDINATOR, made: datetime = NOW
) -> Iterator[int]:
    """Yield the port of a server with a certificate."""
    key = new_key()
    signed = server_certificate(signer, key.public_key(), name=name, now=made, serial=2)
    file = folder / "server.pem"
    file.write_bytes(to_pem(signed) + key_to_pem(key))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)

    def answer(plain: socket.socket) -> None:
        with plain, suppress(OSError):  # the client hangs up if it trusts nobody here
            context.wrap_socket(plain, server_side=True).close()

    with listening(answer) as port:
        yield port


# ---- how a finding looks


def test_a_finding_is_one_aligned_line_with_its_remedy():
    assert Finding(what="name", said="well").line() == "ok    name         well"
    assert warned("clock", "slow", "wind it").line() == "WARN  clock        slow; wind it"
    assert failed("disk", "full", "free it").line() == "FAIL  disk         full; free it"


# ---- the way to the coordinator


def test_a_name_is_looked_up():
    assert check_name(LOOPBACK).line() == "ok    name         127.0.0.1 is 127.0.0.1"
    unknown = check_name("coordinator.invalid")
    assert unknown.level is Level.FAIL
    assert unknown.said.startswith("coordinator.invalid cannot be looked up (")
    assert check_name("a" * 64 + ".invalid").level is Level.FAIL


def test_a_connection_is_made_or_it_is_said_why_not(monkeypatch):
    with listening(lambda plain: plain.close()) as port:
        found = check_connection(LOOPBACK, port)
    assert found.said.startswith(f"127.0.0.1 port {port} answers in ")
    refused = check_connection(LOOPBACK, port)
    assert refused.said == f"127.0.0.1 port {port}: connection refused"
    assert "that `roundel serve` runs" in refused.remedy

    def silent(*_where: object) -> None:
        raise TimeoutError

    monkeypatch.setattr(checkup.socket, "create_connection", silent)
    assert check_connection(LOOPBACK, port).line() == (
        f"FAIL  connection   127.0.0.1 port {port} did not answer in 5 s; let TCP port {port} "
        "through the firewalls on the way"
    )


def test_a_closed_port_to_enrol_at_is_a_warning():
    with listening(lambda plain: plain.close()) as port:
        assert check_enrolment(LOOPBACK, port).what == "enrolment"
    found = check_enrolment(LOOPBACK, port)
    assert (found.level, found.what) == (Level.WARN, "enrolment")


def test_the_coordinators_certificate_is_checked_against_the_nodes_authority(authority, tmp_path):
    with coordinator(authority, tmp_path) as port:
        found = check_tls(LOOPBACK, port, pem(authority), NOW)
    assert found.line() == (
        "ok    tls          TLSv1.3 with this node's coordinator, good for 365 more days"
    )


def test_without_an_authority_it_is_only_seen_that_it_encrypts(authority, tmp_path):
    with coordinator(authority, tmp_path) as port:
        found = check_tls(LOOPBACK, port, None, NOW)
    assert found.line() == "ok    tls          TLSv1.3; a node with a certificate can check whose"


def test_another_coordinator_is_told_apart(authority, tmp_path):
    with coordinator(new_authority(NOW, serial=7), tmp_path) as port:
        found = check_tls(LOOPBACK, port, pem(authority), NOW)
    assert found.level is Level.FAIL
    assert found.said.startswith("this is not the coordinator that this node enrolled with (")
    with coordinator(authority, tmp_path, name="authority.roundel") as port:
        found = check_tls(LOOPBACK, port, pem(authority), NOW)
    assert found.said.startswith("this is not the coordinator that this node enrolled with (")


@pytest.mark.parametrize(
    ("made", "why"),
    [
        (NOW + timedelta(hours=2), "certificate is not yet valid"),
        (NOW - timedelta(days=366), "certificate has expired"),
    ],
)
def test_a_certificate_out_of_its_time_is_blamed_on_the_clock_first(authority, tmp_path, made, why):
    with coordinator(authority, tmp_path, made=made) as port:
        found = check_tls(LOOPBACK, port, pem(authority), NOW)
    assert found.said == f"{why} by the clock here, which shows {NOW:%Y-%m-%d %H:%M} UTC"
    assert found.remedy.startswith("set the clock if it is wrong")


def test_a_coordinator_without_encryption_is_told_apart(authority):
    def greet(plain: socket.socket) -> None:
        with plain:
            plain.sendall(b"\0\0\0\4\0\0\0\0\0")  # HTTP/2 settings, in the clear
            plain.recv(1 << 12)

    with listening(greet) as port:
        found = check_tls(LOOPBACK, port, pem(authority), NOW)
    assert found.said == "the coordinator does not encrypt"


def test_a_handshake_that_breaks_off_is_not_called_something_else(authority, monkeypatch):
    def broken(*_where: object) -> None:
        raise ConnectionResetError(104, "Connection reset by peer")

    monkeypatch.setattr(checkup.socket, "create_connection", broken)
    found = check_tls(LOOPBACK, 1, pem(authority), NOW)
    assert found.said == "the handshake broke off: connection reset by peer"


# ---- the node's own certificate


def test_a_certificate_says_whose_it_is_and_for_how_long(authority):
    found = certificate_finding(node_pem(authority), NOW)
    assert found.line() == "ok    certificate  this is node 'edge7', good for 30 more days"


def test_a_certificate_that_is_due_is_a_warning(authority):
    found = certificate_finding(node_pem(authority), NOW + timedelta(days=25))
    assert found.level is Level.WARN
    assert found.said == "this is node 'edge7', good for 5 more days"


def test_a_certificate_out_of_its_time_is_a_failure(authority):
    early = certificate_finding(node_pem(authority), NOW - timedelta(hours=2))
    late = certificate_finding(node_pem(authority), NOW + timedelta(days=30))
    assert [early.level, late.level] == [Level.FAIL, Level.FAIL]
    assert early.remedy == "set the clock"
    assert "which is over" in late.said


def test_what_is_no_certificate_of_a_node_is_a_failure(authority):
    assert certificate_finding(b"", NOW).level is Level.FAIL
    assert certificate_finding(pem(authority), NOW).level is Level.FAIL


def node_pem(signer: Signer) -> bytes:
    key = new_key().public_key()
    return to_pem(member_certificate(signer, key, role="node", name="edge7", now=NOW, serial=3))


# ---- what the coordinator says


@pytest.mark.parametrize(
    ("ahead_s", "level", "said"),
    [
        (0.9, "ok", "as the coordinator's, within a second"),
        (-30.1, "ok", "30 s behind the coordinator's"),
        (31.0, "WARN", "31 s ahead of the coordinator's"),
        (-4000.0, "FAIL", "4000 s behind the coordinator's"),
        (None, "WARN", "the coordinator does not tell its time"),
    ],
)
def test_clocks_are_compared(ahead_s, level, said):
    found = clock_finding(ahead_s, 0.1)
    assert (found.level, found.said) == (level, said)


def test_protocols_are_compared():
    assert protocol_finding(OURS).line() == f"ok    protocol     {OURS} here, {OURS} there"
    assert protocol_finding(None).level is Level.WARN
    far = protocol_finding(Version(OURS.major + 1, 0))
    assert far.level is Level.FAIL
    assert far.remedy.startswith("upgrade Roundel on node ")


# ---- this machine


def test_the_disk_is_looked_at_where_the_directory_will_be(tmp_path, monkeypatch):
    monkeypatch.setattr(checkup, "DISK_BYTES", 1)
    found = check_disk(tmp_path / "not" / "yet" / "there")
    assert found.level is Level.OK
    assert found.said.endswith(f"GB free at {tmp_path}")
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_is_nearly_full_is_a_warning(tmp_path, monkeypatch):
    monkeypatch.setattr(checkup, "DISK_BYTES", 1 << 62)
    assert check_disk(tmp_path).level is Level.WARN


def test_a_file_in_place_of_the_directory_is_a_failure(tmp_path):
    (tmp_path / "state").touch()
    assert check_disk(tmp_path / "state").line() == (
        f"FAIL  disk         {tmp_path / 'state'} cannot be written; give this user the right, or "
        "choose --state"
    )


def test_memory_is_judged():
    assert memory_finding(2_000_000_000).line() == (
        "ok    memory       2.0 GB free; a node needs 0.5 GB beside its model and examples"
    )
    assert memory_finding(100_000_000).line() == (
        "WARN  memory       0.1 GB free; a node needs 0.5 GB beside its model and examples; end "
        "other programs, or give it more"
    )
    assert memory_finding(None).level is Level.WARN


def test_the_limit_of_a_container_counts(tmp_path, monkeypatch):
    for name, text in {
        "_MEMORY": "MemTotal: 9000 kB\nMemAvailable:    5000 kB\n",
        "_MEMORY_LIMIT": "max\n",
        "_MEMORY_USED": "1000\n",
    }.items():
        (tmp_path / name).write_text(text)
        monkeypatch.setattr(checkup, name, tmp_path / name)
    assert free_memory() == 5_120_000
    (tmp_path / "_MEMORY_LIMIT").write_text("3000\n")
    assert free_memory() == 2000
    (tmp_path / "_MEMORY").write_text("nothing")
    assert free_memory() is None


def test_data_must_be_there_readable_and_not_empty(tmp_path):
    file = tmp_path / "mine.npz"
    assert check_data(file).said == f"cannot read {file}: no such file or directory"
    file.write_bytes(b"")
    assert check_data(file).said == f"{file} is empty"
    file.write_bytes(b"123")
    assert check_data(file).said == f"{file} can be read: 3 bytes"
    assert check_data(tmp_path).said == f"{tmp_path} can be read: 1 entries"
