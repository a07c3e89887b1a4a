"""Who makes the call that is being answered: what its certificate says, if it has one."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Literal

from roundel.core.errors import ProtocolError


@dataclass(frozen=True, kw_only=True)
class Caller:
    """The peer of a call, as its certificate names it.

    Attributes:
        name: Of the node or the operator.
        role: What it may call.
        serial: The certificate's number.
    """

    name: str
    role: Literal["node", "operator"]
    serial: int


_CALLER: ContextVar[Caller | None] = ContextVar("caller", default=None)


@contextmanager
def answering(caller: Caller) -> Iterator[None]:
    """Let everything in the block know who is calling."""
    token = _CALLER.set(caller)
    try:
        yield
    finally:
        _CALLER.reset(token)


def current() -> Caller | None:
    """Return who is calling; None without certificates."""
    return _CALLER.get()


def check_speaks_for(node: str) -> None:
    """Refuse a caller that uses the name or the session of another node.

    Without certificates, on a network that is trusted, everybody is who it says it is.

    Raises:
        ProtocolError: The caller's certificate names another node.
    """
    caller = _CALLER.get()
    if caller is not None and caller.name != node:
        raise ProtocolError(
            f"the certificate is that of node {caller.name!r}, which cannot speak for node "
            f"{node!r}; join under your own name"
        )
