"""The border to user code: whatever it raises becomes a `ClientFailure` that names its line.

A client's data, model, loss and metrics are somebody else's code. This is the one place where any
exception from it is caught, and so is the wish to exit: a client that fails does not end the run.
"""

import traceback
from collections.abc import Callable

from roundel.client.trainer import Tamper, Trainer
from roundel.core.clientstate import ClientState
from roundel.core.data import ClientData
from roundel.core.errors import RoundelError
from roundel.core.messages import (
    ClientFailure,
    ClientUpdate,
    EvaluateRequest,
    Evaluation,
    Ticket,
    TrainRequest,
)
from roundel.core.usercode import one_line, user_line

DataOf = Callable[[int], ClientData]

ON_PURPOSE = "it failed on purpose (faults.fail)"

_LINE = 2_000
_TRACEBACK = 100_000


def attempt_training(
    trainer: Trainer,
    request: TrainRequest,
    data_of: DataOf,
    state: ClientState,
    tamper: Tamper | None = None,
) -> tuple[ClientUpdate | ClientFailure, ClientState]:
    """Train one client; return its update and next state, or its failure and the state it had.

    Args:
        trainer: Trains it.
        request: What the server sent.
        data_of: Reads a client's data.
        state: Its state as of its last committed round.
        tamper: What the client does to its update before it sends it, if it attacks.
    """
    if trainer.fails(request.ticket):
        return ClientFailure(ticket=request.ticket, stage="train", error=ON_PURPOSE), state
    stage = "data"
    try:
        examples = data_of(request.ticket.client_id).train
        stage = "train"
        return trainer.train(request, examples, state, tamper)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - user code may raise anything
        return failure_of(error, request.ticket, stage), state


def attempt_evaluation(
    trainer: Trainer, request: EvaluateRequest, data_of: DataOf, state: ClientState
) -> Evaluation | ClientFailure:
    """Evaluate one client; return its figures or its failure."""
    stage = "data"
    try:
        data = data_of(request.ticket.client_id)
        stage = "evaluate"
        examples = {"train": data.train, "validation": data.validation}.get(
            request.split, data.test
        )
        return trainer.evaluate(request, examples, state, own=data.train)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - user code may raise anything
        return failure_of(error, request.ticket, stage)


def failure_of(error: BaseException, ticket: Ticket, stage: str) -> ClientFailure:
    """Describe an exception from user code, in text that can be written down and sent.

    An error of Roundel's own is a sentence that says everything: it needs no line and no traceback.
    """
    if isinstance(error, RoundelError):
        return ClientFailure(ticket=ticket, stage=stage, error=_printable(str(error), _LINE))
    return ClientFailure(
        ticket=ticket,
        stage=stage,
        error=_printable(_message(error), _LINE),
        location=_printable(user_line(error), _LINE),
        traceback=_printable("".join(traceback.format_exception(error)), _TRACEBACK),
    )


def _message(error: BaseException) -> str:
    try:
        return one_line(error)
    except Exception:  # noqa: BLE001 - an exception's own __str__ may raise anything, too
        return f"{type(error).__name__}: (its message cannot be read)"


def _printable(text: str, limit: int) -> str:
    """Return text that UTF-8 can hold, without its middle if it is long."""
    text = text.encode(errors="backslashreplace").decode()
    half = limit // 2
    return text if len(text) <= limit else f"{text[:half]} ... {text[-half:]}"
