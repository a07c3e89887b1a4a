"""What a ClientApp does with a message."""

import time
from typing import Any

from flwr.app import Context, Message, Metadata
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode

from roundel.core.seeds import derive, seed_generators
from roundel.core.threads import intra_op_threads
from roundel.core.usercode import one_line, own_traceback, user_line
from roundel.simulations.flowerapps.flower_records import packed, unpacked
from roundel.simulations.flowerapps.nodes import Nodes
from roundel.simulations.flowerapps.parcels import Answer, Task, Trouble
from roundel.simulations.flowerapps.project import RunConfig
from roundel.simulations.flowerapps.workers import Work


def client_work(app: ClientApp, nodes: Nodes, node_config: RunConfig | None = None) -> Work:
    """Return what answers messages by a ClientApp.

    What it draws depends on the seed, on the client, and on how many messages it got before. It
    computes with one thread whoever runs it, so that the bits are the same with one worker and with
    several.

    Args:
        app: The app.
        nodes: The federation.
        node_config: What a node says about itself besides which clients it has.
    """
    known = {**(node_config or {}), "num-partitions": len(nodes.ids)}

    def work(task: Task) -> Answer:
        began = time.perf_counter()
        try:
            context = Context(
                run_id=nodes.run_id,
                node_id=nodes.ids[task.client],
                node_config={**known, "partition-id": task.client},
                state=unpacked(task.state),
                run_config=dict(nodes.config),
            )
            message = _delivered(task)
            seed_generators(derive(nodes.seed, "flower client", task.number, task.client))
            with intra_op_threads(1):
                reply = _checked(app(message, context), context, nodes)
            content = None if reply.has_error() else packed(reply.content)
            trouble = None
            if reply.has_error():
                reason = reply.error.reason or "the app replied with an error"
                trouble = Trouble(code=reply.error.code, reason=reason)
            state = packed(context.state)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - the app's own code
            content, state, trouble = None, task.state, _raised(error)
        seconds = time.perf_counter() - began
        return Answer(content=content, state=state, trouble=trouble, seconds=seconds)

    return work


def _delivered(task: Task) -> Message:
    make: Any = Message  # its signatures leave out the metadata of a message that has some
    message: Message = make(content=unpacked(task.content), metadata=Metadata(**task.metadata))
    return message


def _checked(reply: object, context: Context, nodes: Nodes) -> Message:
    if not isinstance(reply, Message):
        raise TypeError(
            f"the ClientApp returned a {type(reply).__name__} and not a Message; return "
            "Message(content, reply_to=message)"
        )
    if context.run_config != nodes.config:
        raise ValueError("the app changed context.run_config; keep what it knows in context.state")
    return reply


def _raised(error: BaseException) -> Trouble:
    return Trouble(
        code=ErrorCode.CLIENT_APP_RAISED_EXCEPTION,
        reason=one_line(error),
        location=user_line(error),
        traceback=own_traceback(error),
    )
