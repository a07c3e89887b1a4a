"""`roundel doctor` says what keeps a machine from being a node."""

import re
from datetime import UTC, datetime

import pytest

from roundel.client.identity import IdentityDirectory
from roundel.core.certificates import member_certificate, new_authority, to_pem
from roundel.server.grpc_coordinator import Coordinator, Terms
from tests.commands import Ended, call
from tests.server.toys import FakeClock

NOW = datetime.now(UTC)
TERMS = Terms(run="r", experiment="{}", population=4, fingerprint="layout", update_limit=1000)
NOBODY = "127.0.0.1:1"


@pytest.fixture(autouse=True)
def _home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "states"))


def told(ended: Ended) -> list[tuple[str, str]]:
    """Level and subject of each line."""
    assert ended.err == ""
    words = [re.split(r" +", line) for line in ended.out.splitlines()]
    return [(level, what) for level, what, *_ in words]


def test_a_machine_that_can_join_an_open_coordinator(tmp_path):
    data = tmp_path / "mine.csv"
    data.write_text("1,2\n")
    with Coordinator(TERMS, "127.0.0.1:0", FakeClock()) as running:
        ended = call("doctor", running.address, "--insecure", "--data", data)
    assert ended.code == 0
    assert told(ended) == [
        *(("ok", "name"), ("ok", "connection"), ("ok", "health")),
        *(("ok", "protocol"), ("ok", "clock"), ("ok", "disk"), ("ok", "memory"), ("ok", "data")),
    ]
    assert not (tmp_path / "states").exists()


def test_what_needs_no_coordinator_is_checked_without_one():
    ended = call("doctor", NOBODY)
    assert ended.code == 1
    assert [what for _, what in told(ended)] == ["name", "connection", "disk", "memory"]
    assert "\nFAIL  connection   127.0.0.1 port 1: connection refused; check the port" in ended.out


def test_a_coordinator_that_does_not_encrypt_is_not_trusted():
    with Coordinator(TERMS, "127.0.0.1:0", FakeClock()) as running:
        ended = call("doctor", running.address)
    assert ended.code == 1
    assert told(ended)[2:4] == [("WARN", "certificate"), ("FAIL", "tls")]
    assert "enrolment" not in ended.out


def test_the_directory_of_the_node_that_has_joined_is_found_by_itself(tmp_path):
    with Coordinator(TERMS, "127.0.0.1:0", FakeClock()) as running:
        place = tmp_path / "states" / "roundel" / running.address.replace(":", "_") / "edge7-1of3"
        enrolled(place)
        ended = call("doctor", running.address)
    assert "ok    certificate  this is node 'edge7', good for 29 more days\n" in ended.out


def test_a_key_that_others_can_read_is_a_failure(tmp_path):
    enrolled(tmp_path / "state")
    (tmp_path / "state" / "identity" / "key.pem").chmod(0o644)
    with Coordinator(TERMS, "127.0.0.1:0", FakeClock()) as running:
        ended = call("doctor", running.address, "--state", tmp_path / "state")
    assert ended.code == 1
    (line,) = [line for line in ended.out.splitlines() if "certificate" in line]
    assert line.startswith("FAIL  certificate  others can read ")


@pytest.mark.parametrize("address", ["nowhere", "host:0", "host:70000"])
def test_what_is_no_address_is_refused(address):
    ended = call("doctor", address)
    assert ended.code == 2
    assert ended.err.count("\n") == 1


def enrolled(state) -> None:
    """Put a certificate into a node's directory."""
    authority = new_authority(NOW, serial=1)
    directory = IdentityDirectory(state)
    signed = member_certificate(
        authority, directory.key().public_key(), role="node", name="edge7", now=NOW, serial=2
    )
    directory.write(to_pem(signed), to_pem(authority.certificate))
