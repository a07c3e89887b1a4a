"""Where a node that has a token gets its certificate: a listener for nothing else.

Whoever calls it is a stranger. So messages are small and must come soon, connections few and short,
and after some wrong tokens from an address further ones are refused without a trace for a while.
"""

import asyncio
import logging
from typing import Any, TypeAlias
from urllib.parse import unquote

import grpc
from grpc import aio

from roundel.core.errors import ConfigError, ProtocolError, RoundelError
from roundel.core.wire import roundel_pb2 as pb
from roundel.core.wire import roundel_pb2_grpc as pb_grpc
from roundel.core.wire.channel import UNCOMPRESSED, Identity
from roundel.server.authority import Authority, Enrolment, NotFree
from roundel.server.budgets import Rate, Refusals
from roundel.server.clocks import Clocks
from roundel.server.grpc_reading import Reading

_LOG = logging.getLogger(__name__)

Context: TypeAlias = "aio.ServicerContext[Any, Any]"

LARGEST_MESSAGE = 16 << 10

_AT_ONCE = 512
"""Calls, which are tiny; all nodes of a federation may come at the same time."""

_MESSAGE_S = 5.0
_EACH = Rate(per_s=0.1, burst=10.0)
_TOGETHER = Rate(per_s=10.0, burst=200.0)
_PLACES = 10_000

_OPTIONS = [
    *UNCOMPRESSED,
    ("grpc.max_receive_message_length", LARGEST_MESSAGE),
    ("grpc.absolute_max_metadata_size", LARGEST_MESSAGE),
    ("grpc.max_concurrent_streams", 2),
    ("grpc.max_allowed_incoming_connections", 256),
    ("grpc.server_handshake_timeout_ms", 5_000),
    ("grpc.max_connection_idle_ms", 10_000),
    ("grpc.max_connection_age_ms", 30_000),
    ("grpc.max_connection_age_grace_ms", 5_000),
    ("grpc.so_reuseport", 0),
]


class Enrolments(pb_grpc.EnrolmentServicer):
    """Answers the one call of the listener."""

    def __init__(self, authority: Authority, clocks: Clocks) -> None:
        self._authority = authority
        self._clocks = clocks
        self._refusals = Refusals(
            each=_EACH, together=_TOGETHER, places=_PLACES, now_s=clocks.seconds()
        )

    async def Enrol(self, request: pb.EnrolRequest, context: Context) -> pb.Certificate:
        """Give a certificate for a token."""
        place = place_of(context.peer())
        # Looked at all the same: others may guess behind the address of a node with a good token.
        hushed = self._refusals.are_too_many(place, self._clocks.seconds())
        asked = Enrolment(
            token_id=request.token_id,
            secret=request.secret,
            node=request.node,
            request=request.request,
            peer=place,
        )
        try:
            certificate = await asyncio.to_thread(
                self._authority.enrol, asked, self._clocks.utc(), audits_guesses=not hushed
            )
        except NotFree as error:  # whoever has a good token does not guess
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
            raise
        except ProtocolError as error:
            if hushed:
                await context.abort(
                    grpc.StatusCode.RESOURCE_EXHAUSTED,
                    "too many tries with wrong tokens; wait a minute and try again with the right "
                    "one",
                )
            self._refusals.add(place, self._clocks.seconds())
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
            raise
        except RoundelError as error:  # it is about this machine: not for strangers to read
            if not hushed:
                _LOG.error("node %r of %s cannot be enrolled: %s", request.node[:80], place, error)
            self._refusals.add(place, self._clocks.seconds())
            await context.abort(
                grpc.StatusCode.INTERNAL, "the coordinator cannot enrol nodes now; its log says why"
            )
            raise error from None
        return pb.Certificate(certificate=certificate, authority=self._authority.certificate)


async def listen_for_nodes(
    listen: str, authority: Authority, clocks: Clocks
) -> tuple[aio.Server, int]:
    """Open the listener; return it with its port.

    Args:
        listen: ``host:port``.
        authority: Gives the certificates; the listener presents its own.
        clocks: The time.

    Raises:
        ConfigError: The address cannot be listened on.
    """
    server = aio.server(
        options=_OPTIONS, interceptors=(Reading(_MESSAGE_S),), maximum_concurrent_rpcs=_AT_ONCE
    )
    pb_grpc.add_EnrolmentServicer_to_server(Enrolments(authority, clocks), server)
    own: Identity = authority.own_identity()
    credentials = grpc.ssl_server_credentials([(own.key, own.certificate)])
    try:
        port = server.add_secure_port(listen, credentials)
    except RuntimeError as error:
        del server  # it goes while its loop still turns, and no traceback holds it
        raise ConfigError(
            f"cannot listen on {listen}, where nodes enrol; choose a free port with --enrol-port"
        ) from error.with_traceback(None)
    await server.start()
    return server, port


def place_of(peer: str) -> str:
    """Return the address in what gRPC calls a peer, without its port.

    >>> place_of("ipv4:192.0.2.7:50123")
    '192.0.2.7'
    >>> place_of("ipv6:%5B2001:db8::1%5D:50123")
    '2001:db8::1'
    """
    kind, _, address = unquote(peer).partition(":")
    return address.rpartition(":")[0].strip("[]") if kind in ("ipv4", "ipv6") else kind
