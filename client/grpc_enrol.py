"""How a node comes by its certificate: from its disk, renewed when due, or for a join token."""

import hmac
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc

from roundel.client.grpc_link import QUIET_S, Pauses, Say
from roundel.client.identity import IdentityDirectory
from roundel.core.certificates import (
    AUTHORITY,
    Key,
    Subject,
    check_node_name,
    fingerprint,
    from_pem,
    key_id,
    public_key_of,
    signing_request,
    subject_of,
)
from roundel.core.errors import ConfigError, ProtocolError, RunFailed
from roundel.core.tokens import JoinToken, parse_token
from roundel.core.wire import roundel_pb2 as pb
from roundel.core.wire import roundel_pb2_grpc as pb_grpc
from roundel.core.wire.channel import UNCOMPRESSED, Identity, dial

TIMEOUT_S = 20.0

_AGAIN = timedelta(hours=1)

_REFUSALS = (
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.UNAUTHENTICATED,
)


def utc_now() -> datetime:
    """Return the time."""
    return datetime.now(UTC)


@dataclass(frozen=True, kw_only=True)
class Enrolling:
    """Asks for a node's identity; a coordinator that is away is waited for.

    Attributes:
        address: ``host:port`` of the coordinator.
        name: Of the node.
        state: The node's directory.
        token: A join token; needed once.
        wait_s: How long the coordinator may be away before it is given up on.
        say: Is told once that it is away.
    """

    address: str
    name: str
    state: Path
    token: str | None = field(repr=False)
    wait_s: float
    say: Say

    def __call__(self) -> Identity:
        """Return the identity; see `identity_of` for what is raised."""
        pauses, began_s, told = Pauses(), time.monotonic(), False
        while True:
            try:
                return identity_of(self.address, self.state, self.name, self.token)
            except RunFailed as error:
                pause_s = pauses.next_s()
                away_s = time.monotonic() - began_s + pause_s
                if away_s > self.wait_s:
                    raise
                if away_s > QUIET_S and not told:
                    self.say(f"waiting for {self.address} ({error}) ...")
                    told = True
                time.sleep(pause_s)


def fresh_until(identity: Identity | None, now: datetime) -> datetime:
    """Return when to ask for an identity again, so that its certificate is renewed in time.

    Should it be due already, because the coordinator could not renew it, that is in an hour.
    """
    if identity is None:
        return datetime.max.replace(tzinfo=UTC)
    return max(subject_of(from_pem(identity.certificate)).due, now + _AGAIN)


def identity_of(
    address: str,
    state: Path,
    name: str,
    token: str | None,
    clock: Callable[[], datetime] = utc_now,
) -> Identity:
    """Return what a node proves its name with: what is on its disk, or else what a token buys.

    A certificate of which a third or less of its life is left is renewed on the way; should that
    fail, the old one is good for a while.

    Args:
        address: ``host:port`` of the coordinator.
        state: The node's state directory.
        name: Of the node.
        token: A join token; needed once.
        clock: Tells the time, in UTC.

    Raises:
        ConfigError: There is no certificate and no token, or they do not belong here.
        ProtocolError: The coordinator refuses.
        RunFailed: The coordinator cannot be reached.
    """
    check_node_name(name)
    wanted = None if token is None else parse_token(token)
    directory = IdentityDirectory(state)
    kept = directory.read()
    if kept is not None:
        subject = _checked(kept, directory, name, wanted)
        now = clock()
        if now < subject.ends:
            return _renewed(address, directory, kept, name) if subject.is_due(now) else kept
        if wanted is None:
            ended = subject.ends.isoformat(timespec="seconds")
            raise ConfigError(
                f"the certificate of node {name!r} expired at {ended}; join with a new --token"
            )
    if wanted is None:
        raise ConfigError(
            f"node {name!r} has no certificate in {directory.path}; join with --token, which the "
            "operator gets by `roundel nodes token`, or with --insecure if the coordinator runs so"
        )
    return _enrolled(address, directory, name, wanted)


def _checked(
    kept: Identity, directory: IdentityDirectory, name: str, wanted: JoinToken | None
) -> Subject:
    """Return whom the kept certificate is about, if it is for this node and this federation."""
    subject = subject_of(from_pem(kept.certificate))
    if subject.name != name:
        raise ConfigError(
            f"{directory.path} holds the certificate of node {subject.name!r}, not of {name!r}; "
            f"join with --name {subject.name}, or with another --state directory"
        )
    if wanted is not None and not _is_of(kept.authority, wanted):
        raise ConfigError(
            f"{directory.path} holds a certificate of another authority than the token's; join "
            "without --token, or with another --state directory"
        )
    return subject


def _renewed(address: str, directory: IdentityDirectory, kept: Identity, name: str) -> Identity:
    key = directory.key()
    request = pb.RenewRequest(request=signing_request(key))
    try:
        with dial(address, kept) as channel:
            reply = pb_grpc.FederationStub(channel).Renew(request, timeout=TIMEOUT_S)
    except grpc.RpcError:
        return kept  # joining meets the same trouble, and says so
    _check_is_of(reply.certificate, name, key, address)
    return directory.write(reply.certificate, kept.authority)


def _enrolled(address: str, directory: IdentityDirectory, name: str, token: JoinToken) -> Identity:
    """Buy a certificate, from nobody but the authority that the token names."""
    host, _, _port = address.rpartition(":")
    place = f"{host}:{token.port}"
    authority = _authority_at(host, place, token)
    key = directory.key()
    request = pb.EnrolRequest(
        token_id=token.id, secret=token.secret, node=name, request=signing_request(key)
    )
    options = [*UNCOMPRESSED, ("grpc.ssl_target_name_override", AUTHORITY)]
    credentials = grpc.ssl_channel_credentials(root_certificates=authority)
    try:
        with grpc.secure_channel(place, credentials, options=options) as channel:
            reply = pb_grpc.EnrolmentStub(channel).Enrol(request, timeout=TIMEOUT_S)
    except grpc.RpcError as error:
        if error.code() in _REFUSALS:
            raise ProtocolError(
                f"the coordinator at {address} refuses: {error.details()}"
            ) from error
        if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
            raise RunFailed(
                f"{place}, where nodes enrol, has no room for this node now ({error.details()}); "
                "join again in a minute"
            ) from error
        raise _unreachable(place, error.code().name.lower()) from error
    _check_is_of(reply.certificate, name, key, address)
    return directory.write(reply.certificate, authority)


def _check_is_of(certificate: bytes, name: str, key: Key, address: str) -> None:
    """Refuse a certificate that is not this node's, or not for its key."""
    signed = from_pem(certificate)
    if subject_of(signed).name != name or key_id(public_key_of(signed)) != key_id(key.public_key()):
        raise ProtocolError(
            f"the coordinator at {address} gave a certificate for somebody else; ask its operator"
        )


def _authority_at(host: str, place: str, token: JoinToken) -> bytes:
    """Return the certificate of whoever listens there, if it is the authority of the token."""
    try:
        pem = ssl.get_server_certificate((host.strip("[]"), token.port), timeout=TIMEOUT_S)
    except OSError as error:
        raise _unreachable(place, error.strerror or str(error)) from error
    found = pem.encode()
    if not _is_of(found, token):
        raise ConfigError(
            f"whoever listens on {place} is not the authority of this token; check the address, "
            "and ask the operator for a new token"
        )
    return found


def _is_of(authority: bytes, token: JoinToken) -> bool:
    return hmac.compare_digest(fingerprint(from_pem(authority)), token.fingerprint)


def _unreachable(place: str, why: str) -> RunFailed:
    return RunFailed(
        f"{place}, where nodes enrol, cannot be reached ({why}); check that `roundel serve` runs "
        "there and that this port is open as well, and join again"
    )
