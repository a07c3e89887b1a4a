"""Messages of a ServerApp over nodes: sent out, waited for, and answered once it is durable."""

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from queue import Empty

from roundel.core.errors import ProtocolError, RunDirectoryError, RunFailed
from roundel.core.wire import roundel_pb2 as pb
from roundel.server.arrivals import Arrival, Hosting, is_late
from roundel.server.grpc_coordinator import Coordinator, Progress
from roundel.server.round import Outcome
from roundel.simulations.flowerapps.parcels import Answer, Task
from roundel.simulations.flowerapps.project import AppError
from roundel.simulations.flowerapps.served.carrying import Carried, Due, Manner
from roundel.simulations.flowerapps.served.offering import check_sendable
from roundel.simulations.flowerapps.served.replies import Key, Record, digests_of

_TICK_S = 0.5
_PAUSE_S = 0.01
"""How long it takes a thread of an app to come with a message after another one has, at most."""


@dataclass(eq=False)
class _Question:
    """Messages that a thread of the app waits for together.

    Attributes:
        tasks: The messages.
        timeout_s: How long they are waited for, once they are sent; None for as long as it takes.
        alone: Whether the app asks them from its own thread, so that there are no others.
        answers: What came.
        error: What went wrong.
        over: Whether one or the other is there.
    """

    tasks: Sequence[Task]
    timeout_s: float | None
    alone: bool
    answers: Sequence[Answer] = ()
    error: BaseException | None = None
    over: bool = False

    @property
    def keys(self) -> list[Key]:
        """Which messages they are."""
        return [(task.client, task.number) for task in self.tasks]


class RemoteAsk:
    """Has messages answered by the nodes of a federation; several threads may call it.

    One wave is open at a time. What threads ask meanwhile goes into the next one, together.
    """

    def __init__(self, coordinator: Coordinator, record: Record, manner: Manner) -> None:
        """Take over a coordinator's traffic.

        Args:
            coordinator: Running.
            record: Of what was answered before.
            manner: How nodes are waited for.
        """
        self._coordinator, self._record, self._manner = coordinator, record, manner
        self._thread = threading.current_thread()
        self._waiting: list[_Question] = []
        self._lock = threading.Lock()
        self._turn = threading.Lock()
        self._ready = False
        self._away_s: dict[int, float] = {}
        self._error: BaseException | None = None
        self._coordinator.progress = Progress(done=record.last, objection_to=is_late)

    def __call__(self, tasks: Sequence[Task], timeout_s: float | None = None, /) -> list[Answer]:
        """Return the answers to messages, each to another client, in their order.

        Raises:
            ValueError: A message is one that nodes refuse.
            AppError: The same, in a thread of the app's, which may tell nobody: so the run ends.
            RunDirectoryError: What came cannot be kept.
            RunFailed: The app asks something else than before it was interrupted.
        """
        alone = threading.current_thread() is self._thread
        try:
            check_sendable(tasks)
        except ProtocolError as error:
            if alone:  # it is the app's own line that has called
                raise ValueError(str(error)) from error
            self._error = self._error or AppError(str(error))
            raise self._error from error
        question = _Question(tasks, timeout_s, alone)
        with self._lock:
            self._waiting.append(question)
        while not question.over:
            with self._turn:
                if not question.over:
                    if not alone:
                        self._gather()
                    self._answer_next()
        if question.error is not None:
            raise question.error
        return list(question.answers)

    def stop(self) -> None:
        """Let nobody wait any more, in whatever thread: the run is interrupted."""
        self._error = self._error or RunFailed("the run was interrupted; resume it")

    def check(self) -> None:
        """Raise what went wrong, which an app may have caught; and refuse one that has left off.

        Raises:
            RoundelError: Something did, or not all was asked that had been asked before.
        """
        self.check_sound()
        self._record.check_heard()

    def check_sound(self) -> None:
        """Raise what went wrong beneath the app, if anything did.

        Raises:
            RoundelError: Something did.
        """
        if self._error is not None:
            raise self._error

    def _answer_next(self) -> None:
        """Answer what waits: all of it that goes to different clients."""
        with self._lock:
            questions = self._together()
            self._waiting = [each for each in self._waiting if each not in questions]
        try:
            self.check_sound()
            answers = self._answers(questions)
        except BaseException as error:
            self._error = error
            for question in questions:
                question.error, question.over = error, True
            raise
        for question in questions:
            question.answers = [answers[task.client] for task in question.tasks]
            question.over = True

    def _gather(self) -> None:
        """Let other threads of the app ask, too, as long as more of them come.

        What goes out alone keeps all others waiting until it is answered.
        """
        before = 0
        while before < (count := len(self._waiting)):
            before = count
            time.sleep(_PAUSE_S)

    def _together(self) -> Sequence[_Question]:
        """Return which of those that wait are answered next; a wave that is open goes on first."""
        apart = _apart(self._waiting)
        fitting = [each for each in apart if self._record.fits(each.keys)]
        going_on = self._record.goes_on([key for each in fitting for key in each.keys])
        return fitting if going_on else apart

    def _answers(self, questions: Sequence[_Question]) -> Mapping[int, Answer]:
        """Return the answers by client: those that are known, and those of the nodes."""
        tasks = [task for question in questions for task in question.tasks]
        digests = digests_of(tasks)
        answers: dict[int, Answer] = {}
        for task in tasks:
            known = self._record.answer(task, digests[task.client, task.number])
            if known is not None:
                answers[task.client] = known
        if answers.keys() == {task.client for task in tasks}:
            return answers
        if any(question.alone for question in questions):
            self._record.check_heard()
        if not self._ready:
            self._manner.before()
            self._ready = True
        now_s = self._manner.clock()
        asked = [
            Due(task, None if question.timeout_s is None else now_s + question.timeout_s)
            for question in questions
            for task in question.tasks
            if task.client not in answers
        ]
        keys = [(due.task.client, due.task.number) for due in asked]
        return {**answers, **self._wave(asked, {key: digests[key] for key in keys})}

    def _wave(
        self, asked: Sequence[Due], digests: Mapping[tuple[int, int], str]
    ) -> Mapping[int, Answer]:
        """Send messages out, and wait until each was answered or given up; durable on return."""
        coordinator, record, manner = self._coordinator, self._record, self._manner
        before = record.open
        if before is not None and not record.goes_on(digests):
            self._end(before.number, {})
        wave = record.begin(digests, manner.wall())
        carried = Carried(coordinator, record, wave, asked, manner, self._away_s)
        coordinator.progress = Progress(
            done=wave.number - 1,
            open_round=carried.status,
            unanswered=carried.errands.unanswered,
            objection_to=carried.objection_to,
        )
        carried.send()
        while carried.errands:
            self.check_sound()
            carried.look_around(manner.clock())
            if carried.errands and (incoming := self._next()):
                carried.take(incoming)
        coordinator.nodes.withdraw(lambda work: work.HasField("train"))
        coordinator.payloads.clear()
        self._end(wave.number, carried.outcomes)
        return carried.answers

    def _end(self, number: int, outcomes: Mapping[int, Outcome]) -> None:
        """Write down what became of a wave, and tell the nodes which states count."""
        accepted = self._record.end(number, outcomes)
        self._coordinator.progress = Progress(done=number, objection_to=is_late)
        self._coordinator.nodes.send_by_node(
            accepted, lambda mine: pb.Work(commit=pb.Commit(round=number, client_ids=mine))
        )

    def _next(self) -> Arrival | Hosting | None:
        """Wait a moment for something to come in.

        Raises:
            RunDirectoryError: What came could not be kept.
        """
        try:
            incoming = self._coordinator.arrivals.get(timeout=_TICK_S)
        except Empty:
            return None
        if isinstance(incoming, RunDirectoryError):
            raise incoming
        return incoming


def _apart(questions: Sequence[_Question]) -> list[_Question]:
    """Return the first questions, up to one that goes to a client of those before it."""
    taken: set[int] = set()
    found: list[_Question] = []
    for question in questions:
        clients = {task.client for task in question.tasks}
        if taken & clients:
            break
        taken |= clients
        found.append(question)
    return found
