"""Stands before every call of the federation's port: who is it, may it, and is it too much?

All of that is asked before a byte of the call's message is read; see `roundel.server.grpc_reading`.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from functools import lru_cache

import grpc
from grpc import aio

from roundel.core.certificates import Role, Subject, from_pem, subject_of
from roundel.core.errors import ProtocolError
from roundel.core.wire import roundel_pb2 as pb
from roundel.server.budgets import NODE, Budget, Limits
from roundel.server.callers import Caller, answering
from roundel.server.clocks import Clocks
from roundel.server.grpc_reading import Context, Handler, Refused, answer, served_by

_SERVICES = pb.DESCRIPTOR.services_by_name
_ROLES: dict[str, frozenset[Role]] = {
    _SERVICES["Federation"].full_name: frozenset({"node"}),
    _SERVICES["Operator"].full_name: frozenset({"operator"}),
    "grpc.health.v1.Health": frozenset({"node", "operator"}),
}


@dataclass(frozen=True, kw_only=True)
class _Call:
    """A call that is being served.

    Attributes:
        handler: What answers it.
        subject: Whose call it is.
        budget: What that peer uses.
    """

    handler: Handler
    subject: Subject
    budget: Budget


class Guard(aio.ServerInterceptor):
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
        self._limits = limits
        self._budgets: dict[tuple[Role, str], Budget] = {}
        self._told: set[tuple[int, grpc.StatusCode]] = set()

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable["Handler | None"]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "Handler | None":
        """Put the guard in the place of a call's handler."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        service = handler_call_details.method.strip("/").rpartition("/")[0]
        roles = _ROLES.get(service, frozenset())

        known = handler

        async def guarded(requests: AsyncIterator[bytes], context: Context) -> None:
            subject = _subject(context)
            self._check(subject, roles)
            call = _Call(handler=known, subject=subject, budget=self._budget(subject))
            await self._serve(call, requests, context)

        return served_by(guarded, handler)

    def _budget(self, subject: Subject) -> Budget:
        key = (subject.role, subject.name)
        if key not in self._budgets:
            self._budgets[key] = Budget(self._limits, self._clocks.seconds())
        return self._budgets[key]

    async def _serve(self, call: _Call, requests: AsyncIterator[bytes], context: Context) -> None:
        subject, budget = call.subject, call.budget
        if budget.open >= self._limits.open:
            raise self._refusal(
                subject,
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"{subject.role} {subject.name!r} has {budget.open} calls open, which is all that "
                "it may; wait for some to end",
            )
        caller = Caller(name=subject.name, role=subject.role, serial=subject.serial)
        budget.open += 1
        try:
            await _pause(budget.calls.wait_s(1.0, self._clocks.seconds()))
            with answering(caller):
                await answer(
                    call.handler,
                    self._admitted(call, requests),
                    context,
                    look=lambda: self._check_still(subject),
                )
        finally:
            budget.open -= 1

    async def _admitted(self, call: _Call, requests: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """Yield what the peer sends, as long as it may, and no faster than it may."""
        async for data in requests:
            self._check_still(call.subject)
            await _pause(call.budget.payload.wait_s(len(data), self._clocks.seconds()))
            yield data

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
        if (subject.serial, code) not in self._told:
            self._told.add((subject.serial, code))
            self._on_refusal(subject, why)
        return Refused(code, why)


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


async def _pause(seconds: float) -> None:
    if seconds:
        await asyncio.sleep(seconds)
