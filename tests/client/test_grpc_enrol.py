"""How a node comes by its certificate, over loopback."""

from dataclasses import replace
from datetime import timedelta

import pytest

from roundel.client.grpc_enrol import Enrolling, fresh_until, identity_of
from roundel.client.identity import IdentityDirectory
from roundel.core.certificates import from_pem, subject_of
from roundel.core.errors import ConfigError, ProtocolError, RunFailed
from roundel.core.tokens import parse_token
from roundel.core.wire import roundel_pb2 as pb
from roundel.server.budgets import Refusals
from tests.server.grpc_secured import TIMEOUT_S, Time, federation, secured, token


@pytest.fixture
def time():
    return Time()


@pytest.fixture
def ports(tmp_path, time):
    with secured(tmp_path / "authority", time) as opened:
        yield opened


@pytest.fixture
def identity(ports, time, tmp_path):
    """Asks for the identity of a node."""

    def ask(text=None, name="edge", address=ports.address):
        return identity_of(address, tmp_path / "state", name, text, lambda: time.now)

    return ask


def test_a_token_buys_an_identity_that_the_coordinator_knows(identity, ports, time):
    bought = identity(token(ports, time))
    with federation(ports.address, bought) as stub:
        stub.Beat(pb.BeatRequest(), timeout=TIMEOUT_S)
    assert ports.federation.callers == ["edge"]


def test_the_second_time_no_token_is_needed_and_a_used_one_does_no_harm(identity, ports, time):
    text = token(ports, time)
    bought = identity(text)
    assert identity() == bought
    assert identity(text) == bought


def test_what_a_node_keeps_does_not_hold_the_token(identity, ports, time, tmp_path):
    text = token(ports, time)
    identity(text)
    for path in (tmp_path / "state" / "identity").iterdir():
        assert text.encode() not in path.read_bytes()
        assert parse_token(text).secret not in path.read_bytes()


def test_without_a_token_there_is_a_sentence_that_says_where_to_get_one(identity):
    with pytest.raises(ConfigError, match=r"node 'edge' has no certificate in .*--token, which"):
        identity()


@pytest.mark.parametrize("name", ["../edge", "a/b", "", ".edge"])
def test_names_that_are_no_file_names_are_refused_before_anything_is_asked(
    identity, ports, time, tmp_path, name
):
    with pytest.raises(ProtocolError, match="cannot be the name of a node"):
        identity(token(ports, time), name)
    assert not (tmp_path / "state").exists()


def changed(text: str, **fields) -> str:
    return replace(parse_token(text), **fields).to_text()


def test_a_wrong_secret_is_refused(identity, ports, time):
    with pytest.raises(ProtocolError, match="refuses: this join token is not known here"):
        identity(changed(token(ports, time), secret=bytes(16)))


def test_an_expired_token_is_refused(identity, ports, time):
    text = token(ports, time)
    time.pass_by(hours=1)
    with pytest.raises(ProtocolError, match="refuses: this join token expired at"):
        identity(text)


def test_a_used_up_token_is_refused(ports, time, tmp_path):
    text = token(ports, time)
    identity_of(ports.address, tmp_path / "a", "a", text)
    with pytest.raises(ProtocolError, match="refuses: this join token is used up"):
        identity_of(ports.address, tmp_path / "b", "b", text)


def test_a_revoked_token_is_refused(identity, ports, time):
    text = token(ports, time)
    ports.authority.revoke_token(parse_token(text).id, time.now)
    with pytest.raises(ProtocolError, match="refuses: this join token was revoked"):
        identity(text)


def test_a_coordinator_without_room_is_asked_again(ports, time, tmp_path, monkeypatch):
    text, asked = token(ports, time), []
    enrol = ports.authority.enrol

    def once_full(*arguments, **how):
        asked.append(how)
        if len(asked) == 1:
            raise ProtocolError("guessed")
        return enrol(*arguments, **how)

    monkeypatch.setattr(ports.authority, "enrol", once_full)
    monkeypatch.setattr(Refusals, "are_too_many", lambda *_: True)
    wanted = Enrolling(
        address=ports.address,
        name="edge",
        state=tmp_path / "state",
        token=text,
        wait_s=10.0,
        say=lambda _: None,
    )
    assert subject_of(from_pem(wanted().certificate)).name == "edge"
    assert len(asked) == 2


def test_a_name_that_is_taken_is_refused(identity, ports, time, tmp_path):
    identity(token(ports, time))
    with pytest.raises(ProtocolError, match="another node is enrolled as 'edge'; choose another"):
        identity_of(ports.address, tmp_path / "other", "edge", token(ports, time))


def test_the_secret_is_not_sent_to_another_authority_than_the_token_s(identity, ports, time):
    text = changed(token(ports, time), fingerprint=bytes(32))
    with pytest.raises(ConfigError, match="is not the authority of this token"):
        identity(text)
    right = changed(text, fingerprint=ports.authority.fingerprint)
    assert identity(right).authority == ports.authority.certificate


def test_nobody_at_the_address_is_a_sentence(identity, ports, time):
    with pytest.raises(RunFailed, match=r"127.0.0.1:1, where nodes enrol, cannot be reached"):
        identity(changed(token(ports, time), port=1))


def test_another_name_than_the_one_in_the_certificate_is_a_sentence(identity, ports, time):
    identity(token(ports, time))
    with pytest.raises(ConfigError, match="the certificate of node 'edge', not of 'other'; join"):
        identity(name="other")


def test_the_token_of_another_federation_does_not_replace_an_identity(
    identity, ports, time, tmp_path
):
    bought = identity(token(ports, time))
    with secured(tmp_path / "other", time) as other:
        text = token(other, time)
        with pytest.raises(ConfigError, match="a certificate of another authority than the token"):
            identity(text, address=other.address)
    assert identity() == bought


def test_a_certificate_is_renewed_when_it_is_due_and_its_key_stays(tmp_path):
    time = Time()
    time.pass_by(days=-25)
    with secured(tmp_path / "authority", time) as ports:

        def ask(text=None):
            return identity_of(ports.address, tmp_path / "state", "edge", text, lambda: time.now)

        bought = ask(token(ports, time))
        assert ask() == bought
        time.pass_by(days=25)
        renewed = ask()
        assert subject_of(from_pem(renewed.certificate)).ends > time.now.replace(microsecond=0)
        assert renewed.certificate != bought.certificate
        assert renewed.key == bought.key
        assert ask() == renewed
        with federation(ports.address, renewed) as stub:
            stub.Beat(pb.BeatRequest(), timeout=TIMEOUT_S)


def test_a_certificate_that_cannot_be_renewed_now_is_used_as_it_is(tmp_path):
    time = Time()
    time.pass_by(days=-25)
    with secured(tmp_path / "authority", time) as ports:
        bought = identity_of(
            ports.address, tmp_path / "state", "edge", token(ports, time), lambda: time.now
        )
    assert identity_of("127.0.0.1:1", tmp_path / "state", "edge", None) == bought


def test_a_renewed_certificate_of_somebody_else_is_not_kept(tmp_path, monkeypatch):
    time = Time()
    time.pass_by(days=-25)
    with secured(tmp_path / "authority", time) as ports:

        def ask(name, text=None):
            return identity_of(ports.address, tmp_path / name, name, text, lambda: time.now)

        bought = ask("edge", token(ports, time))
        other = ask("other", token(ports, time))
        time.pass_by(days=25)
        reply = (other.certificate, other.authority)
        monkeypatch.setattr(ports.tls, "renew", lambda *_: reply)
        with pytest.raises(ProtocolError, match="gave a certificate for somebody else"):
            ask("edge")
        kept = IdentityDirectory(tmp_path / "edge").read()
    assert kept == bought


def test_a_revoked_node_does_not_renew(tmp_path):
    time = Time()
    time.pass_by(days=-25)
    with secured(tmp_path / "authority", time) as ports:
        bought = identity_of(
            ports.address, tmp_path / "state", "edge", token(ports, time), lambda: time.now
        )
        time.pass_by(days=25)
        ports.authority.revoke("edge", "lost", time.now)
        assert identity_of(ports.address, tmp_path / "state", "edge", None) == bought
        with federation(ports.address, bought) as stub, pytest.raises(Exception, match="revoked"):
            stub.Beat(pb.BeatRequest(), timeout=TIMEOUT_S)


def test_an_identity_is_asked_for_again_when_it_is_due_and_every_hour_if_that_is_over(
    identity, ports, time
):
    bought, began = identity(token(ports, time)), time.now
    hour = timedelta(hours=1)
    due = began - hour + (30 * 24 * hour + hour) / 3 * 2  # it began an hour earlier
    assert fresh_until(bought, began) == due
    assert fresh_until(bought, due) == due + hour
    assert fresh_until(None, began) > began + timedelta(days=36500)


def test_an_expired_certificate_needs_a_token_once_more(identity, ports, time):
    bought = identity(token(ports, time))
    time.pass_by(days=31)
    with pytest.raises(ConfigError, match=r"expired at .*; join with a new --token"):
        identity()
    assert identity(token(ports, time)).key == bought.key
