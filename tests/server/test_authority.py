"""An authority gives certificates for tokens, takes them back, and remembers both."""

import sqlite3
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from roundel.core.audit import verify
from roundel.core.certificates import Subject, from_pem, new_key, signing_request, subject_of
from roundel.core.errors import ConfigError, ProtocolError, RunDirectoryError
from roundel.core.tokens import JoinToken
from roundel.server import authority_files
from roundel.server.authority import Authority, Enrolment, NotFree
from roundel.server.authority_files import read_operator
from roundel.server.callers import Caller

NOW = datetime(2026, 5, 1, 12, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)
KEY = new_key()


@pytest.fixture
def authority(tmp_path):
    opened = Authority(tmp_path / "authority", NOW)
    yield opened
    opened.close()


def token(authority: Authority, uses: int = 1) -> JoinToken:
    return authority.issue_token(port=8471, life=HOUR, uses=uses, now=NOW)


def asked(made: JoinToken, node: str = "edge", key=KEY) -> Enrolment:
    return Enrolment(
        token_id=made.id,
        secret=made.secret,
        node=node,
        request=signing_request(key),
        peer="192.0.2.7",
    )


def enrol(authority: Authority, node: str = "edge", key=KEY) -> Caller:
    subject = subject_of(from_pem(authority.enrol(asked(token(authority), node, key), NOW)))
    return Caller(name=subject.name, role=subject.role, serial=subject.serial)


def objection(authority: Authority, caller: Caller) -> str:
    """What the authority has against a caller's certificate."""
    subject = Subject(
        name=caller.name, role=caller.role, serial=caller.serial, starts=NOW, ends=NOW + HOUR
    )
    return authority.objection_to(subject)


def events(path: Path) -> list[str]:
    text = (path / "authority" / "audit.jsonl").read_text()
    return [line.split('"event": "')[1].split('"')[0] for line in text.splitlines()]


def test_what_a_directory_holds_is_for_its_owner_alone(authority, tmp_path):
    enrol(authority)
    modes = {p.name: p.stat().st_mode & 0o777 for p in (tmp_path / "authority").iterdir()}
    assert {name for name, mode in modes.items() if mode & 0o077} == set()
    assert {"ca.pem", "ca.key", "operator.pem", "operator.key", "authority.db"} < set(modes)
    assert (tmp_path / "authority").stat().st_mode & 0o777 == 0o700


def test_a_directory_opened_again_is_the_same_authority(authority, tmp_path):
    again = Authority(tmp_path / "authority", NOW + HOUR)
    assert again.fingerprint == authority.fingerprint
    again.close()


def test_a_token_gives_a_certificate_with_the_name_that_was_asked_for(authority, tmp_path):
    certificate = from_pem(authority.enrol(asked(token(authority)), NOW))
    certificate.verify_directly_issued_by(from_pem(authority.certificate))
    assert (subject_of(certificate).name, subject_of(certificate).role) == ("edge", "node")
    assert events(tmp_path) == ["token issued", "enrolled", "token used up"]


def test_a_token_is_good_for_so_many_nodes(authority):
    made = token(authority, uses=2)
    for node in ("a", "b"):
        authority.enrol(asked(made, node, new_key()), NOW)
    with pytest.raises(ProtocolError, match="this join token is used up"):
        authority.enrol(asked(made, "c", new_key()), NOW)


def test_a_wrong_secret_is_refused_like_a_token_that_never_was(authority):
    made = token(authority)
    for wrong in (replace(made, secret=bytes(16)), replace(made, id="00000000")):
        with pytest.raises(ProtocolError, match="this join token is not known here"):
            authority.enrol(asked(wrong), NOW)
    authority.enrol(asked(made), NOW)


def test_a_token_expires(authority):
    made = token(authority)
    with pytest.raises(ProtocolError, match=r"expired at 2026-05-01T13:00:00\+00:00"):
        authority.enrol(asked(made), NOW + HOUR)
    authority.enrol(asked(made), NOW + HOUR - timedelta(seconds=1))


def test_a_revoked_token_is_refused(authority, tmp_path):
    made = token(authority)
    authority.revoke_token(made.id, NOW)
    with pytest.raises(ProtocolError, match="this join token was revoked"):
        authority.enrol(asked(made), NOW)
    assert events(tmp_path) == ["token issued", "token revoked", "refused"]


def test_a_token_that_is_not_there_cannot_be_revoked(authority):
    with pytest.raises(ProtocolError, match="there is no token 'xyz'"):
        authority.revoke_token("xyz", NOW)


@pytest.mark.parametrize(("life", "uses"), [(timedelta(0), 1), (31 * 24 * HOUR, 1), (HOUR, 0)])
def test_a_token_for_ever_or_for_nobody_is_not_made(authority, life, uses):
    with pytest.raises(ProtocolError, match="a token cannot"):
        authority.issue_token(port=8471, life=life, uses=uses, now=NOW)


def test_a_name_that_is_taken_is_refused_and_costs_no_use(authority):
    enrol(authority)
    made = token(authority)
    with pytest.raises(ProtocolError, match="another node is enrolled as 'edge'; choose another"):
        authority.enrol(asked(made, "edge", new_key()), NOW)
    authority.enrol(asked(made, "edge2", new_key()), NOW)


def test_the_same_key_may_enrol_again_under_its_name(authority):
    assert enrol(authority).serial != enrol(authority).serial


@pytest.mark.parametrize("node", ["", "../edge", "a/b", ".edge", "x" * 65, "a\nb"])
def test_names_that_would_not_do_as_files_are_refused_and_written_down(authority, tmp_path, node):
    with pytest.raises(ProtocolError, match="cannot be the name of a node"):
        enrol(authority, node)
    assert events(tmp_path) == ["token issued", "refused"]
    assert verify(tmp_path / "authority" / "audit.jsonl").lines == 2


def test_neither_secrets_nor_keys_are_written_down_readably(authority, tmp_path):
    made = token(authority)
    authority.enrol(asked(made), NOW)
    for path in (tmp_path / "authority").iterdir():
        data = path.read_bytes()
        assert made.secret not in data
        assert made.secret.hex().encode() not in data
        assert made.to_text().encode() not in data


def test_revoking_a_node_takes_all_its_certificates_back(authority, tmp_path):
    callers = [enrol(authority), enrol(authority), enrol(authority, "other", new_key())]
    assert authority.revoke("edge", "lost", NOW) == 2
    revoked = [objection(authority, caller)[:43] for caller in callers]
    assert revoked == [*["the certificate of node 'edge' was revoked;"] * 2, ""]
    assert events(tmp_path)[-1] == "revoked"


def test_a_node_that_is_not_there_cannot_be_revoked(authority):
    with pytest.raises(ProtocolError, match="no node 'edge' has a certificate"):
        authority.revoke("edge", "", NOW)


def test_what_another_coordinator_revokes_is_revoked_here(authority, tmp_path):
    caller = enrol(authority)
    assert objection(authority, caller) == ""
    other = Authority(tmp_path / "authority", NOW)
    other.revoke("edge", "", NOW)
    other.close()
    assert "was revoked" in objection(authority, caller)


def test_a_node_that_is_not_in_the_database_does_not_count(authority):
    enrol(authority)
    stranger = Caller(name="edge", role="node", serial=7)
    assert objection(authority, stranger).startswith(
        "the certificate of node 'edge' is not in the authority's database; to come back, remove"
    )
    with pytest.raises(ProtocolError, match="cannot be renewed"):
        authority.renew(stranger, signing_request(KEY), NOW)


def test_what_others_do_with_the_database_takes_nothing_away(authority, tmp_path):
    path = tmp_path / "authority" / authority_files.DATABASE

    def seen_by_another_process() -> int:
        """As a backup sees it, which closes the database afterwards."""
        look = (
            "import sqlite3, sys; own = sqlite3.connect(sys.argv[1]); "
            "print(own.execute('SELECT count(*) FROM certificates').fetchone()[0]); own.close()"
        )
        said = subprocess.run(
            [sys.executable, "-c", look, path], capture_output=True, check=True, timeout=60
        )
        return int(said.stdout)

    before = seen_by_another_process()
    authority.enrol(asked(token(authority)), NOW)
    assert seen_by_another_process() == before + 1


def test_the_operator_s_certificate_is_taken_back_by_deleting_it(authority, tmp_path):
    def current() -> Caller:
        own = subject_of(from_pem(read_operator(tmp_path / "authority").certificate))
        return Caller(name=own.name, role=own.role, serial=own.serial)

    stolen = current()
    assert objection(authority, stolen) == ""
    for name in ("operator.pem", "operator.key"):
        (tmp_path / "authority" / name).unlink()
    assert "was replaced" in objection(authority, stolen)
    Authority(tmp_path / "authority", NOW).close()
    assert (objection(authority, current()), "was replaced" in objection(authority, stolen)) == (
        "",
        True,
    )


def test_the_tokens_of_a_node_that_are_good_still_are_found_after_a_renewal(authority):
    made = token(authority, uses=3)
    subject = subject_of(from_pem(authority.enrol(asked(made), NOW)))
    caller = Caller(name="edge", role="node", serial=subject.serial)
    authority.renew(caller, signing_request(KEY), NOW)
    assert authority.usable_tokens_of("edge", NOW) == {made.id: 2}
    assert authority.usable_tokens_of("edge", NOW + HOUR) == {}
    authority.revoke_token(made.id, NOW)
    assert authority.usable_tokens_of("edge", NOW) == {}


def test_guesses_need_not_be_written_down_but_a_name_that_is_taken_is(authority, tmp_path):
    enrol(authority)
    made = token(authority)
    before = events(tmp_path)
    with pytest.raises(ProtocolError, match="not known here"):
        authority.enrol(asked(replace(made, secret=bytes(16))), NOW, audits_guesses=False)
    assert events(tmp_path) == before
    with pytest.raises(NotFree):
        authority.enrol(asked(made, "edge", new_key()), NOW, audits_guesses=False)
    assert events(tmp_path) == [*before, "refused"]


def test_a_revoked_name_is_free_for_another_key_but_not_for_the_revoked_one(authority):
    enrol(authority)
    authority.revoke("edge", "", NOW)
    with pytest.raises(ProtocolError, match="the key of node 'edge' was revoked"):
        enrol(authority)
    with pytest.raises(ProtocolError, match="the key of node 'edge2' was revoked"):
        enrol(authority, "edge2")
    enrol(authority, "edge", new_key())


def test_a_node_renews_its_certificate(authority, tmp_path):
    later = NOW + timedelta(days=21)
    renewed = subject_of(from_pem(authority.renew(enrol(authority), signing_request(KEY), later)))
    assert (renewed.name, renewed.ends) == ("edge", later + timedelta(days=30))
    assert events(tmp_path)[-1] == "renewed"


def test_only_a_node_that_is_not_revoked_renews(authority):
    caller = enrol(authority)
    authority.revoke("edge", "", NOW)
    operator = Caller(name="operator", role="operator", serial=1)
    for other in (caller, operator, None):
        with pytest.raises(ProtocolError, match="cannot be renewed"):
            authority.renew(other, signing_request(KEY), NOW)


def test_the_operator_finds_its_identity_in_the_directory(authority, tmp_path):
    identity = read_operator(tmp_path / "authority")
    subject = subject_of(from_pem(identity.certificate))
    assert (subject.role, identity.authority) == ("operator", authority.certificate)


def test_the_certificate_of_the_operator_is_renewed_when_that_is_due(authority, tmp_path):
    def ends(now: datetime) -> datetime:
        Authority(tmp_path / "authority", now).close()
        return subject_of(from_pem(read_operator(tmp_path / "authority").certificate)).ends

    year = timedelta(days=365)
    assert ends(NOW + timedelta(days=200)) == NOW + year
    assert ends(NOW + timedelta(days=300)) == NOW + timedelta(days=300) + year


def test_without_an_authority_there_is_no_operator(tmp_path):
    with pytest.raises(ConfigError, match=r"there is no operator.key in .*--authority"):
        read_operator(tmp_path)


def test_a_key_that_others_can_read_is_not_used(authority, tmp_path):
    (tmp_path / "authority" / "ca.key").chmod(0o644)
    with pytest.raises(ConfigError, match="others can read"):
        Authority(tmp_path / "authority", NOW)


def test_a_lost_key_is_not_replaced_behind_the_back_of_those_who_trust_it(authority, tmp_path):
    (tmp_path / "authority" / "ca.key").unlink()
    with pytest.raises(ConfigError, match=r"ca.key is missing in .*; bring it back"):
        Authority(tmp_path / "authority", NOW)


@pytest.mark.parametrize("emptied", [True, False])
def test_a_lost_database_does_not_make_the_revoked_valid_again(authority, tmp_path, emptied):
    authority.close()
    path = tmp_path / "authority" / "authority.db"
    path.unlink()
    if emptied:
        path.touch(mode=0o600)
    with pytest.raises(ConfigError, match=r"authority.db is missing or empty in .*put the backup"):
        Authority(tmp_path / "authority", NOW)


def test_the_key_of_another_authority_is_noticed(authority, tmp_path):
    Authority(tmp_path / "other", NOW).close()
    (tmp_path / "other" / "ca.key").replace(tmp_path / "authority" / "ca.key")
    with pytest.raises(ConfigError, match=r"is not the key of ca\.pem"):
        Authority(tmp_path / "authority", NOW)


def test_an_authority_whose_making_was_interrupted_is_made_anew(tmp_path):
    (tmp_path / "authority").mkdir(mode=0o700)
    (tmp_path / "authority" / "ca.pem").write_text("half of one")
    Authority(tmp_path / "authority", NOW).close()


@pytest.mark.parametrize("last", ["ca.pem", "ca.key"])
def test_a_first_start_that_ends_at_any_file_is_gone_on_with(tmp_path, monkeypatch, last):
    written = authority_files.write_private

    def crash(path: Path, data: bytes) -> None:
        if path.name == last:
            raise KeyboardInterrupt
        written(path, data)

    with monkeypatch.context() as patched:
        patched.setattr(authority_files, "write_private", crash)
        with pytest.raises(KeyboardInterrupt):
            Authority(tmp_path / "authority", NOW)
    assert (tmp_path / "authority" / "authority.db").stat().st_size > 0
    Authority(tmp_path / "authority", NOW).close()


def test_what_cannot_be_written_down_does_not_happen(authority, tmp_path, monkeypatch):
    def full(*_arguments, **_facts):
        raise RunDirectoryError("no space left")

    made = token(authority)
    monkeypatch.setattr(authority, "record", full)
    with pytest.raises(RunDirectoryError):
        authority.enrol(asked(made), NOW)
    with sqlite3.connect(tmp_path / "authority" / "authority.db") as database:
        assert database.execute("SELECT count(*) FROM certificates").fetchone() == (0,)
        assert database.execute("SELECT uses FROM tokens").fetchone() == (1,)


def test_a_damaged_database_is_a_sentence(authority, tmp_path):
    authority.close()
    (tmp_path / "authority" / "authority.db").write_bytes(b"no database" * 100)
    with pytest.raises(RunDirectoryError, match="the authority's database cannot be used"):
        Authority(tmp_path / "authority", NOW)
