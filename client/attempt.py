"""The border to user code: whatever it raises becomes a `ClientFailure` that names its line.

A client's data, model, loss and metrics are somebody else's code. This is the one place where any
exception from it is caught, and so is the wish to exit: a client that fails does not end the run.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter
from warnings import warn

import torch

from roundel.client.trainer import JudgeTogether, Tamper, Trainer
from roundel.core.clientstate import ClientState
from roundel.core.data import ClientData, Examples
from roundel.core.errors import RoundelError
from roundel.core.job import LocalJob, Trained
from roundel.core.messages import (
    ClientFailure,
    ClientUpdate,
    EvaluateRequest,
    Evaluation,
    Ticket,
    TrainRequest,
)
from roundel.core.usercode import one_line, own_traceback, user_line

DataOf = Callable[[int], ClientData]

Answer = tuple[ClientUpdate | ClientFailure, ClientState]
"""What a client sends, and the state that it keeps if that is accepted."""

TrainTogether = Callable[[Sequence[LocalJob]], Sequence[Trained]]
"""Does several jobs of one round; what comes of each is the same as if it were alone."""

ON_PURPOSE = "it failed on purpose (faults.fail)"

_LINE = 2_000
_TRACEBACK = 100_000


@dataclass(frozen=True, kw_only=True)
class Work:
    """What one client has to do.

    Attributes:
        request: What the server sent.
        state: Its state as of its last committed round.
        tamper: What the client does to its update before it sends it, if it attacks.
    """

    request: TrainRequest
    state: ClientState
    tamper: Tamper | None = None


def attempt_training(
    trainer: Trainer,
    request: TrainRequest,
    data_of: DataOf,
    state: ClientState,
    tamper: Tamper | None = None,
) -> Answer:
    """Train one client; return its update and next state, or its failure and the state it had.

    Args:
        trainer: Trains it.
        request: What the server sent.
        data_of: Reads a client's data.
        state: Its state as of its last committed round.
        tamper: What the client does to its update before it sends it, if it attacks.
    """
    if trainer.fails(request.ticket):
        return _failed_on_purpose(request.ticket), state
    stage = "data"
    try:
        examples = data_of(request.ticket.client_id).train
        stage = "train"
        return trainer.train(request, examples, state, tamper)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - user code may raise anything
        return failure_of(error, request.ticket, stage), state


def attempt_block(
    trainer: Trainer, works: Sequence[Work], data_of: DataOf, train: TrainTogether
) -> list[Answer]:
    """Train several clients of one round together; return their answers in the same order.

    If training them together raises anything but that memory is short, each is trained by itself,
    which finds out whose failure it is. If it is nobody's, a warning says that this was done.

    Args:
        trainer: Trains them.
        works: What there is to do.
        data_of: Reads a client's data.
        train: Does several jobs at once.

    Raises:
        OutOfMemoryError: Fewer at once may do.
    """
    answers: dict[int, Answer] = {}
    jobs: dict[int, LocalJob] = {}
    for place, work in enumerate(works):
        ticket = work.request.ticket
        if trainer.fails(ticket):
            answers[place] = _failed_on_purpose(ticket), work.state
            continue
        try:
            examples = data_of(ticket.client_id).train
            jobs[place] = trainer.job(work.request, examples, work.state)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - user code may raise anything
            _let_out_of_memory(error, works)
            answers[place] = failure_of(error, ticket, "data"), work.state
    began = perf_counter()
    places = [place for place, job in jobs.items() if len(job.examples)]
    together, broken = {}, None
    try:
        alike = [jobs[place] for place in places]
        results = train(alike)
        together = dict(
            zip(places, zip(results, trainer.deltas(alike, results), strict=True), strict=True)
        )
    except (Exception, SystemExit) as error:  # noqa: BLE001 - user code may raise anything
        _let_out_of_memory(error, works)
        broken = None if isinstance(error, torch.OutOfMemoryError) else error
    seconds = perf_counter() - began
    steps = sum(sum(trained.steps) for trained, _ in together.values())
    for place, job in jobs.items():
        work = works[place]
        try:
            if place in together:
                trained, delta = together.pop(place)  # so that it is dropped once it is answered
                share = seconds * sum(trained.steps) / max(1, steps)
            else:
                began = perf_counter()
                trained = trainer.trained(job, work.request.ticket)
                [delta] = trainer.deltas([job], [trained])
                share = perf_counter() - began
            answers[place] = trainer.answer(
                work.request, job, trained, delta, work.tamper, seconds=share
            )
        except (Exception, SystemExit) as error:  # noqa: BLE001 - user code may raise anything
            _let_out_of_memory(error, works)
            answers[place] = failure_of(error, work.request.ticket, "train"), work.state
            if place in places:
                broken = None
    if broken is not None:
        warn(
            f"{len(places)} clients could not be trained at once, although each can by itself "
            f"({one_line(broken)}): they were trained one after another",
            RuntimeWarning,
            stacklevel=1,
        )
    return [answers[place] for place in range(len(works))]


def attempt_evaluation(
    trainer: Trainer, request: EvaluateRequest, data_of: DataOf, state: ClientState
) -> Evaluation | ClientFailure:
    """Evaluate one client; return its figures or its failure."""
    stage = "data"
    try:
        data = data_of(request.ticket.client_id)
        stage = "evaluate"
        return trainer.evaluate(request, _asked_for(data, request), state, own=data.train)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - user code may raise anything
        return failure_of(error, request.ticket, stage)


def attempt_evaluations(
    trainer: Trainer, requests: Sequence[EvaluateRequest], data_of: DataOf, judge: JudgeTogether
) -> Sequence[Evaluation | ClientFailure]:
    """Evaluate several clients together; return what `attempt_evaluation` would, in their order.

    If that raises anything, each is evaluated by itself, which finds out whose failure it is.

    Args:
        trainer: Evaluates them; it must judge all alike.
        requests: What the server sent; the same parameters to all.
        data_of: Reads a client's data.
        judge: Judges several clients at once.
    """
    try:
        examples = [_asked_for(data_of(each.ticket.client_id), each) for each in requests]
        return trainer.evaluate_together(requests, examples, judge)
    except (Exception, SystemExit):  # noqa: BLE001 - of one of them, or of what they are together
        return [attempt_evaluation(trainer, request, data_of, {}) for request in requests]


def _asked_for(data: ClientData, request: EvaluateRequest) -> Examples:
    """Return the examples that a client is to be judged by."""
    return {"train": data.train, "validation": data.validation}.get(request.split, data.test)


def _let_out_of_memory(error: BaseException, works: Sequence[Work]) -> None:
    """Raise an error again that fewer clients at once may not meet."""
    if isinstance(error, torch.OutOfMemoryError) and len(works) > 1:
        raise error


def _failed_on_purpose(ticket: Ticket) -> ClientFailure:
    return ClientFailure(ticket=ticket, stage="train", error=ON_PURPOSE)


def failure_of(error: BaseException, ticket: Ticket, stage: str) -> ClientFailure:
    """Describe an exception from user code, in text that can be written down and sent.

    An error of Roundel's own is a sentence that says everything: it needs no line and no traceback.
    """
    if isinstance(error, RoundelError):
        return ClientFailure(ticket=ticket, stage=stage, error=writable(str(error), _LINE))
    return ClientFailure(
        ticket=ticket,
        stage=stage,
        error=writable(_message(error), _LINE),
        location=writable(user_line(error), _LINE),
        traceback=writable(own_traceback(error), _TRACEBACK),
    )


def _message(error: BaseException) -> str:
    try:
        return one_line(error)
    except Exception:  # noqa: BLE001 - an exception's own __str__ may raise anything, too
        return f"{type(error).__name__}: (its message cannot be read)"


def writable(text: str, limit: int) -> str:
    """Return text that UTF-8 can hold, without its middle if it is long."""
    text = text.encode(errors="backslashreplace").decode()
    half = limit // 2
    return text if len(text) <= limit else f"{text[:half]} ... {text[-half:]}"
