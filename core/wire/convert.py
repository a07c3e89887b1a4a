"""Messages to protobuf and back. The wire types are used nowhere else but at its two ends."""

from collections.abc import Mapping

from torch import Tensor

from roundel.core.broadcast import INTEGERS, PARAMS, channels_of
from roundel.core.errors import ProtocolError
from roundel.core.messages import (
    ClientFailure,
    ClientUpdate,
    EvaluateRequest,
    Evaluation,
    Ticket,
    TrainRequest,
)
from roundel.core.metrics import Metrics
from roundel.core.printable import TRACEBACK, printable
from roundel.core.status import Activity, Capabilities
from roundel.core.wire import roundel_pb2 as pb

MAX_WORD = 64
"""How many characters of a name or a version, which people are shown in a table, are read."""


def ticket_to_wire(ticket: Ticket) -> pb.Ticket:
    """Return the ticket as it travels."""
    return pb.Ticket(
        run=ticket.run,
        round=ticket.round,
        client_id=ticket.client_id,
        stage=ticket.stage,
        attempt=ticket.attempt,
    )


def ticket_from_wire(ticket: pb.Ticket) -> Ticket:
    """Read a ticket."""
    return Ticket(
        run=printable(ticket.run, MAX_WORD),
        round=ticket.round,
        client_id=ticket.client_id,
        stage=ticket.stage,
        attempt=ticket.attempt,
    )


def train_from_wire(train: pb.Train, tensors: Mapping[str, Tensor]) -> TrainRequest:
    """Read a training request.

    Args:
        train: The work.
        tensors: Its payload.

    Raises:
        ProtocolError: The payload lacks the parameters.
    """
    params, integers = _shared(tensors)
    return TrainRequest(
        ticket=ticket_from_wire(train.ticket),
        base_version=train.base_version,
        params=params,
        integers=integers,
        channels=channels_of(tensors),
    )


def evaluate_from_wire(work: pb.Evaluate, tensors: Mapping[str, Tensor]) -> EvaluateRequest:
    """Read an evaluation request.

    Raises:
        ProtocolError: The payload lacks the parameters.
    """
    params, integers = _shared(tensors)
    return EvaluateRequest(
        ticket=ticket_from_wire(work.ticket), params=params, integers=integers, split=work.split
    )


def update_to_wire(update: ClientUpdate, session: str, payload: pb.Payload) -> pb.UpdateHeader:
    """Return an update without its tensors."""
    return pb.UpdateHeader(
        session=session,
        ticket=ticket_to_wire(update.ticket),
        base_version=update.base_version,
        num_examples=update.num_examples,
        num_steps=update.num_steps,
        scalars=dict(update.scalars),
        metrics=metrics_to_wire(update.metrics),
        seconds=update.seconds,
        payload=payload,
    )


def update_from_wire(header: pb.UpdateHeader, channels: Mapping[str, Tensor]) -> ClientUpdate:
    """Read an update."""
    return ClientUpdate(
        ticket=ticket_from_wire(header.ticket),
        base_version=header.base_version,
        num_examples=header.num_examples,
        num_steps=header.num_steps,
        channels=dict(channels),
        scalars=dict(header.scalars),
        metrics=metrics_from_wire(header.metrics),
        seconds=header.seconds,
    )


def failure_to_wire(failure: ClientFailure, session: str) -> pb.FailureReport:
    """Return a failure as it travels."""
    return pb.FailureReport(
        session=session,
        ticket=ticket_to_wire(failure.ticket),
        stage=failure.stage,
        error=failure.error,
        location=failure.location,
        traceback=failure.traceback,
    )


def failure_from_wire(report: pb.FailureReport) -> ClientFailure:
    """Read a failure."""
    return ClientFailure(
        ticket=ticket_from_wire(report.ticket),
        stage=printable(report.stage),
        error=printable(report.error),
        location=printable(report.location),
        traceback=printable(report.traceback, TRACEBACK, layout="\n\t"),
    )


def evaluation_from_wire(report: pb.EvaluationReport) -> Evaluation:
    """Read a client's figures."""
    return Evaluation(
        ticket=ticket_from_wire(report.ticket), metrics=metrics_from_wire(report.metrics)
    )


def metrics_to_wire(metrics: Metrics) -> pb.Metrics:
    """Return metrics as they travel."""
    return pb.Metrics(sums=dict(metrics.sums), count=metrics.count)


def metrics_from_wire(metrics: pb.Metrics) -> Metrics:
    """Read metrics."""
    return Metrics(dict(metrics.sums), metrics.count)


def activity_to_wire(activity: Activity | None) -> pb.Activity:
    """Return how far a node is as it travels; nothing for None."""
    if activity is None:
        return pb.Activity()
    return pb.Activity(
        client_id=activity.client,
        round=activity.round,
        what=activity.what,
        done=activity.done,
        total=activity.total,
    )


def activity_from_wire(activity: pb.Activity) -> Activity | None:
    """Read how far a node is; None if it waits."""
    if not activity.what:
        return None
    return Activity(
        what=printable(activity.what, MAX_WORD),
        client=activity.client_id,
        round=activity.round,
        done=activity.done,
        total=activity.total,
    )


def capabilities_to_wire(capabilities: Capabilities) -> pb.Capabilities:
    """Return what a node computes with as it travels."""
    return pb.Capabilities(**vars(capabilities))


def capabilities_from_wire(capabilities: pb.Capabilities) -> Capabilities:
    """Read what a node computes with."""
    return Capabilities(
        cores=capabilities.cores,
        memory_bytes=capabilities.memory_bytes,
        device=printable(capabilities.device, MAX_WORD),
        machine=printable(capabilities.machine, MAX_WORD),
        python=printable(capabilities.python, MAX_WORD),
        torch=printable(capabilities.torch, MAX_WORD),
    )


def _shared(tensors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    try:
        return tensors[PARAMS], tensors[INTEGERS]
    except KeyError as error:
        raise ProtocolError(f"a broadcast has no tensor {error}") from error
