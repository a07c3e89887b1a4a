"""Reads the messages of calls, so that whatever is none of them is refused in a sentence.

gRPC would read them itself, and take bytes that are no message for a mistake of the server's. So
each call is served as a stream of bytes; on the wire there is no difference.
"""

import asyncio
import inspect
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Any, TypeAlias

import grpc
from google.protobuf.message import DecodeError
from grpc import aio

Context: TypeAlias = "aio.ServicerContext[Any, Any]"
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Serve: TypeAlias = Callable[[AsyncIterator[bytes], Context], Awaitable[None]]


class Refused(Exception):
    """A call that ends before it is answered.

    Attributes:
        code: What gRPC calls it.
    """

    def __init__(self, code: grpc.StatusCode, why: str) -> None:
        super().__init__(why)
        self.code = code


class Reading(aio.ServerInterceptor):
    """An interceptor that lets everybody in who sends messages."""

    def __init__(self, within_s: float | None = None) -> None:
        """Begin to read.

        Args:
            within_s: How long to wait for each message before the call ends; None for ever.
        """
        self._within_s = within_s

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable["Handler | None"]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "Handler | None":
        """Read in the place of gRPC."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        known = handler

        async def serve(requests: AsyncIterator[bytes], context: Context) -> None:
            await answer(known, _in_time(requests, self._within_s), context)

        return served_by(serve, handler)


def served_by(serve: Serve, handler: Handler) -> Handler:
    """Return a handler that serves a call as a stream of bytes; what it refuses ends the call.

    Args:
        serve: Answers the call.
        handler: In whose place it does.
    """

    async def refusing(requests: AsyncIterator[bytes], context: Context) -> None:
        try:
            await serve(requests, context)
        except Refused as refusal:
            await context.abort(refusal.code, str(refusal))

    as_stream: Any = grpc.stream_stream_rpc_method_handler  # its types know no coroutines
    served: Handler = as_stream(refusing, None, handler.response_serializer)
    return served


def _let_pass() -> None:
    """Find nothing."""


async def answer(
    handler: Handler,
    requests: AsyncIterator[bytes],
    context: Context,
    look: Callable[[], None] = _let_pass,
) -> None:
    """Let a call's own handler answer.

    Args:
        handler: The call's.
        requests: What the peer sends.
        context: The call's.
        look: Called before anything leaves; may raise `Refused`.

    Raises:
        Refused: What came is no message of this call.
    """
    messages = _messages(handler, requests)
    asked: Any = messages
    if not handler.request_streaming:
        asked = await anext(messages, None)
        if asked is None:
            raise Refused(grpc.StatusCode.INVALID_ARGUMENT, "this call came without a message")
    replies = _behaviour(handler)(asked, context)
    if not handler.response_streaming:
        reply = await replies
        look()
        await context.write(reply)
    elif inspect.isawaitable(replies):
        await replies
    else:
        async for reply in replies:
            look()
            await context.write(reply)


async def _in_time(requests: AsyncIterator[bytes], within_s: float | None) -> AsyncIterator[bytes]:
    received = aiter(requests)
    while True:
        try:
            async with asyncio.timeout(within_s):
                data = await anext(received, None)
        except TimeoutError as error:
            raise Refused(
                grpc.StatusCode.DEADLINE_EXCEEDED, f"no message came within {within_s} seconds"
            ) from error
        if data is None:
            return
        yield data


async def _messages(handler: Handler, requests: AsyncIterator[bytes]) -> AsyncGenerator[Any, None]:
    read: Any = handler.request_deserializer
    async for data in requests:
        try:
            message = read(data)
        except DecodeError as error:
            raise Refused(
                grpc.StatusCode.INVALID_ARGUMENT, "this is no message of this call"
            ) from error
        yield message


def _behaviour(handler: Handler) -> Callable[..., Any]:
    """Return the one function that a handler has."""
    functions = (
        handler.unary_unary,
        handler.unary_stream,
        handler.stream_unary,
        handler.stream_stream,
    )
    return next(function for function in functions if function is not None)
