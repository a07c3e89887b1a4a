"""Our local training as a ClientApp: what a node of Flower's does with the work of our server.

A node plays the share of the clients that its ``partition-id`` of ``num-partitions`` names: one
client where there are as many nodes. Client states lie in ``context.state``, each under its round:
that of the last round that counts, as the server says with the work, and that of the round which
may come to count.
"""

from collections.abc import Callable, Mapping

from roundel.client.node import Hosted, Node
from roundel.core.clientstate import ClientState
from roundel.core.errors import RoundelError, RunFailed
from roundel.core.flower import (
    Answer,
    Hello,
    Work,
    answers_content,
    array_tensors,
    hello_content,
    read_work,
    tensor_arrays,
)
from roundel.core.flower_names import (
    ArrayRecord,
    ClientApp,
    ConfigRecord,
    Context,
    Message,
    RecordDict,
)
from roundel.core.messages import ClientFailure, TrainRequest
from roundel.core.noise import draw_secret
from roundel.core.threads import intra_op_threads

Prepare = Callable[[Context], Hosted]
"""From a node's context to what it brings to the run; called for each message."""

_STATE = "roundel.state."
_SECRET = "roundel.secret"  # noqa: S105 - the name of a record
_KEY = "key"


def client_app(prepare: Prepare) -> ClientApp:
    """Return a ClientApp that does what `roundel.server.flower` asks for.

    Args:
        prepare: Makes the task and the data.
    """
    app = ClientApp()

    def greet(message: Message, context: Context) -> Message:
        try:
            hosted = prepare(context)
            partition, partitions = share_of(context)
            hello = Hello(
                fingerprint=hosted.fingerprint, partition=partition, partitions=partitions
            )
        except RoundelError as error:
            hello = Hello(trouble=str(error))
        return Message(hello_content(hello), reply_to=message)

    def work(message: Message, context: Context) -> Message:
        hosted = prepare(context)
        with intra_op_threads(hosted.plan.experiment.engine.threads):
            answers = [_done(each, hosted, context.state) for each in read_work(message.content)]
        return Message(answers_content(answers), reply_to=message)

    app.query()(greet)
    app.train()(work)
    app.evaluate()(work)
    return app


def share_of(context: Context) -> tuple[int, int]:
    """Return which share of the clients a node plays, from 0, and how many shares there are.

    Raises:
        RunFailed: Its configuration does not say so.
    """
    said = context.node_config.get("partition-id"), context.node_config.get("num-partitions")
    match said:
        case (int() as partition, int() as partitions) if 0 <= partition < partitions:
            return partition, partitions
    raise RunFailed(
        f"its partition-id is {said[0]!r} and its num-partitions {said[1]!r}; start it such as "
        "with --node-config 'partition-id=0 num-partitions=2', each node with a number of its own"
    )


def _done(work: Work, hosted: Hosted, records: RecordDict) -> Answer:
    """Do one client's work."""
    ticket = work.request.ticket
    stage = "train" if isinstance(work.request, TrainRequest) else "evaluate"
    if ticket.client_id not in hosted.client_ids:
        said = f"this node does not play client {ticket.client_id}"
        return ClientFailure(ticket=ticket, stage=stage, error=said)
    state = _settled(records, ticket.client_id, work.state)
    if state is None:
        said = (
            f"this node has lost the state that client {ticket.client_id} had after round "
            f"{work.state}; start the run again"
        )
        return ClientFailure(ticket=ticket, stage=stage, error=said)
    node = Node(hosted, lambda _: state, lambda: _secret(records))
    if not isinstance(work.request, TrainRequest):
        return node.evaluate(work.request)
    answer, after = node.train(work.request)
    if not isinstance(answer, ClientFailure) and hosted.plan.stateful(hosted.learner.spec):
        records[_name(ticket.client_id, ticket.round)] = tensor_arrays(after)
    return answer


def _settled(records: RecordDict, client_id: int, round: int) -> ClientState | None:
    """Return the state that counts, and forget the others; None if it is not there."""
    kept: Mapping[str, object] = records
    counts = _name(client_id, round)
    for name in [name for name in kept if name.startswith(_name(client_id, ""))]:
        if name != counts:
            del records[name]
    if not round:
        return {}
    record = records.get(counts)
    return array_tensors(record) if isinstance(record, ArrayRecord) else None


def _name(client_id: int, round: int | str) -> str:
    return f"{_STATE}{client_id}.{round}"


def _secret(records: RecordDict) -> bytes:
    """Return what only this node knows; it is drawn once."""
    record = records.get(_SECRET)
    if not isinstance(record, ConfigRecord):
        record = records[_SECRET] = ConfigRecord({_KEY: draw_secret()})
    key = record[_KEY]
    assert isinstance(key, bytes)  # noqa: S101 - nobody else writes there
    return key
