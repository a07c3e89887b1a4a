"""Stands before every call of the federation's port: who is it, may it, and is it too much?

All of that is asked before a byte of the call's message is read; see `roundel.server.grpc_reading`.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import grpc

from roundel.core.certificates import Role, Subject, from_pem, subject_of
from roundel.core.errors import ProtocolError
from roundel.core.wire import roundel_pb2 as pb
from roundel.core.wire.frames import Handler
from roundel.server.budgets import NODE, REFUSED, Limits
from roundel.server.callers import Caller, answering
from roundel.server.clocks import Clocks
from roundel.server.grpc_metering import Meter
from roundel.server.grpc_reading import Context, Interceptor, Receive, Refused, answer

_SERVICES = pb.DESCRIPTOR.services_by_name
_ROLES: dict[str, frozenset[Role]] = {
    _SERVICES["Federation"].full_name: frozenset({"node"}),
    _SERVICES["Operator"].full_name: frozenset({"operator"}),
    "grpc.health.v1.Health": frozenset({"node", "operator"}),
}
_FEDERATION = _SERVICES["Federation"].full_name
_LEAVES_TRACES = frozenset({f"/{_FEDERATION}/Join", f"/{_FEDERATION}/Renew"})


class Guard(Interceptor):
    """An interceptor that lets in who may come in.

    What it keeps of each peer is a few numbers, and peers are those to whom the authority has given
    a certificate.
    """

    def __init__(
        self,
        objection_to: Callable[[Subject], str],
        on_refusal: Callable[[Subject, str], None],
        clocks: Clocks,
        limits: Limits = NODE,
    ) -> None:
        """Begin to guard.

        Args:
            objection_to: Says why a certificate does not count any more; empty if it does.
            on_refusal: Is told whose call was refused and why, once for each certificate and code.
            clocks: The time.
            limits: What each peer may use.
        """
        self._objection_to = objection_to
        self._on_refusal = on_refusal
        self._clocks = clocks
        self._meter = Meter(limits, clocks)
        self._refused = Meter(REFUSED, clocks)  # a stolen certificate uses up nothing of its node's
        self._told: set[tuple[int, grpc.StatusCode]] = set()

    async def serve(self, handler: Handler, method: str, receive: Receive, context: Context) -> Any:  # noqa: ANN401 - any reply
        """Answer a call of whoever may make it."""
        subject = _subject(context)
        roles = _ROLES.get(method.strip("/").rpartition("/")[0], frozenset())
        try:
            self._check(subject, roles)
        except Refused:
            async with self._refused.opened((subject.role, subject.name), _who(subject)):
                raise
        return await self._answer(handler, method, subject, receive, context)

    async def _answer(
        self, handler: Handler, method: str, subject: Subject, receive: Receive, context: Context
    ) -> Any:  # noqa: ANN401 - any reply
        who = _who(subject)
        try:
            async with self._meter.opened((subject.role, subject.name), who) as budget:
                if method in _LEAVES_TRACES:
                    self._meter.enter(budget, who)
                limited = self._meter.limited(receive, budget)
                caller = Caller(name=subject.name, role=subject.role, serial=subject.serial)
                with answering(caller):
                    return await answer(
                        handler,
                        lambda: self._admitted(subject, limited),
                        context,
                        look=lambda: self._check_still(subject),
                    )
        except Refused as refused:
            if refused.code is grpc.StatusCode.RESOURCE_EXHAUSTED:
                self._tell(subject, refused)
            raise

    async def _admitted(self, subject: Subject, receive: Receive) -> bytes | None:
        """Wait for what the peer sends, as long as it may."""
        data = await receive()
        if data is not None:
            self._check_still(subject)
        return data

    def _check(self, subject: Subject, roles: frozenset[Role]) -> None:
        self._check_still(subject)
        if subject.role not in roles:
            raise self._refusal(
                subject,
                grpc.StatusCode.PERMISSION_DENIED,
                f"the certificate of {subject.role} {subject.name!r} does not allow this call",
            )

    def _check_still(self, subject: Subject) -> None:
        """Refuse a certificate whose time is over, or that was taken back."""
        if why := self._objection_to(subject):
            raise self._refusal(subject, grpc.StatusCode.PERMISSION_DENIED, why)
        if self._clocks.utc() > subject.ends:
            raise self._refusal(
                subject,
                grpc.StatusCode.UNAUTHENTICATED,
                f"the certificate of {subject.role} {subject.name!r} expired at "
                f"{subject.ends.isoformat(timespec='seconds')}; join again with a new token",
            )

    def _refusal(self, subject: Subject, code: grpc.StatusCode, why: str) -> Refused:
        refused = Refused(code, why)
        self._tell(subject, refused)
        return refused

    def _tell(self, subject: Subject, refused: Refused) -> None:
        """Tell of a refusal, unless of this certificate and code it was told before."""
        if (subject.serial, refused.code) not in self._told:
            self._told.add((subject.serial, refused.code))
            self._on_refusal(subject, str(refused))


def _who(subject: Subject) -> str:
    return f"{subject.role} {subject.name!r}"


def _subject(context: Context) -> Subject:
    """Return whom the peer's certificate names; the handshake has checked the rest of it."""
    pem: bytes = b"".join(context.auth_context().get("x509_pem_cert", ()))
    try:
        return _read(pem)
    except ProtocolError as error:
        raise Refused(grpc.StatusCode.UNAUTHENTICATED, str(error)) from error


@lru_cache(maxsize=1024)
def _read(pem: bytes) -> Subject:
    return subject_of(from_pem(pem))
