"""Certificates for everybody who calls a federation, and for some who should not."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc

from roundel.core.certificates import key_to_pem, new_key, signing_request
from roundel.core.wire.channel import Identity
from roundel.server.authority import Authority, Enrolment
from roundel.server.authority_files import read_operator
from tests.hostile.cases import Peer

_HOUR = timedelta(hours=1)
_LONG_AGO = timedelta(days=365)


@dataclass(frozen=True, kw_only=True)
class Identities:
    """Who proves what.

    Attributes:
        nodes: The identities of nodes, by their names.
        peers: Those of peers who mean no good; `Peer.NOBODY` has no certificate.
        authority: The authority's certificate, in PEM.
    """

    nodes: Mapping[str, Identity]
    peers: Mapping[Peer, Identity]
    authority: bytes

    def credentials(self) -> dict[Peer, Any]:
        """Return what the channels of hostile peers are opened with."""
        own = {
            peer: grpc.ssl_channel_credentials(self.authority, identity.key, identity.certificate)
            for peer, identity in self.peers.items()
        }
        bare = grpc.ssl_channel_credentials(self.authority)
        return {**own, Peer.NOBODY: bare, Peer.STRANGER: bare}


def identities(directory: Path, nodes: Iterable[str], named: Mapping[Peer, str]) -> Identities:
    """Make an authority and certify everybody.

    Args:
        directory: For the authority.
        nodes: Names of nodes.
        named: Which of them hostile peers are.
    """
    now = datetime.now(UTC)
    authority = Authority(directory, now)
    foreign = Authority(directory.with_name("foreign"), now)
    good = {name: _certified(authority, name, now) for name in nodes}
    peers = {peer: good[name] for peer, name in named.items()}
    peers[Peer.EXPIRED] = _certified(authority, "expired", now - _LONG_AGO)
    peers[Peer.REVOKED] = _certified(authority, "revoked", now)
    authority.revoke("revoked", "it was stolen", now)
    other = _certified(foreign, "honest-1", now)
    peers[Peer.OPERATOR] = read_operator(directory)
    peers[Peer.FOREIGN] = other
    certificate = authority.certificate
    authority.close()
    foreign.close()
    return Identities(nodes=good, peers=peers, authority=certificate)


def _certified(authority: Authority, name: str, now: datetime) -> Identity:
    key = new_key()
    token = authority.issue_token(port=1, life=_HOUR, uses=1, now=now)
    asked = Enrolment(
        token_id=token.id,
        secret=token.secret,
        node=name,
        request=signing_request(key),
        peer="here",
    )
    return Identity(
        key=key_to_pem(key),
        certificate=authority.enrol(asked, now),
        authority=authority.certificate,
    )
