"""An operator's end of the wire: asks a coordinator, and tells it what to do."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import grpc

from roundel.core.errors import ProtocolError, RunFailed
from roundel.core.status import Snapshot
from roundel.core.wire import roundel_pb2 as pb
from roundel.core.wire import roundel_pb2_grpc as pb_grpc
from roundel.core.wire.channel import Identity, dial

TIMEOUT_S = 20.0

ReplyT = TypeVar("ReplyT")

_REFUSALS = (
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
)


class Operator:
    """The calls; each raises `ProtocolError` if it is refused, `RunFailed` if nobody answers."""

    def __init__(self, stub: pb_grpc.OperatorStub, address: str) -> None:
        self._stub = stub
        self._address = address

    def status(self) -> Snapshot:
        """Return what the federation is doing."""
        reply = self._asked(lambda: self._stub.Status(pb.StatusRequest(), timeout=TIMEOUT_S))
        try:
            return Snapshot.from_json(reply.status)
        except ValueError as error:
            raise ProtocolError(f"the coordinator at {self._address} says {error}") from error

    def drain(self, node: str) -> str:
        """Send a node away once it has done what it does; return what was said."""
        request = pb.DrainRequest(node=node)
        return self._done(lambda: self._stub.Drain(request, timeout=TIMEOUT_S))

    def revoke(self, node: str, reason: str) -> str:
        """Never again accept a node's certificates; return what was said."""
        request = pb.RevokeRequest(node=node, reason=reason)
        return self._done(lambda: self._stub.Revoke(request, timeout=TIMEOUT_S))

    def issue_token(self, *, seconds: float, uses: int) -> tuple[str, str]:
        """Return a new join token, and what it is called."""
        request = pb.IssueTokenRequest(seconds=seconds, uses=uses)
        made = self._asked(lambda: self._stub.IssueToken(request, timeout=TIMEOUT_S))
        return made.token, made.id

    def revoke_token(self, token_id: str) -> str:
        """Let nobody use a token any more; return what was said."""
        request = pb.RevokeTokenRequest(id=token_id)
        return self._done(lambda: self._stub.RevokeToken(request, timeout=TIMEOUT_S))

    def _done(self, call: Callable[[], pb.Done]) -> str:
        return str(self._asked(call).said)

    def _asked(self, call: Callable[[], ReplyT]) -> ReplyT:
        try:
            return call()
        except grpc.RpcError as error:
            code, details = error.code(), error.details()
            if code in _REFUSALS:
                raise ProtocolError(
                    f"the coordinator at {self._address} refuses: {details}"
                ) from error
            raise RunFailed(
                f"the coordinator at {self._address} does not answer "
                f"({code.name.lower().replace('_', ' ')}); check that `roundel serve` runs there, "
                "whether with certificates or --insecure, and name it with --coordinator"
            ) from error


@contextmanager
def operating(address: str, identity: Identity | None) -> Iterator[Operator]:
    """Yield the calls to one coordinator.

    Args:
        address: ``host:port``.
        identity: The operator's; None if the coordinator runs without certificates.
    """
    with dial(address, identity) as channel:
        yield Operator(pb_grpc.OperatorStub(channel), address)
