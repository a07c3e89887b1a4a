"""The one place that knows Flower: a Grid over workers of ours, and records as parcels.

Flower promises `flwr.app`, `flwr.clientapp` and `flwr.serverapp`. `TOUCHED` lists what else is
used here; a contract test says by name what is missing when a release changes it.
"""

import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

import torch
from flwr.app import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Context,
    Error,
    Message,
    Metadata,
    MetricRecord,
    RecordDict,
)
from flwr.clientapp import ClientApp
from flwr.common.constant import SUPERLINK_NODE_ID, ErrorCode
from flwr.server import Server
from flwr.server import server as legacy
from flwr.server.client_proxy import ClientProxy
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import Result
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity
from numpy.typing import NDArray
from safetensors.numpy import save

from roundel.core.seeds import derive, isolated_rng, seed_generators
from roundel.core.usercode import one_line, user_line
from roundel.simulations.flowerapps.npy import read_npy, write_npy
from roundel.simulations.flowerapps.parcels import Answer, Parcel, Task, Trouble
from roundel.simulations.flowerapps.project import RunConfig
from roundel.simulations.flowerapps.seen import Exchange
from roundel.simulations.flowerapps.workers import Ask, Work

TOUCHED: Mapping[str, str] = {
    "flwr.common.constant:SUPERLINK_NODE_ID": "who sends the messages of a ServerApp",
    "flwr.common.constant:ErrorCode.CLIENT_APP_RAISED_EXCEPTION": "says that a client has raised",
    "flwr.common.constant:ErrorCode.CLIENT_APP_CRASHED": "says that a client's process has died",
    "flwr.common.constant:ErrorCode.NODE_UNAVAILABLE": "says that there is no such node",
    "flwr.supercore.task_identity:TaskIdentity": "names the sender of a new message",
    "flwr.supercore.run:Run.create_empty": "is what a Grid says about its run",
    "flwr.app:Array.numpy": "reads arrays, and is replaced by what does that faster",
    "flwr.app:Array.from_numpy_ndarray": "writes arrays, and is replaced by what does that faster",
    "flwr.app:RecordDict._data": "holds the values of a record",
    "flwr.app:ArrayRecord._data": "holds the values of a record",
    "flwr.app:MetricRecord._data": "holds the values of a record",
    "flwr.app:ConfigRecord._data": "holds the values of a record",
    "flwr.app:Array.__dict__": "holds dtype, shape, stype and data of an array, and nothing else",
    "flwr.app:Message(metadata)": "is how a message is made that was sent before",
    "flwr.server.server:Server": "holds the final parameters of a server_fn",
    "flwr.server.server:fit_clients": "returns results of a server_fn in no order",
    "flwr.server.server:evaluate_clients": "returns results of a server_fn in no order",
}
"""What is used besides the promised modules, and what it does there."""

T = TypeVar("T")

_TASK_ID = 1
_NUMPY = "numpy.ndarray"


KINDS: Mapping[str, type] = {"serverapp": ServerApp, "clientapp": ClientApp}
"""What the parts of an app are."""


@dataclass(frozen=True, kw_only=True)
class Nodes:
    """The federation of a run, all of it from the seed.

    Attributes:
        seed: The run's.
        config: The settings of the app.
        run_id: The run's.
        ids: Node id of each client, by its number.
    """

    seed: int
    config: RunConfig
    run_id: int
    ids: Sequence[int]

    @classmethod
    def of(cls, seed: int, config: RunConfig, clients: int) -> "Nodes":
        """Number a federation."""
        return cls(
            seed=seed,
            config=config,
            run_id=derive(seed, "flower run"),
            ids=[derive(seed, "flower node", client=client) for client in range(clients)],
        )


# Records


def packed(records: RecordDict) -> Parcel:
    """Return records as a parcel, which later changes to them do not reach."""
    said: list[Any] = []
    buffers: list[bytes] = []
    for name, record in records.items():
        if isinstance(record, ArrayRecord):
            arrays = [[key, a.dtype, list(a.shape), a.stype] for key, a in record.items()]
            buffers += [array.data for array in record.values()]
            said.append([name, "arrays", arrays])
        elif isinstance(record, MetricRecord):
            said.append([name, "metrics", {key: _copy(v) for key, v in record.items()}])
        else:
            said.append([name, "config", [_setting(k, v, buffers) for k, v in record.items()]])
    return Parcel(records=said, buffers=buffers)


def unpacked(parcel: Parcel) -> RecordDict:
    """Return the records of a parcel: new ones each time, over the same bytes."""
    buffers = iter(parcel.buffers)
    made: dict[str, Any] = {}
    for name, kind, values in parcel.records:
        if kind == "arrays":
            arrays = {
                key: _array(dtype, tuple(shape), stype, next(buffers))
                for key, dtype, shape, stype in values
            }
            made[name] = _filled(ArrayRecord(), arrays)
        elif kind == "metrics":
            metrics = {key: _copy(value) for key, value in values.items()}
            made[name] = _filled(MetricRecord(), metrics)
        else:
            settings = {key: _value(form, value, buffers) for key, form, value in values}
            made[name] = _filled(ConfigRecord(), settings)
    return _filled(RecordDict(), made)


R = TypeVar("R", RecordDict, ArrayRecord, MetricRecord, ConfigRecord)


def _filled(record: R, values: Mapping[str, Any]) -> R:
    """Fill a record with what came out of one: to check each value again takes most of the time."""
    vars(record)["_data"].update(values)
    return record


def _array(dtype: str, shape: tuple[int, ...], stype: str, data: bytes) -> Array:
    """Make an array of what was one, which need not be checked either."""
    array = Array.__new__(Array)
    vars(array).update(dtype=dtype, shape=shape, stype=stype, data=data)
    return array


def _setting(key: str, value: object, buffers: list[bytes]) -> list[Any]:
    """Return a setting as its key, its form and its value, or their number if it is bytes."""
    if isinstance(value, bytes):
        buffers.append(value)
        return [key, "bytes", 1]
    if isinstance(value, list) and value and all(isinstance(item, bytes) for item in value):
        buffers += value
        return [key, "list of bytes", len(value)]
    return [key, "", _copy(value)]


def _value(form: str, value: Any, buffers: Iterator[bytes]) -> Any:  # noqa: ANN401 - of any type
    if form == "bytes":
        return next(buffers)
    if form == "list of bytes":
        return [next(buffers) for _ in range(value)]
    return _copy(value)


def _copy(value: Any) -> Any:  # noqa: ANN401 - of any type
    return list(value) if isinstance(value, list) else value


def model_file(arrays: Parcel) -> bytes:
    """Return the final arrays as a safetensors file; those of no number type are left out."""
    tensors: dict[str, Any] = {}
    for record in unpacked(arrays).values():
        if isinstance(record, ArrayRecord):
            tensors |= {k: a.numpy() for k, a in record.items() if a.stype == _NUMPY}
    return save({name: array for name, array in tensors.items() if array.dtype.kind in "biuf"})


# Clients


def client_work(app: ClientApp, nodes: Nodes) -> Work:
    """Return what answers messages by a ClientApp.

    What it draws depends on the seed, on the client, and on how many messages it got before. It
    computes with one thread whoever runs it, so that the bits are the same with one worker and with
    several.
    """

    def work(task: Task) -> Answer:
        began = time.perf_counter()
        context = Context(
            run_id=nodes.run_id,
            node_id=nodes.ids[task.client],
            node_config={"partition-id": task.client, "num-partitions": len(nodes.ids)},
            state=unpacked(task.state),
            run_config=dict(nodes.config),
        )
        message = _delivered(task)
        try:
            seed_generators(derive(nodes.seed, "flower client", task.number, task.client))
            with _one_thread():
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
        traceback="".join(traceback.format_exception(error)),
    )


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


# The server


class WorkerGrid(Grid):
    """A Grid whose nodes are clients that workers play.

    All replies are there as soon as messages were pushed, in the order of the messages. Nothing
    times out: what comes out would depend on how fast the machine is.

    Args:
        nodes: The federation.
        ask: Has messages answered.
        told: Is told of each exchange.
    """

    def __init__(self, nodes: Nodes, ask: Ask, told: Callable[[Exchange], None]) -> None:
        self._nodes, self._ask, self._told = nodes, ask, told
        self._clients = {node: client for client, node in enumerate(nodes.ids)}
        self._states = [Parcel() for _ in nodes.ids]
        self._counts = [0 for _ in nodes.ids]
        self._replies: dict[str, Message] = {}
        self._lost = 0
        self._lock = threading.Lock()
        self._run = Run.create_empty(nodes.run_id)
        self._run.override_config = dict(nodes.config)

    def set_run(self, run: Run) -> None:
        """Say what the run is."""
        self._run = run

    @property
    def run(self) -> Run:
        """The run."""
        return self._run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Make a message, as apps of the older kind do."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """Return all node ids, in the order of the clients."""
        return list(self._nodes.ids)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Have messages answered; return their ids."""
        sent = [self._sent(message) for message in messages]
        for wave in waves([task.client for _, task in sent if task]):
            known = [(message, task) for message, task in sent if task]
            self._exchange([known[place] for place in wave])
        return [message.metadata.message_id for message, _ in sent]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the replies to messages that were pushed, once each, in the order asked for."""
        with self._lock:
            return [self._replies.pop(number) for number in message_ids if number in self._replies]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Have messages answered; return the replies in their order."""
        return self.pull_messages(self.push_messages(messages))

    def _sent(self, message: Message) -> tuple[Message, Task | None]:
        """Number a message, and take its content as it is now; no task if there is no such node."""
        metadata = message.metadata
        client = self._clients.get(metadata.dst_node_id)
        content = packed(message.content)
        with self._lock:
            if client is None:
                self._lost += 1
                number, whose = self._lost, -1
            else:
                self._counts[client] += 1
                number, whose = self._counts[client], client
            identity = derive(self._nodes.seed, "flower message", number, whose)
            vars(metadata)["_message_id"] = f"{identity:016x}"
            if client is None:
                said = f"there is no node {metadata.dst_node_id}"
                error = Error(ErrorCode.NODE_UNAVAILABLE, said)
                self._replies[metadata.message_id] = Message(error, reply_to=message)
                return message, None
        return message, Task(
            client=client,
            number=number,
            metadata=_fields(metadata),
            content=content,
            state=Parcel(),
        )

    def _exchange(self, sent: Sequence[tuple[Message, Task]]) -> None:
        with self._lock:
            tasks = [_with_state(task, self._states[task.client]) for _, task in sent]
        began = time.perf_counter()
        answers = self._ask(tasks)
        ended = time.perf_counter()
        exchange = Exchange(tasks=tasks, answers=answers, began_s=began, ended_s=ended)
        with self._lock:
            for (message, task), answer in zip(sent, answers, strict=True):
                self._states[task.client] = answer.state
                self._replies[message.metadata.message_id] = _reply(message, answer)
            self._told(exchange)


def waves(clients: Sequence[int]) -> list[list[int]]:
    """Divide messages so that no client gets two at once; return their places.

    >>> waves([0, 1, 0, 2, 0])
    [[0, 1, 3], [2], [4]]
    """
    found: list[list[int]] = []
    seen: dict[int, int] = {}
    for place, client in enumerate(clients):
        wave = seen[client] = seen.get(client, -1) + 1
        if wave == len(found):
            found.append([])
        found[wave].append(place)
    return found


def _with_state(task: Task, state: Parcel) -> Task:
    return Task(**{**vars(task), "state": state})


def _fields(metadata: Metadata) -> dict[str, Any]:
    return {
        "run_id": metadata.run_id,
        "message_id": metadata.message_id,
        "src_node_id": metadata.src_node_id,
        "dst_node_id": metadata.dst_node_id,
        "reply_to_message_id": metadata.reply_to_message_id,
        "group_id": metadata.group_id,
        "created_at": metadata.created_at,
        "ttl": metadata.ttl,
        "message_type": metadata.message_type,
        "src_task_id": metadata.src_task_id,
        "dst_task_id": metadata.dst_task_id,
    }


def _reply(message: Message, answer: Answer) -> Message:
    if answer.trouble is not None:
        place = f" ({answer.trouble.location})" if answer.trouble.location else ""
        error = Error(answer.trouble.code, answer.trouble.reason + place)
        reply = Message(error, reply_to=message)
    else:
        reply = Message(unpacked(answer.content or Parcel()), reply_to=message)
    vars(reply.metadata)["_message_id"] = f"{message.metadata.message_id}-reply"
    return reply


@dataclass(frozen=True, kw_only=True)
class Final:
    """What a ServerApp leaves behind.

    Attributes:
        arrays: The final ones; None if it shows none.
        source: Where they were found.
    """

    arrays: Parcel | None
    source: str


@contextmanager
def watched(nodes: Nodes) -> Iterator[Callable[[WorkerGrid, ServerApp], Final]]:
    """Yield what runs a ServerApp and finds its final arrays.

    The app is to be loaded within: it may make a strategy's server when it is imported. What it
    draws starts at the seed.
    """
    TaskIdentity.run_id = nodes.run_id
    TaskIdentity.node_id = SUPERLINK_NODE_ID
    TaskIdentity.task_id = _TASK_ID
    with ExitStack() as stack:
        stack.enter_context(isolated_rng(derive(nodes.seed, "flower server")))
        stack.enter_context(_faster_arrays())
        results = stack.enter_context(_noted(Result))
        servers = stack.enter_context(_noted(Server))
        for name in ("fit_clients", "evaluate_clients"):
            stack.enter_context(_in_order(name))

        def run(grid: WorkerGrid, app: ServerApp) -> Final:
            context = Context(
                run_id=nodes.run_id,
                node_id=SUPERLINK_NODE_ID,
                node_config={},
                state=RecordDict(),
                run_config=dict(nodes.config),
            )
            app(grid, context)
            return _final(results, servers, context)

        yield run


@contextmanager
def _faster_arrays() -> Iterator[None]:
    """Let arrays become bytes and back without NumPy's parsing of their heads."""
    arrays: Any = Array  # else a type checker takes what follows for definitions
    read_before, write_before = arrays.numpy, vars(arrays)["from_numpy_ndarray"]

    def read(self: Array) -> NDArray[Any]:
        found: NDArray[Any] = read_npy(self.data) if self.stype == _NUMPY else read_before(self)
        return found

    def write(_: type, ndarray: NDArray[Any]) -> Array:
        return _array(_name(ndarray.dtype), ndarray.shape, _NUMPY, write_npy(ndarray))

    arrays.numpy, arrays.from_numpy_ndarray = read, classmethod(write)
    try:
        yield
    finally:
        arrays.numpy, arrays.from_numpy_ndarray = read_before, write_before


_name = cache(str)
"""Of a dtype; NumPy puts it together anew each time."""


@contextmanager
def _noted(kind: type[T]) -> Iterator[list[T]]:
    """Note what is made of a class: neither a strategy nor a ServerApp returns its result."""
    made: list[T] = []
    before = kind.__init__

    def init(self: T, *args: object, **kwargs: object) -> None:
        before(self, *args, **kwargs)
        made.append(self)

    setattr(kind, "__init__", init)  # noqa: B010 - a type checker takes it for a definition
    try:
        yield made
    finally:
        setattr(kind, "__init__", before)  # noqa: B010 - see above


@contextmanager
def _in_order(name: str) -> Iterator[None]:
    """Let a function of older ServerApps return results in the order of the instructions.

    It gathers them from a set, whose order depends on addresses in memory, and a sum on the order.
    """
    before = getattr(legacy, name)

    def ordered(
        client_instructions: Sequence[tuple[ClientProxy, object]], *args: object, **kwargs: object
    ) -> tuple[Sequence[tuple[ClientProxy, object]], object]:
        places = {proxy.cid: place for place, (proxy, _) in enumerate(client_instructions)}
        results, failures = before(client_instructions, *args, **kwargs)
        return sorted(results, key=lambda result: places[result[0].cid]), failures

    setattr(legacy, name, ordered)
    try:
        yield
    finally:
        setattr(legacy, name, before)


def _final(results: Sequence[Result], servers: Sequence[Server], context: Context) -> Final:
    for result in reversed(results):
        if result.arrays:
            return Final(arrays=_arrays(result.arrays), source="the result of the strategy")
    for server in reversed(servers):
        if server.parameters.tensors:
            return Final(arrays=_parameters(server), source="the parameters of the server")
    for record in reversed(list(context.state.array_records.values())):
        if record:
            return Final(arrays=_arrays(record), source="the context of the ServerApp")
    return Final(arrays=None, source="")


def _arrays(record: ArrayRecord) -> Parcel:
    return packed(RecordDict({"arrays": record}))


def _parameters(server: Server) -> Parcel:
    """Return what a server of the older kind has: files of numpy's, without names."""
    arrays = ArrayRecord()
    for place, data in enumerate(server.parameters.tensors):
        arrays[str(place)] = Array("", (), server.parameters.tensor_type, data)
    return _arrays(arrays)
