"""What an operator asks for, and what a coordinator does then."""

import pytest

from roundel.client.grpc_operate import operating
from roundel.core.errors import ProtocolError
from roundel.core.status import Snapshot
from roundel.core.tokens import parse_token
from roundel.server import grpc_coordinator
from roundel.server.arrivals import Terms
from roundel.server.authority_files import read_operator
from roundel.server.grpc_coordinator import Coordinator
from roundel.server.grpc_operator import is_loopback
from tests.server.grpc_secured import Time, enrolled, secured
from tests.server.toys import FakeClock


@pytest.fixture
def time():
    return Time()


@pytest.fixture
def ports(tmp_path, time):
    with secured(tmp_path / "authority", time) as opened:
        yield opened


@pytest.fixture
def operator(ports, tmp_path):
    with operating(ports.address, read_operator(tmp_path / "authority")) as opened:
        yield opened


def last_line(tmp_path) -> str:
    return (tmp_path / "authority" / "audit.jsonl").read_text().splitlines()[-1]


def test_the_operator_is_told_what_the_federation_does(operator):
    assert operator.status() == Snapshot(run="r", rounds=3, done=1, population=4, hosted=2)


def test_a_token_that_the_operator_makes_lets_a_node_enrol(operator, ports, time, tmp_path):
    text, token_id = operator.issue_token(seconds=60.0, uses=1)
    assert parse_token(text).id == token_id
    assert parse_token(text).port == ports.tls.enrolment_port
    assert '"event": "token issued"' in last_line(tmp_path)


@pytest.mark.parametrize(
    ("seconds", "uses"), [(0.0, 1), (float("nan"), 1), (1e300, 1), (31 * 86400.0, 1), (60.0, 0)]
)
def test_a_token_for_ever_or_for_nobody_is_refused(operator, seconds, uses):
    with pytest.raises(ProtocolError, match="refuses: a token cannot"):
        operator.issue_token(seconds=seconds, uses=uses)


def test_a_token_is_taken_back(operator, tmp_path):
    _, token_id = operator.issue_token(seconds=60.0, uses=1)
    assert operator.revoke_token(token_id) == f"token {token_id} revoked"
    assert '"event": "token revoked"' in last_line(tmp_path)


def test_a_drained_node_is_sent_away_and_that_is_written_down(operator, ports, tmp_path):
    assert operator.drain("edge") == "node 'edge' leaves when it has done what it has"
    assert ports.operated.sent_away == [("edge", "the operator has drained this node")]
    assert '"event": "drained", "node": "edge"' in last_line(tmp_path)


def test_a_node_that_is_not_there_cannot_be_drained(operator):
    with pytest.raises(ProtocolError, match="there is no node 'edgy'; `roundel nodes` lists them"):
        operator.drain("edgy")


def test_a_revoked_node_is_sent_away_for_good(operator, ports, time, tmp_path):
    enrolled(ports, time, tmp_path / "edge")
    assert operator.revoke("edge", "lost") == "1 certificate of node 'edge' revoked"
    assert ports.operated.expelled == [("edge", "the operator has revoked its certificate")]
    assert '"event": "revoked", "node": "edge", "why": "lost"' in last_line(tmp_path)


def test_without_certificates_this_machine_operates_and_there_is_nothing_to_give(monkeypatch):
    monkeypatch.setattr(grpc_coordinator, "FAREWELL_S", 0.0)
    terms = Terms(run="r", experiment="{}", population=4, fingerprint="f", update_limit=1)
    with (
        Coordinator(terms, "127.0.0.1:0", FakeClock()) as running,
        operating(running.address, None) as operator,
    ):
        assert operator.status().population == 4
        with pytest.raises(ProtocolError, match="runs with --insecure, so there are neither"):
            operator.issue_token(seconds=60.0, uses=1)


@pytest.mark.parametrize(
    ("peer", "here"),
    [
        ("ipv4:127.0.0.1:50123", True),
        ("ipv4:127.8.9.1:50123", True),
        ("ipv6:%5B::1%5D:50123", True),
        ("unix:", True),
        ("ipv4:192.0.2.7:50123", False),
        ("ipv6:%5B2001:db8::1%5D:50123", False),
        ("", False),
    ],
)
def test_loopback_is_this_machine(peer, here):
    assert is_loopback(peer) is here
