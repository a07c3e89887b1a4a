"""What an operator may ask of a coordinator, and have it do."""

import asyncio
import ipaddress
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Protocol, TypeAlias, TypeVar

import grpc
from grpc import aio

from roundel.core.errors import ProtocolError
from roundel.core.status import Snapshot
from roundel.core.wire import roundel_pb2 as pb
from roundel.core.wire import roundel_pb2_grpc as pb_grpc
from roundel.server.authority import Authority
from roundel.server.clocks import Clocks
from roundel.server.grpc_enrolment import place_of

Context: TypeAlias = "aio.ServicerContext[Any, Any]"
DoneT = TypeVar("DoneT")

_DRAINED = "the operator has drained this node"
_REVOKED = "the operator has revoked its certificate"


class Operated(Protocol):
    """The coordinator, as its operator sees it."""

    def snapshot(self) -> Snapshot:
        """Say what the federation is doing."""
        ...

    def send_away(self, node: str, reason: str) -> bool:
        """Give a node no further work, and let it go when it has done what it has.

        Returns:
            Whether there is such a node.
        """
        ...

    def expel(self, node: str, why: str) -> bool:
        """Remove a node at once, whatever it does; tell whether it was there."""
        ...


class Operations(pb_grpc.OperatorServicer):
    """Answers an operator's calls; the guard has checked whose calls they are."""

    def __init__(
        self,
        coordinator: Operated,
        authority: Authority | None,
        clocks: Clocks,
        enrolment_port: Callable[[], int],
    ) -> None:
        """Begin to answer.

        Args:
            coordinator: What is operated.
            authority: Gives certificates and takes them back; without one nobody proves anything,
                so that only this machine is listened to.
            clocks: The time.
            enrolment_port: Where a node goes with a token.
        """
        self._coordinator = coordinator
        self._authority = authority
        self._clocks = clocks
        self._enrolment_port = enrolment_port

    async def Status(self, request: pb.StatusRequest, context: Context) -> pb.StatusReply:
        """Say what the federation is doing."""

        def status() -> pb.StatusReply:
            return pb.StatusReply(status=self._coordinator.snapshot().to_json())

        return await self._done(context, status)

    async def Drain(self, request: pb.DrainRequest, context: Context) -> pb.Done:
        """Send a node away; it may come back."""

        def drain() -> pb.Done:
            if not self._coordinator.send_away(request.node, _DRAINED):
                raise ProtocolError(
                    f"there is no node {request.node[:80]!r}; `roundel nodes` lists them"
                )
            if self._authority is not None:
                self._authority.record("drained", self._clocks.utc(), node=request.node)
            return pb.Done(said=f"node {request.node!r} leaves when it has done what it has")

        return await self._done(context, drain)

    async def Revoke(self, request: pb.RevokeRequest, context: Context) -> pb.Done:
        """Send a node away for good."""

        def revoke() -> pb.Done:
            authority, now = self._certified(), self._clocks.utc()
            count = authority.revoke(request.node, request.reason, now)
            self._coordinator.expel(request.node, _REVOKED)
            certificates = "1 certificate" if count == 1 else f"{count} certificates"
            said = f"{certificates} of node {request.node!r} revoked"
            for token, uses in authority.usable_tokens_of(request.node, now).items():
                left = "1 use" if uses == 1 else f"{uses} uses"
                said += (
                    f"; its token {token} has {left} left: revoke it too with "
                    f"`roundel nodes revoke-token {token}`"
                )
            return pb.Done(said=said)

        return await self._done(context, revoke)

    async def IssueToken(self, request: pb.IssueTokenRequest, context: Context) -> pb.Token:
        """Make a join token."""

        def issue() -> pb.Token:
            if not 0.0 < request.seconds < timedelta.max.total_seconds():
                raise ProtocolError(f"a token cannot be good for {request.seconds} seconds")
            token = self._certified().issue_token(
                port=self._enrolment_port(),
                life=timedelta(seconds=request.seconds),
                uses=request.uses,
                now=self._clocks.utc(),
            )
            return pb.Token(id=token.id, token=token.to_text())

        return await self._done(context, issue)

    async def RevokeToken(self, request: pb.RevokeTokenRequest, context: Context) -> pb.Done:
        """Let nobody use a token any more."""

        def revoke() -> pb.Done:
            self._certified().revoke_token(request.id, self._clocks.utc())
            return pb.Done(said=f"token {request.id} revoked")

        return await self._done(context, revoke)

    def _certified(self) -> Authority:
        if self._authority is None:
            raise ProtocolError(
                "this coordinator runs with --insecure, so there are neither certificates nor "
                "tokens; start it without"
            )
        return self._authority

    async def _done(self, context: Context, work: Callable[[], DoneT]) -> DoneT:
        """Do it beside the event loop, for it may wait for the disk."""
        if self._authority is None and not is_loopback(context.peer()):
            await context.abort(
                grpc.StatusCode.PERMISSION_DENIED,
                "without certificates a coordinator is operated from its own machine only",
            )
        try:
            return await asyncio.to_thread(work)
        except ProtocolError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
            raise


def is_loopback(peer: str) -> bool:
    """Tell whether what gRPC calls a peer is on this machine.

    >>> [is_loopback(peer) for peer in ("ipv4:127.0.0.1:50123", "ipv4:192.0.2.7:50123")]
    [True, False]
    """
    place = place_of(peer)
    try:
        return place == "unix" or ipaddress.ip_address(place).is_loopback
    except ValueError:
        return False
