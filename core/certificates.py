"""Certificates of a federation: an authority of its own signs who is a node and who operates it.

    authority     signs all others; itself the certificate of the enrolment listener
    coordinator   made at each start; named `roundel.core.wire.channel.COORDINATOR`
    node          ``roundel:node:NAME``, for 30 days, renewed on the way
    operator      ``roundel:operator:NAME``

All keys are on the curve P-256. Time and serial numbers are arguments; only a key is drawn here.
"""

import hashlib
import re
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal, TypeAlias, cast

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from roundel.core.errors import ConfigError, ProtocolError

AUTHORITY = "authority.roundel"
"""The name in the authority's own certificate."""

NODE_LIFE = timedelta(days=30)
SERVER_LIFE = timedelta(days=365)
OPERATOR_LIFE = timedelta(days=365)
AUTHORITY_LIFE = timedelta(days=3650)

_CURVE = ec.SECP256R1()
_SKEW = timedelta(hours=1)
"""Certificates begin so much earlier, for machines whose clocks are behind."""

_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}")
_URI = re.compile(rf"roundel:(node|operator):({_NAME.pattern})")

Role: TypeAlias = Literal["node", "operator"]
Key: TypeAlias = ec.EllipticCurvePrivateKey
PublicKey: TypeAlias = ec.EllipticCurvePublicKey


@dataclass(frozen=True, kw_only=True)
class Signer:
    """An authority that can sign.

    Attributes:
        key: Its private key.
        certificate: Its own certificate.
    """

    key: Key = field(repr=False)
    certificate: x509.Certificate


@dataclass(frozen=True, kw_only=True)
class Subject:
    """Whom a certificate is about.

    Attributes:
        name: Of the node or the operator.
        role: Which of the two.
        serial: The certificate's number.
        starts: Before that it does not count; in UTC.
        ends: After that it does not count; in UTC.
    """

    name: str
    role: Role
    serial: int
    starts: datetime
    ends: datetime

    @property
    def due(self) -> datetime:
        """Return when to renew it: when a third of its life is left."""
        return self.ends - (self.ends - self.starts) / 3

    def is_due(self, now: datetime) -> bool:
        """Tell whether it is time to renew it."""
        return now >= self.due


def check_node_name(name: str) -> None:
    """Refuse a name that would not do as that of a file or in a line of a log.

    Raises:
        ProtocolError: It is too long, or has other characters.
    """
    if not _NAME.fullmatch(name):
        raise ProtocolError(
            f"{name[:80]!r} cannot be the name of a node; take 1 to 64 letters, digits, '.', '_' "
            "or '-', not beginning with '.'"
        )


def new_key() -> Key:
    """Draw a private key."""
    return ec.generate_private_key(_CURVE)


def key_to_pem(key: Key) -> bytes:
    """Return a private key as PEM, not encrypted: where it goes must be private."""
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def key_from_pem(pem: bytes) -> Key:
    """Read a private key.

    Raises:
        ConfigError: It is none, or of another kind.
    """
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError) as error:
        raise ConfigError("the private key is damaged; restore it, or begin anew") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name != _CURVE.name:
        raise ConfigError("the private key is not on the curve P-256; begin anew with another one")
    return key


def to_pem(certificate: x509.Certificate) -> bytes:
    """Return a certificate as PEM."""
    return certificate.public_bytes(serialization.Encoding.PEM)


def from_pem(pem: bytes) -> x509.Certificate:
    """Read a certificate.

    Raises:
        ProtocolError: It is none.
    """
    try:
        return x509.load_pem_x509_certificate(pem)
    except ValueError as error:
        raise ProtocolError("this is not a certificate in PEM; make or fetch it anew") from error


def fingerprint(certificate: x509.Certificate) -> bytes:
    """Return a certificate's SHA-256, 32 bytes."""
    return certificate.fingerprint(hashes.SHA256())


def key_id(key: PublicKey) -> str:
    """Return the SHA-256 of a public key, in hexadecimal."""
    encoded = key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return hashlib.sha256(encoded).hexdigest()


def public_key_of(certificate: x509.Certificate) -> PublicKey:
    """Return the key that a certificate of ours is for."""
    return cast("PublicKey", certificate.public_key())


def new_authority(now: datetime, serial: int) -> Signer:
    """Make an authority, which vouches for itself."""
    key = new_key()
    name = _common("Roundel authority")
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(serial)
        .not_valid_before(now - _SKEW)
        .not_valid_after(now + AUTHORITY_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs=True), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(AUTHORITY)]), critical=False)
    )
    return Signer(key=key, certificate=builder.sign(key, hashes.SHA256()))


def member_certificate(
    signer: Signer, key: PublicKey, *, role: Role, name: str, now: datetime, serial: int
) -> x509.Certificate:
    """Sign that a key is a node's or an operator's.

    Args:
        signer: The authority.
        key: The member's.
        role: What it may call.
        name: Of the node or the operator.
        now: In UTC.
        serial: The certificate's number; never one that was used before.
    """
    life = NODE_LIFE if role == "node" else OPERATOR_LIFE
    uri = x509.UniformResourceIdentifier(f"roundel:{role}:{name}")
    builder = (
        _signed_by(signer, key, now, now + life, serial)
        .subject_name(_common(f"Roundel {role}"))
        .add_extension(x509.SubjectAlternativeName([uri]), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
    )
    return builder.sign(signer.key, hashes.SHA256())


def server_certificate(
    signer: Signer, key: PublicKey, *, name: str, now: datetime, serial: int
) -> x509.Certificate:
    """Sign that a key is that of a server of this name."""
    builder = (
        _signed_by(signer, key, now, now + SERVER_LIFE, serial)
        .subject_name(_common("Roundel coordinator"))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    )
    return builder.sign(signer.key, hashes.SHA256())


def signing_request(key: Key) -> bytes:
    """Return a request (PKCS #10, DER) to certify a key.

    It names nobody: whoever signs says whom the key belongs to.
    """
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def requested_key(request: bytes) -> PublicKey:
    """Return the key that a request is for, once it has proved that its sender has it.

    Raises:
        ProtocolError: It is no request, its signature is wrong, or the key of another kind.
    """
    try:
        parsed = x509.load_der_x509_csr(request)
        key = parsed.public_key()
        if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != _CURVE.name:
            raise ProtocolError("the certificate is asked for a key that is not on P-256")
        algorithm = parsed.signature_hash_algorithm
        if algorithm is None:
            raise ProtocolError("the request for a certificate names no hash; use SHA-256")
        key.verify(parsed.signature, parsed.tbs_certrequest_bytes, ec.ECDSA(algorithm))
    except (ValueError, TypeError, InvalidSignature) as error:
        raise ProtocolError(
            "the request for a certificate is damaged or not signed by its key"
        ) from error
    return key


def subject_of(certificate: x509.Certificate) -> Subject:
    """Say whom a certificate is about; that the authority signed it was checked before.

    Raises:
        ProtocolError: It is neither a node's nor an operator's.
    """
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    except (x509.ExtensionNotFound, ValueError):
        uris = []
    match = _URI.fullmatch(uris[0]) if len(uris) == 1 else None
    if match is None:
        raise ProtocolError("this certificate is neither a node's nor an operator's")
    return Subject(
        name=match[2],
        role=cast("Role", match[1]),
        serial=certificate.serial_number,
        starts=certificate.not_valid_before_utc,
        ends=certificate.not_valid_after_utc,
    )


def _signed_by(
    signer: Signer, key: PublicKey, now: datetime, ends: datetime, serial: int
) -> x509.CertificateBuilder:
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(public_key_of(signer.certificate))
    return (
        x509.CertificateBuilder()
        .issuer_name(signer.certificate.subject)
        .public_key(key)
        .serial_number(serial)
        .not_valid_before(now - _SKEW)
        .not_valid_after(ends)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs=False), critical=True)
        .add_extension(issuer, critical=False)
    )


def _common(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=signs,
        crl_sign=signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
