"""Requests, answers and tensors as Flower's records, and back: what both ends say to each other.

A message is work for one node, which may play several clients: the broadcast stands in it once. The
reply has a record for each of them, under the client's number.

    message   roundel.broadcast   arrays: params, integers, channel/NAME
              roundel.work        run, round, stage, version, split; clients, attempts, states
              config              what Flower's user gave, and server-round
    reply     roundel.answer.K    ticket, and the counts of an update or the text of a failure
              roundel.update.K    arrays: the channels of an update
              roundel.scalars.K   its scalars
              roundel.sums.K      sums of metrics
              metrics             num-examples and means, for people

Tensors travel as their plain bytes, which holds every dtype; models have Flower's own form, so that
anybody can load them.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import TypeVar

import torch
from torch import Tensor

from roundel.core.broadcast import INTEGERS, PARAMS, broadcast_tensors, channels_of
from roundel.core.errors import ProtocolError
from roundel.core.flower_names import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from roundel.core.messages import (
    ClientFailure,
    ClientUpdate,
    EvaluateRequest,
    Evaluation,
    Ticket,
    TrainRequest,
)
from roundel.core.metrics import Metrics, merge
from roundel.core.params import bytes_of
from roundel.core.printable import TRACEBACK, name_defect, printable
from roundel.core.tensorbytes import DTYPES

HELLO = "roundel.hello"
BROADCAST = "roundel.broadcast"
WORK = "roundel.work"
CONFIG = "config"

_ANSWER, _UPDATE, _SCALARS, _SUMS = (
    f"roundel.{name}." for name in ("answer", "update", "scalars", "sums")
)
_STYPE = "roundel.tensor"
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_MOST_SIZES = 64
_MOST_BYTES = 1 << 63

T = TypeVar("T")

Answer = ClientUpdate | Evaluation | ClientFailure


@dataclass(frozen=True, kw_only=True)
class Work:
    """What one client is asked for.

    Attributes:
        request: By the server.
        state: After which round the client's state counts; 0 if it has none.
    """

    request: TrainRequest | EvaluateRequest
    state: int = 0


@dataclass(frozen=True, kw_only=True)
class Hello:
    """What a node says of itself.

    Attributes:
        fingerprint: Of what it has made of the experiment; see `roundel.core.fingerprint`.
        partition: Which share of the clients it plays, from 0.
        partitions: How many shares there are.
        trouble: Why it cannot take part, if it cannot.
    """

    fingerprint: str = ""
    partition: int = 0
    partitions: int = 1
    trouble: str = ""

    def clients(self, population: int) -> range:
        """Return the clients that it plays: every so many, so that shares are about equal.

        >>> list(Hello(partition=1, partitions=3).clients(8))
        [1, 4, 7]
        """
        return range(self.partition, population, self.partitions)


# ---- tensors and models


def tensor_arrays(tensors: Mapping[str, Tensor]) -> ArrayRecord:
    """Return tensors as arrays of their plain bytes, copied once.

    Args:
        tensors: On the CPU.

    Raises:
        ProtocolError: A dtype has no name.
    """
    record = ArrayRecord()
    for name, tensor in tensors.items():
        if tensor.dtype not in _NAMES:
            raise ProtocolError(f"tensor {name!r} of dtype {tensor.dtype} cannot be sent")
        record[name] = Array(
            dtype=_NAMES[tensor.dtype],
            shape=tuple(tensor.shape),
            stype=_STYPE,
            data=bytes(bytes_of(tensor)),
        )
    return record


def array_tensors(record: ArrayRecord) -> dict[str, Tensor]:
    """Read what `tensor_arrays` has written, into memory of its own.

    Raises:
        ProtocolError: An array is of another form, or has not the bytes that its shape asks for.
    """
    return {name: _tensor(name, array) for name, array in record.items()}


def _tensor(name: str, array: Array) -> Tensor:
    dtype = DTYPES.get(array.dtype) if array.stype == _STYPE else None
    if dtype is None or not _is_shape(array.shape, dtype):
        raise ProtocolError(
            f"array {name!r:.100} of the type {array.stype!r:.100} is no tensor of Roundel's: "
            f"dtype {array.dtype!r:.100}, shape {array.shape!r:.100}"
        )
    if len(array.data) != prod(array.shape) * dtype.itemsize:
        raise ProtocolError(
            f"array {name!r:.100} has {len(array.data)} bytes, which are not those of "
            f"{array.dtype} in the shape {array.shape!r:.100}"
        )
    if not array.data:
        return torch.empty(array.shape, dtype=dtype)
    return torch.frombuffer(bytearray(array.data), dtype=dtype).view(array.shape)


def _is_shape(shape: tuple[int, ...], dtype: torch.dtype) -> bool:
    """Tell whether there can be such a tensor; strides overflow behind a size of 0, too."""
    if len(shape) > _MOST_SIZES or any(size < 0 for size in shape):
        return False
    return prod(max(1, size) for size in shape) * dtype.itemsize < _MOST_BYTES


def model_arrays(tensors: Mapping[str, Tensor]) -> ArrayRecord:
    """Return a state dict as Flower's users know it; what NumPy has no type for is float32."""
    return ArrayRecord(
        {
            name: Array((t.float() if t.dtype is torch.bfloat16 else t).detach().cpu().numpy())
            for name, t in tensors.items()
        }
    )


def model_tensors(record: ArrayRecord) -> dict[str, Tensor]:
    """Read a state dict."""
    return {name: torch.from_numpy(array.numpy()) for name, array in record.items()}


# ---- hello


def hello_content(hello: Hello) -> RecordDict:
    """Return what a node says of itself as it travels."""
    return RecordDict({HELLO: ConfigRecord(dict(vars(hello)))})


def read_hello(content: RecordDict) -> Hello:
    """Read what a node says of itself.

    Raises:
        ProtocolError: It says something else.
    """
    said = _record(content, HELLO, ConfigRecord)
    hello = Hello(
        fingerprint=_value(said, "fingerprint", str),
        partition=_value(said, "partition", int),
        partitions=_value(said, "partitions", int),
        trouble=printable(_value(said, "trouble", str)),
    )
    if not 0 <= hello.partition < hello.partitions:
        raise ProtocolError(
            f"partition-id = {hello.partition} with num-partitions = {hello.partitions} is no "
            "share: it is from 0 to one less"
        )
    return hello


# ---- work


def broadcast_arrays(
    params: Tensor, integers: Tensor, channels: Mapping[str, Tensor] | None = None
) -> ArrayRecord:
    """Return what goes to a whole cohort, to be put into each node's message."""
    return tensor_arrays(broadcast_tensors(params, integers, channels or {}))


def work_content(works: Sequence[Work], broadcast: ArrayRecord, config: ConfigRecord) -> RecordDict:
    """Return the work of one node, at least one client's, as it travels.

    Args:
        works: Of one round, stage and kind.
        broadcast: What all of them were sent.
        config: What else goes along.
    """
    first, tickets = works[0].request, [work.request.ticket for work in works]
    split = first.split if isinstance(first, EvaluateRequest) else ""
    said: dict[str, str | int | list[int]] = {
        "run": first.ticket.run,
        "round": first.ticket.round,
        "stage": first.ticket.stage,
        "version": first.base_version if isinstance(first, TrainRequest) else first.ticket.round,
        "split": split,
        "clients": [ticket.client_id for ticket in tickets],
        "attempts": [ticket.attempt for ticket in tickets],
        "states": [work.state for work in works],
    }
    return RecordDict({BROADCAST: broadcast, WORK: ConfigRecord(dict(said)), CONFIG: config})


def read_work(content: RecordDict) -> list[Work]:
    """Read the work of a node; a split that is said makes it an evaluation.

    Raises:
        ProtocolError: It is none.
    """
    said = _record(content, WORK, ConfigRecord)
    tensors = array_tensors(_record(content, BROADCAST, ArrayRecord))
    if not {PARAMS, INTEGERS} <= tensors.keys():
        raise ProtocolError(
            f"a broadcast has {sorted(tensors)!s:.100}, not {PARAMS} and {INTEGERS}"
        )
    params, integers, channels = tensors[PARAMS], tensors[INTEGERS], channels_of(tensors)
    split, version = _value(said, "split", str), _value(said, "version", int)
    works: list[Work] = []
    clients, attempts, states = (_integers(said, n) for n in ("clients", "attempts", "states"))
    if not len(clients) == len(attempts) == len(states):
        raise ProtocolError("a message does not say an attempt and a state for each client")
    for client_id, attempt, state in zip(clients, attempts, states, strict=True):
        ticket = Ticket(
            run=_value(said, "run", str),
            round=_value(said, "round", int),
            client_id=client_id,
            stage=_value(said, "stage", int),
            attempt=attempt,
        )
        request: TrainRequest | EvaluateRequest
        if split:
            request = EvaluateRequest(ticket=ticket, params=params, integers=integers, split=split)
        else:
            request = TrainRequest(
                ticket=ticket,
                base_version=version,
                params=params,
                integers=integers,
                channels=channels,
            )
        works.append(Work(request=request, state=state))
    return works


# ---- answers


def answers_content(answers: Iterable[Answer]) -> RecordDict:
    """Return the answers of a node's clients as they travel."""
    content, seen = RecordDict(), list[Metrics]()
    for answer in answers:
        ticket = answer.ticket
        said: dict[str, str | int | float] = dict(vars(ticket))
        if isinstance(answer, ClientFailure):
            texts = ("stage", "error", "location", "traceback")
            said |= {f"failed {name}": str(getattr(answer, name)) for name in texts}
        else:
            seen.append(answer.metrics)
            said |= {"count": answer.metrics.count}
            content[f"{_SUMS}{ticket.client_id}"] = _floats(answer.metrics.sums)
        if isinstance(answer, ClientUpdate):
            said |= {
                "version": answer.base_version,
                "num_examples": answer.num_examples,
                "num_steps": answer.num_steps,
                "seconds": float(answer.seconds),
            }
            content[f"{_UPDATE}{ticket.client_id}"] = tensor_arrays(answer.channels)
            content[f"{_SCALARS}{ticket.client_id}"] = _floats(answer.scalars)
        content[f"{_ANSWER}{ticket.client_id}"] = ConfigRecord(dict(said))
    if (figures := merge(seen)).count:
        means = {name: float(mean) for name, mean in figures.means().items()}
        content["metrics"] = MetricRecord({"num-examples": figures.count, **means})
    return content


def _floats(values: Mapping[str, float]) -> ConfigRecord:
    return ConfigRecord({name: float(value) for name, value in values.items()})


def read_answers(content: RecordDict) -> list[Answer]:
    """Read the answers of a node's clients.

    Raises:
        ProtocolError: Something among them is none.
    """
    names = [name for name in content if name.startswith(_ANSWER)]
    return [_answer(content, name.removeprefix(_ANSWER)) for name in names]


def _answer(content: RecordDict, client: str) -> Answer:
    said = _record(content, f"{_ANSWER}{client}", ConfigRecord)
    ticket = Ticket(
        run=_value(said, "run", str),
        round=_value(said, "round", int),
        client_id=_value(said, "client_id", int),
        stage=_value(said, "stage", int),
        attempt=_value(said, "attempt", int),
    )
    if "failed error" in said:
        stage, error, location = (
            printable(_value(said, f"failed {name}", str))
            for name in ("stage", "error", "location")
        )
        text = printable(_value(said, "failed traceback", str), TRACEBACK, layout="\n\t")
        return ClientFailure(
            ticket=ticket, stage=stage, error=error, location=location, traceback=text
        )
    sums = _read_floats(content, f"{_SUMS}{client}")
    metrics = Metrics(sums, _value(said, "count", int))
    if "version" not in said:
        return Evaluation(ticket=ticket, metrics=metrics)
    channels = _record(content, f"{_UPDATE}{client}", ArrayRecord)
    _check_names(channels)
    return ClientUpdate(
        ticket=ticket,
        base_version=_value(said, "version", int),
        num_examples=_value(said, "num_examples", int),
        num_steps=_value(said, "num_steps", int),
        channels=array_tensors(channels),
        scalars=_read_floats(content, f"{_SCALARS}{client}"),
        metrics=metrics,
        seconds=_value(said, "seconds", float),
    )


# ---- what stands in records


def _record(content: RecordDict, name: str, kind: type[T]) -> T:
    record = content.get(name)
    if not isinstance(record, kind):
        raise ProtocolError(f"a message lacks the {kind.__name__} {name!r:.100}")
    return record


def _value(record: ConfigRecord, name: str, kind: type[T]) -> T:
    value = record.get(name)
    if type(value) is not kind:
        shown = printable(name, 100)
        raise ProtocolError(f"{shown} = {value!r:.100} is not of the type {kind.__name__}")
    return value


def _integers(record: ConfigRecord, name: str) -> list[int]:
    values = _value(record, name, list)
    if any(type(value) is not int for value in values):
        raise ProtocolError(f"{name} are not numbers of the type int")
    return values


def _read_floats(content: RecordDict, name: str) -> dict[str, float]:
    record = _record(content, name, ConfigRecord)
    _check_names(record)
    return {key: _value(record, key, float) for key in record}


def _check_names(names: Iterable[str]) -> None:
    """Refuse names that records and sentences had better not hold."""
    if defect := name_defect(names):
        raise ProtocolError(defect)
