"""Join tokens: what a node needs to enrol, in one word to copy.

    roundel-<base64url of>
        1 byte     version of this layout, 1
        2 bytes    port of the enrolment listener, big-endian
        4 bytes    number of the token
       16 bytes    its secret
       32 bytes    SHA-256 of the authority's certificate

So a node knows whom it may trust before it sends the secret.
"""

import base64
import binascii
import hashlib
import hmac
import struct
from dataclasses import dataclass, field

from roundel.core.errors import ConfigError

ID_BYTES = 4
SECRET_BYTES = 16

_PREFIX = "roundel-"
_LAYOUT = struct.Struct(f">BH{ID_BYTES}s{SECRET_BYTES}s32s")
_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class JoinToken:
    """A token.

    Attributes:
        port: Of the enrolment listener, at the coordinator's address.
        id: What it is called, 8 hexadecimal digits; no secret.
        secret: What proves that somebody was given it, 16 bytes.
        fingerprint: SHA-256 of the authority's certificate, 32 bytes.
    """

    port: int
    id: str
    secret: bytes = field(repr=False)
    fingerprint: bytes

    def to_text(self) -> str:
        """Return the token as one word."""
        packed = _LAYOUT.pack(
            _VERSION, self.port, bytes.fromhex(self.id), self.secret, self.fingerprint
        )
        return _PREFIX + base64.urlsafe_b64encode(packed).decode().rstrip("=")


def parse_token(text: str) -> JoinToken:
    """Read a token; the sentences of its errors do not repeat it.

    Raises:
        ConfigError: It is no token, or one that was cut off.
    """
    word = text.strip()
    encoded = word.removeprefix(_PREFIX)
    try:
        if encoded == word:
            raise ConfigError(f"this is no join token, for it does not begin with {_PREFIX!r}")
        packed = base64.b64decode(
            encoded + "=" * (-len(encoded) % 4), altchars=b"-_", validate=True
        )
        version, port, number, secret, fingerprint = _LAYOUT.unpack(packed)
    except (binascii.Error, ValueError, struct.error) as error:
        raise ConfigError(
            "the join token is damaged; copy the whole word that the operator was given"
        ) from error
    if version != _VERSION:
        raise ConfigError(f"the join token is of version {version}; upgrade Roundel on this node")
    return JoinToken(port=port, id=number.hex(), secret=secret, fingerprint=fingerprint)


def digest_of_secret(secret: bytes) -> bytes:
    """Return what may be kept of a secret; it is drawn at random, so a plain SHA-256 will do."""
    return hashlib.sha256(secret).digest()


def is_secret(secret: bytes, digest: bytes) -> bool:
    """Tell whether a secret is the one that was kept, in the same time either way."""
    return hmac.compare_digest(digest_of_secret(secret), digest)
