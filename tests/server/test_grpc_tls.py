"""Who gets a connection at all, and where nodes enrol."""

import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import timedelta
from typing import Any

import grpc
import pytest

from roundel.client.grpc_enrol import identity_of
from roundel.core.certificates import (
    from_pem,
    key_to_pem,
    member_certificate,
    new_authority,
    new_key,
    to_pem,
)
from roundel.core.errors import ConfigError, ProtocolError
from roundel.core.tokens import parse_token
from roundel.core.wire import roundel_pb2 as pb
from roundel.core.wire.channel import Identity, dial
from roundel.server import grpc_coordinator
from roundel.server.arrivals import Terms
from roundel.server.authority import Authority
from roundel.server.grpc_coordinator import Coordinator
from roundel.server.grpc_tls import Tls
from tests.server.fake_node import FakeNode, refusal
from tests.server.grpc_secured import TIMEOUT_S, Time, enrolled, federation, secured, token
from tests.server.toys import FakeClock, ticket_of

ANOTHER = (
    "the certificate is that of node 'other', which cannot speak for node 'edge'; join under your "
    "own name"
)
TERMS = Terms(run="r", experiment="{}", population=4, fingerprint="layout", update_limit=1000)


@pytest.fixture
def time():
    return Time()


@pytest.fixture
def ports(tmp_path, time):
    with secured(tmp_path / "authority", time) as opened:
        yield opened


@pytest.fixture
def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return listening.getsockname()[1]


def connects(address: str, identity: Identity | None) -> bool:
    with federation(address, identity) as stub:
        try:
            stub.Beat(pb.BeatRequest(), timeout=TIMEOUT_S)
        except grpc.RpcError as error:
            return error.code() is not grpc.StatusCode.UNAVAILABLE
    return True


def made_up(authority: bytes, time: Time) -> Identity:
    """What somebody has who made an authority of his own, with the name of the true one."""
    key = new_key()
    certificate = member_certificate(
        new_authority(time.now, 1),
        key.public_key(),
        role="node",
        name="edge",
        serial=2,
        now=time.now,
    )
    return Identity(key=key_to_pem(key), certificate=to_pem(certificate), authority=authority)


def test_a_node_with_a_certificate_is_let_in(ports, time, tmp_path):
    assert connects(ports.address, enrolled(ports, time, tmp_path / "edge"))


def test_without_a_certificate_there_is_no_connection(ports):
    assert not connects(ports.address, None)
    options = [("grpc.ssl_target_name_override", "coordinator.roundel")]
    credentials = grpc.ssl_channel_credentials(root_certificates=ports.authority.certificate)
    with grpc.secure_channel(ports.address, credentials, options=options) as channel:
        beat = channel.unary_unary("/roundel.v1.Federation/Beat")
        assert refusal(lambda: beat(b"", timeout=TIMEOUT_S))[0] is grpc.StatusCode.UNAVAILABLE
    assert ports.federation.callers == []


def test_the_certificate_of_another_authority_gives_no_connection(ports, time):
    assert not connects(ports.address, made_up(ports.authority.certificate, time))
    assert ports.federation.callers == []


def test_an_expired_certificate_gives_no_connection(tmp_path):
    earlier = Time()
    earlier.pass_by(days=-40)
    with secured(tmp_path / "authority", earlier) as ports:
        assert not connects(ports.address, enrolled(ports, earlier, tmp_path / "edge"))
        earlier.pass_by(days=20)
        assert connects(ports.address, enrolled(ports, earlier, tmp_path / "other", "other"))


def test_a_node_does_not_talk_to_a_coordinator_of_another_authority(ports, time, tmp_path):
    identity = enrolled(ports, time, tmp_path / "edge")
    with secured(tmp_path / "other", time) as other:
        assert not connects(other.address, identity)


def test_a_node_s_certificate_does_not_make_it_a_coordinator(ports, time, tmp_path):
    edge = enrolled(ports, time, tmp_path / "edge")
    server = grpc.server(ThreadPoolExecutor(1))
    credentials = grpc.ssl_server_credentials([(edge.key, edge.certificate)])
    port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    assert not connects(f"127.0.0.1:{port}", edge)
    server.stop(None)


def test_a_node_cannot_use_the_session_of_another_one_nor_its_name(tmp_path, time, monkeypatch):
    monkeypatch.setattr(grpc_coordinator, "FAREWELL_S", 0.0)
    authority = Authority(tmp_path / "authority", time.now)
    tls = Tls(authority, clocks=time.clocks())
    with (
        closing(authority),
        Coordinator(TERMS, "127.0.0.1:0", FakeClock(), security=tls) as running,
    ):
        edges = []
        for name in ("edge", "other"):
            made = authority.issue_token(
                port=tls.enrolment_port, life=timedelta(hours=1), uses=1, now=time.now
            )
            text = made.to_text()
            edges.append(identity_of(running.address, tmp_path / name, name, text))
        with dial(running.address, edges[0]) as mine, dial(running.address, edges[1]) as another:
            edge, other = FakeNode(mine), FakeNode(another)
            edge.join("edge")
            edge.host([0, 1])
            other.session = edge.session
            for call in (other.beat, other.poll, lambda: other.host([0]), other.join):
                assert refusal(call) == (grpc.StatusCode.INVALID_ARGUMENT, ANOTHER)
            assert refusal(other.fail(ticket_of(0)).result)[1] == ANOTHER
            edge.beat()


def test_a_token_is_written_to_a_private_file_once_nodes_can_enrol(tmp_path, time):
    path = tmp_path / "token"
    with secured(tmp_path / "authority", time, token_file=path) as ports:
        made = parse_token(path.read_text())
        assert made.port == ports.tls.enrolment_port
        assert made.fingerprint == ports.authority.fingerprint
    assert path.stat().st_mode & 0o777 == 0o600


def test_nodes_enrol_at_the_port_that_was_asked_for(tmp_path, time, free_port):
    with secured(tmp_path / "authority", time, enrolment_port=free_port) as ports:
        assert ports.tls.enrolment_port == free_port
        assert parse_token(token(ports, time)).port == free_port


def test_a_port_that_is_taken_is_a_sentence(ports, tmp_path, time):
    taken = ports.tls.enrolment_port
    with (
        pytest.raises(ConfigError, match=rf"cannot listen on 127.0.0.1:{taken}, where nodes enrol"),
        secured(tmp_path / "other", time, enrolment_port=taken),
    ):
        pass


class FakeServer(Any):
    def add_secure_port(self, listen: str, credentials: object) -> int:
        return int(listen.rpartition(":")[2])


def test_by_default_nodes_enrol_at_the_port_after_the_federation_s(tmp_path, time):
    authority = Authority(tmp_path / "authority", time.now)
    tls, server = Tls(authority), FakeServer()
    assert tls.add_port(server, "[::1]:8470") == 8470
    assert tls._listen_enrolment == "[::1]:8471"
    with pytest.raises(ConfigError, match="no port 65536 to enrol at; name one with --enrol-port"):
        tls.add_port(server, "127.0.0.1:65535")
    authority.close()


def test_the_token_in_the_file_is_short_lived(tmp_path, time):
    path = tmp_path / "token"
    with secured(tmp_path / "authority", time, token_file=path) as ports:
        time.pass_by(hours=1)
        with pytest.raises(ProtocolError, match="this join token expired"):
            identity_of(
                ports.address, tmp_path / "edge", "edge", path.read_text(), lambda: time.now
            )


def test_the_life_of_a_server_certificate_is_longer_than_a_run(ports, time):
    own = ports.authority.server_identity("coordinator.roundel", time.now)
    ends = from_pem(own.certificate).not_valid_after_utc
    assert ends - time.now == timedelta(days=365)
