"""Reads the messages of calls, so that whatever is none of them is refused in a sentence.

gRPC would read them itself, before anybody is asked whether the call may be made, and take bytes
that are no message for a mistake of the server's. So each call is served as a stream of bytes that
is read here; on the wire there is no difference.
"""

import asyncio
import inspect
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from functools import partial
from typing import Any, TypeAlias

import grpc
from google.protobuf.message import DecodeError
from grpc import aio

from roundel.core.wire.frames import Handler, framed

Context: TypeAlias = "aio.ServicerContext[Any, Any]"
Receive: TypeAlias = Callable[[], Awaitable[bytes | None]]
"""Waits for what the peer sends next; None once it has said that nothing more comes."""

Serve: TypeAlias = Callable[[Receive, Context], Awaitable[Any]]
"""Answers a call; returns its reply, or None after a stream of them."""


class Refused(Exception):
    """A call that ends before it is answered.

    Attributes:
        code: What gRPC calls it.
    """

    def __init__(self, code: grpc.StatusCode, why: str) -> None:
        super().__init__(why)
        self.code = code


class Interceptor(aio.ServerInterceptor, ABC):
    """Stands before the handlers of all calls and reads in the place of gRPC."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable["Handler | None"]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "Handler | None":
        """Put `serve` in the place of a call's handler."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        method = handler_call_details.method
        handler = framed(handler, method)
        return served_by(partial(self.serve, handler, method), handler)

    @abstractmethod
    async def serve(self, handler: Handler, method: str, receive: Receive, context: Context) -> Any:  # noqa: ANN401 - any reply
        """Answer a call; return its reply, or None after a stream of them.

        Args:
            handler: The call's own.
            method: The call's full name.
            receive: Waits for what the peer sends.
            context: The call's.

        Raises:
            Refused: It ends without an answer.
        """


class Reading(Interceptor):
    """An interceptor that lets everybody in who sends messages soon."""

    def __init__(self, within_s: float) -> None:
        """Begin to read.

        Args:
            within_s: How long to wait for each message before the call ends.
        """
        self._within_s = within_s

    async def serve(self, handler: Handler, method: str, receive: Receive, context: Context) -> Any:  # noqa: ANN401 - any reply
        """Answer a call whose messages come soon."""
        return await answer(handler, lambda: _in_time(receive, self._within_s), context)


def served_by(serve: Serve, handler: Handler) -> Handler:
    """Return a handler that serves a call as a stream of bytes; what it refuses ends the call.

    Args:
        serve: Answers the call.
        handler: In whose place it does.
    """

    async def refusing(_requests: object, context: Context) -> Any:  # noqa: ANN401 - any reply
        async def receive() -> bytes | None:
            data: Any = await context.read()
            return None if data is aio.EOF else data

        try:
            return await serve(receive, context)
        except Refused as refusal:
            await context.abort(refusal.code, str(refusal))

    as_call: Any = (
        grpc.stream_stream_rpc_method_handler
        if handler.response_streaming
        else grpc.stream_unary_rpc_method_handler
    )  # their types know no coroutines
    served: Handler = as_call(refusing, None, handler.response_serializer)
    return served


def _let_pass() -> None:
    """Find nothing."""


async def answer(
    handler: Handler,
    receive: Receive,
    context: Context,
    look: Callable[[], None] = _let_pass,
) -> Any:  # noqa: ANN401 - whatever the handler returns
    """Let a call's own handler answer; return its reply, or None after a stream of them.

    A call with one message reads it without an iterator: one that is left before its end costs the
    event loop more than the whole call.

    Args:
        handler: The call's.
        receive: Waits for what the peer sends.
        context: The call's.
        look: Called before anything leaves; may raise `Refused`.

    Raises:
        Refused: What came is no message of this call.
    """
    if handler.request_streaming:
        async with aclosing(_messages(handler, receive)) as messages:
            return await _reply(handler, messages, context, look)
    data = await receive()
    if data is None:
        raise Refused(grpc.StatusCode.INVALID_ARGUMENT, "this call came without a message")
    return await _reply(handler, _message(handler, data), context, look)


async def _reply(
    handler: Handler,
    asked: Any,  # noqa: ANN401 - a message, or several
    context: Context,
    look: Callable[[], None],
) -> Any:  # noqa: ANN401 - whatever the handler returns
    replies = _behaviour(handler)(asked, context)
    if not handler.response_streaming:
        reply = await replies
        look()
        return reply
    if inspect.isawaitable(replies):
        await replies
        return None
    async for reply in replies:
        look()
        await context.write(reply)
    return None


async def _in_time(receive: Receive, within_s: float) -> bytes | None:
    try:
        async with asyncio.timeout(within_s):
            return await receive()
    except TimeoutError as error:
        raise Refused(
            grpc.StatusCode.DEADLINE_EXCEEDED, f"no message came within {within_s} seconds"
        ) from error


def _message(handler: Handler, data: bytes) -> Any:  # noqa: ANN401 - of whatever type it reads
    read: Any = handler.request_deserializer
    try:
        return read(data)
    except DecodeError as error:
        raise Refused(
            grpc.StatusCode.INVALID_ARGUMENT, "this is no message of this call"
        ) from error


async def _messages(handler: Handler, receive: Receive) -> AsyncGenerator[Any, None]:
    while (data := await receive()) is not None:
        yield _message(handler, data)


def _behaviour(handler: Handler) -> Callable[..., Any]:
    """Return the one function that a handler has."""
    functions = (
        handler.unary_unary,
        handler.unary_stream,
        handler.stream_unary,
        handler.stream_stream,
    )
    return next(function for function in functions if function is not None)
