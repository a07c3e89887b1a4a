"""A coordinator that may be away for a while: what it is asked is asked again until it answers."""

import re
import time
from collections.abc import Callable
from typing import TypeVar

import grpc

from roundel.core.errors import ProtocolError, RoundelError, RunFailed, SessionLost

Say = Callable[[str], None]
ReplyT = TypeVar("ReplyT")

QUIET_S = 1.0
"""An absence that is shorter than that is not worth a line."""

_FIRST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 5.0
_LONGEST_WHY = 200
_WHERE = re.compile(r"^[A-Z_]+: +(ipv4|ipv6|unix):\S+: +")
"""What gRPC says before the cause, and whoever reads it knows."""

_AWAY = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,  # it has no room for this now
        # What the last calls of a server that stops, or of a connection that breaks, may get.
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNKNOWN,
    }
)
_REFUSED = frozenset(
    {
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.UNAUTHENTICATED,
    }
)


class NotOffered(ProtocolError):
    """The coordinator no longer has what it was asked for."""


class Pauses:
    """How long to wait before the next attempt: twice as long each time, up to a limit."""

    def __init__(self) -> None:
        self._next_s = _FIRST_PAUSE_S

    def next_s(self) -> float:
        """Return the next pause in seconds."""
        now_s = self._next_s
        self._next_s = min(_LONGEST_PAUSE_S, 2.0 * now_s)
        return now_s


class Link:
    """Makes calls to one coordinator.

    Attributes:
        address: Of the coordinator, for messages.
    """

    def __init__(self, address: str, wait_s: float, say: Say) -> None:
        """Make a link.

        Args:
            address: ``host:port``.
            wait_s: How long the coordinator may be away before it is given up on.
            say: Is told once that it is away, and once that it is back.
        """
        self.address = address
        self._wait_s = wait_s
        self._say = say

    def insist(self, call: Callable[[], ReplyT]) -> ReplyT:
        """Make a call until it is answered; it must be one that can be repeated.

        Raises:
            SessionLost: The coordinator does not know the session.
            NotOffered: It does not have what was asked for.
            ProtocolError: It refuses the call.
            RunFailed: It was away for too long.
        """
        pauses, began_s, told = Pauses(), time.monotonic(), False
        while True:
            try:
                reply = call()
            except grpc.RpcError as error:
                pause_s = pauses.next_s()
                away_s = time.monotonic() - began_s + pause_s
                if error.code() not in _AWAY or away_s > self._wait_s:
                    raise self._sentence(error) from error
                if away_s > QUIET_S and not told:
                    self._say(f"waiting for {self.address} ({_why(error)}) ...")
                    told = True
                time.sleep(pause_s)
            else:
                if told:
                    self._say(f"{self.address} is back")
                return reply

    def _sentence(self, error: grpc.RpcError) -> RoundelError:
        code, details = error.code(), error.details()
        if code is grpc.StatusCode.FAILED_PRECONDITION:
            return SessionLost(details)
        if code is grpc.StatusCode.NOT_FOUND:
            return NotOffered(details)
        if code in _REFUSED:
            return ProtocolError(f"the coordinator at {self.address} refuses: {details}")
        return RunFailed(
            f"the coordinator at {self.address} cannot be reached ({_why(error)}), after "
            f"{self._wait_s:g} s of trying; check that `roundel serve` runs there, and join again"
        )


def _why(error: grpc.RpcError) -> str:
    """Say in a few words why a call was not answered."""
    code = error.code().name.lower().replace("_", " ")
    details = (error.details() or "").partition("\n")[0].rpartition("last error: ")[2]
    cause = _WHERE.sub("", details)[:_LONGEST_WHY]
    return f"{code}: {cause}" if cause else code
