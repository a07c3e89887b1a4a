"""Messages of a ServerApp over nodes: sent out, waited for, and answered once it is durable."""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from queue import Empty

from roundel.core.errors import RunDirectoryError
from roundel.core.wire import roundel_pb2 as pb
from roundel.server.arrivals import Arrival, Hosting, is_late
from roundel.server.grpc_coordinator import Coordinator, Progress
from roundel.server.round import Outcome
from roundel.simulations.flowerapps.parcels import Answer, Task
from roundel.simulations.flowerapps.served.carrying import Carried, Due, Manner
from roundel.simulations.flowerapps.served.replies import Record, digests_of

_TICK_S = 0.5


@dataclass(eq=False)
class _Question:
    """Messages that a thread of the app waits for together.

    Attributes:
        tasks: The messages.
        until_s: When nobody waits any more; None for as long as it takes.
        alone: Whether the app asks them from its own thread, so that there are no others.
        answers: What came.
        error: What went wrong.
        over: Whether one or the other is there.
    """

    tasks: Sequence[Task]
    until_s: float | None
    alone: bool
    answers: Sequence[Answer] = ()
    error: BaseException | None = None
    over: bool = False


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
            RunDirectoryError: What came cannot be kept.
            RunFailed: The app asks something else than before it was interrupted.
        """
        until_s = None if timeout_s is None else self._manner.clock() + timeout_s
        alone = threading.current_thread() is self._thread
        question = _Question(tasks, until_s, alone)
        with self._lock:
            self._waiting.append(question)
        while not question.over:
            with self._turn:
                if not question.over:
                    self._answer_next()
        if question.error is not None:
            raise question.error
        return list(question.answers)

    def check(self) -> None:
        """Raise what went wrong, which an app may have caught; and refuse one that has left off.

        Raises:
            RoundelError: Something did, or not all was asked that had been asked before.
        """
        self._check_sound()
        self._record.check_heard()

    def _check_sound(self) -> None:
        if self._error is not None:
            raise self._error

    def _answer_next(self) -> None:
        """Answer what waits: all of it that goes to different clients."""
        with self._lock:
            questions = _apart(self._waiting)
            self._waiting = [each for each in self._waiting if each not in questions]
        try:
            self._check_sound()
            answers = self._answers(questions)
        except BaseException as error:
            self._error = error
            for question in questions:
                question.error, question.over = error, True
            raise
        for question in questions:
            question.answers = [answers[task.client] for task in question.tasks]
            question.over = True

    def _answers(self, questions: Sequence[_Question]) -> Mapping[int, Answer]:
        """Return the answers by client: those that are known, and those of the nodes."""
        tasks = [task for question in questions for task in question.tasks]
        digests = digests_of(tasks)
        answers: dict[int, Answer] = {}
        for task in tasks:
            known = self._record.answer(task, digests[task.client, task.number])
            if known is not None:
                answers[task.client] = known
        asked = [
            Due(task, question.until_s)
            for question in questions
            for task in question.tasks
            if task.client not in answers
        ]
        if not asked:
            return answers
        if any(question.alone for question in questions):
            self._record.check_heard()
        if not self._ready:
            self._manner.before()
            self._ready = True
        keys = [(due.task.client, due.task.number) for due in asked]
        return {**answers, **self._wave(asked, {key: digests[key] for key in keys})}

    def _wave(
        self, asked: Sequence[Due], digests: Mapping[tuple[int, int], str]
    ) -> Mapping[int, Answer]:
        """Send messages out, and wait until each was answered or given up; durable on return."""
        coordinator, record, manner = self._coordinator, self._record, self._manner
        before = record.open
        if before is not None and not before.digests.keys() & digests.keys():
            self._end(before.number, {})
        wave = record.begin(digests, manner.wall())
        carried = Carried(coordinator, wave, asked, manner, self._away_s)
        coordinator.progress = Progress(
            done=wave.number - 1,
            open_round=carried.status,
            unanswered=carried.errands.unanswered,
            objection_to=carried.objection_to,
        )
        carried.send()
        while carried.errands:
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
