"""Dialling the other side: one place that says how a channel of the federation behaves."""

from dataclasses import dataclass, field

import grpc

from roundel.core.wire.limits import MESSAGE_LIMITS

COORDINATOR = "coordinator.roundel"
"""The name in a coordinator's certificate; it has no other, so its address may be any."""

UNCOMPRESSED = [("grpc.compression_enabled_algorithms_bitset", 1)]
"""Option of both ends: a compressed message is refused before it is inflated, whatever it holds."""

_KEEPALIVE = [("grpc.keepalive_time_ms", 10_000), ("grpc.keepalive_timeout_ms", 5_000)]
"""So that a connection which is silently dead is found out while a call waits."""

_RECONNECT = [
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 5_000),
]


@dataclass(frozen=True, kw_only=True)
class Identity:
    """What one end of a connection proves its name with; all in PEM.

    Attributes:
        key: The private key.
        certificate: Of that key, signed by the authority.
        authority: The certificate of the authority, which the other end must have been signed by.
    """

    key: bytes = field(repr=False)
    certificate: bytes
    authority: bytes


def dial(address: str, identity: Identity | None) -> grpc.Channel:
    """Return a channel to a coordinator; it connects when the first call is made.

    Args:
        address: ``host:port``.
        identity: Of the node or the operator; without one, nothing is encrypted and nobody proves
            anything.
    """
    options = [*MESSAGE_LIMITS, *_KEEPALIVE, *_RECONNECT, *UNCOMPRESSED]
    if identity is None:
        return grpc.insecure_channel(address, options=options)
    credentials, named = proving(identity)
    return grpc.secure_channel(address, credentials, options=[*options, named])


def proving(identity: Identity) -> tuple[grpc.ChannelCredentials, tuple[str, str]]:
    """Return what a channel proves an identity with, and the option that it takes for that."""
    credentials = grpc.ssl_channel_credentials(
        root_certificates=identity.authority,
        private_key=identity.key,
        certificate_chain=identity.certificate,
    )
    return credentials, ("grpc.ssl_target_name_override", COORDINATOR)
