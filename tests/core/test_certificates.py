"""What certificates say, for how long, and what is refused."""

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from roundel.core.certificates import (
    Role,
    Subject,
    check_node_name,
    fingerprint,
    from_pem,
    key_from_pem,
    key_id,
    key_to_pem,
    member_certificate,
    new_authority,
    new_key,
    requested_key,
    server_certificate,
    signing_request,
    subject_of,
    to_pem,
)
from roundel.core.errors import ConfigError, ProtocolError

NOW = datetime(2026, 5, 1, 12, 0, tzinfo=UTC)
SIGNER = new_authority(NOW, 1)
KEY = new_key()
DER = serialization.Encoding.DER


def certificate(role: Role = "node", name: str = "edge-7") -> x509.Certificate:
    return member_certificate(
        SIGNER, KEY.public_key(), role=role, name=name, now=NOW, serial=1 << 150
    )


def test_a_certificate_of_a_node_says_who_it_is_for_30_days():
    assert subject_of(certificate()) == Subject(
        name="edge-7",
        role="node",
        serial=1 << 150,
        starts=datetime(2026, 5, 1, 11, 0, tzinfo=UTC),
        ends=datetime(2026, 5, 31, 12, 0, tzinfo=UTC),
    )


def test_a_certificate_of_an_operator_says_so_for_a_year():
    subject = subject_of(certificate("operator", "anna"))
    assert (subject.name, subject.role) == ("anna", "operator")
    assert subject.ends == datetime(2027, 5, 1, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(("role", "by"), [("node", SIGNER), ("operator", SIGNER)])
def test_certificates_are_signed_by_the_authority_and_cannot_sign(role, by):
    signed = certificate(role)
    signed.verify_directly_issued_by(by.certificate)
    constraints = signed.extensions.get_extension_for_class(x509.BasicConstraints)
    assert constraints.critical
    assert not constraints.value.ca


def test_members_are_clients_and_coordinators_servers():
    server = server_certificate(SIGNER, KEY.public_key(), name="c.roundel", now=NOW, serial=2)
    uses = [
        list(c.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
        for c in (certificate(), server)
    ]
    assert uses == [[ExtendedKeyUsageOID.CLIENT_AUTH], [ExtendedKeyUsageOID.SERVER_AUTH]]


def test_a_certificate_of_a_server_or_of_the_authority_names_no_member():
    server = server_certificate(SIGNER, KEY.public_key(), name="c.roundel", now=NOW, serial=2)
    for other in (server, SIGNER.certificate):
        with pytest.raises(ProtocolError, match="neither a node's nor an operator's"):
            subject_of(other)


@pytest.mark.parametrize(
    "uri", ["roundel:node:../x", "roundel:boss:x", "https://x", "roundel:node:"]
)
def test_a_certificate_with_another_name_in_it_names_no_member(uri):
    with pytest.raises(ProtocolError):
        subject_of(signed_over(uri))


def signed_over(uri: str) -> x509.Certificate:
    names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)])
    builder = x509.CertificateBuilder(
        x509.Name([]), x509.Name([]), KEY.public_key(), 3, NOW, NOW + timedelta(days=1)
    )
    return builder.add_extension(names, critical=True).sign(KEY, hashes.SHA256())


@pytest.mark.parametrize(("day", "due"), [(1, False), (19, False), (20, True), (31, True)])
def test_a_certificate_is_due_when_a_third_of_its_life_is_left(day, due):
    life = Subject(name="edge", role="node", serial=1, starts=NOW, ends=NOW + timedelta(days=30))
    assert life.is_due(NOW + timedelta(days=day)) is due


@pytest.mark.parametrize("name", ["a", "edge7-1of3", "A.b_c-d", "-", "_", "x" * 64])
def test_names_of_letters_digits_dots_dashes_and_underscores_will_do(name):
    check_node_name(name)


@pytest.mark.parametrize(
    "name", ["", ".", "..", ".hidden", "a/b", "a\\b", "a b", "a\n", "é", "x" * 65, "a:b", "\0"]
)
def test_names_that_are_no_file_names_or_would_break_a_line_are_refused(name):
    with pytest.raises(ProtocolError, match="cannot be the name of a node"):
        check_node_name(name)


def test_a_key_survives_its_way_through_a_file():
    assert key_id(key_from_pem(key_to_pem(KEY)).public_key()) == key_id(KEY.public_key())


@pytest.mark.parametrize("pem", [b"", b"-----BEGIN PRIVATE KEY-----\nAA==\n"])
def test_a_damaged_key_is_a_sentence(pem):
    with pytest.raises(ConfigError, match="the private key is damaged"):
        key_from_pem(pem)


def test_a_certificate_survives_its_way_through_a_file_with_its_fingerprint():
    assert fingerprint(from_pem(to_pem(SIGNER.certificate))) == fingerprint(SIGNER.certificate)
    assert len(fingerprint(SIGNER.certificate)) == 32
    with pytest.raises(ProtocolError, match="not a certificate"):
        from_pem(b"hello")


def test_a_request_proves_whose_key_it_is_for():
    assert key_id(requested_key(signing_request(KEY))) == key_id(KEY.public_key())


def test_a_damaged_request_is_refused():
    request = signing_request(KEY)
    for damaged in (b"", b"no", request[:-1] + bytes([request[-1] ^ 1])):
        with pytest.raises(ProtocolError, match="damaged or not signed by its key"):
            requested_key(damaged)


def test_a_request_for_a_key_of_another_kind_is_refused():
    other = ec.generate_private_key(ec.SECP384R1())
    builder = x509.CertificateSigningRequestBuilder(x509.Name([]))
    with pytest.raises(ProtocolError, match="not on P-256"):
        requested_key(builder.sign(other, hashes.SHA256()).public_bytes(DER))
    with pytest.raises(ConfigError, match="not on the curve P-256"):
        key_from_pem(key_to_pem(other))


def test_the_key_of_an_authority_is_not_in_its_repr():
    assert "key" not in repr(SIGNER)
