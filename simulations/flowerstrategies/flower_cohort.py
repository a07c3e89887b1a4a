"""What a strategy of Flower's sees of the world here, and what surrounds a call of it."""

import logging
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn

from flwr.app import Message, RecordDict
from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.serverapp import Grid
from flwr.serverapp.strategy import strategy_utils
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from roundel.core.errors import CompositionError, RunFailed
from roundel.core.seeds import isolated_rng
from roundel.simulations.flowerapps.flower_records import faster_arrays
from roundel.simulations.flowerapps.nodes import node_id

_RUN_ID = 1
_MOST_LOOKS = 20
"""How often a strategy may look who is there before it is said to wait for more."""


@dataclass(frozen=True, kw_only=True)
class Cohort:
    """A cohort as Flower sees it: nodes.

    Attributes:
        ids: Client to the id of its node, in the order of client numbers.
    """

    ids: Mapping[int, int]

    @classmethod
    def of(cls, cohort: Iterable[int]) -> "Cohort":
        """Return the nodes of a cohort: the same ids in every round and every run."""
        return cls(ids={k: node_id(0, k) for k in sorted(cohort)})


class CohortGrid(Grid):
    """A Grid that shows who is there, and carries nothing.

    Args:
        name: What the strategy is called.
        nodes: The cohort.
    """

    def __init__(self, name: str, nodes: Cohort) -> None:
        self._name, self._nodes, self._looks = name, nodes, 0

    def set_run(self, run: Run) -> None:
        """Refuse, as there is none."""
        self._refuse()

    @property
    def run(self) -> Run:
        """Nothing but a number."""
        return Run.create_empty(_RUN_ID)

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Make a message, as strategies of the older kind do."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """Return all of the cohort, unless it looks as if more were waited for."""
        self._looks += 1
        if self._looks > _MOST_LOOKS:
            raise Waits(self._name, len(self._nodes.ids))
        return list(self._nodes.ids.values())

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Refuse to carry anything."""
        self._refuse()

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Refuse to carry anything."""
        self._refuse()

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Refuse to carry anything."""
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise RunFailed(
            f"{self._name} sends messages by itself, and here clients are only asked to train; "
            "run it in a Flower app with `roundel flower run`"
        )


class Waits(CompositionError):
    """A strategy waits for nodes that will never come."""

    def __init__(self, name: str, nodes: int) -> None:
        super().__init__(
            f"{name} waits for more than the {nodes} clients of a cohort; lower its "
            "min_available_nodes or min_train_nodes, or raise cohort.size"
        )


@contextmanager
def surrounded(name: str, seed: int, nodes: int) -> Iterator[list[str]]:
    """Call a strategy of Flower's within this: nothing sleeps, is logged, or is left behind.

    Args:
        name: What it is called.
        seed: What Python's, NumPy's and torch's global generators start at.
        nodes: How many it can see.

    Yields:
        A list that fills with the warnings that it logs.
    """
    with ExitStack() as stack:
        stack.enter_context(isolated_rng(seed))
        stack.enter_context(faster_arrays())
        stack.enter_context(_identity())
        stack.enter_context(_awake(name, nodes))
        yield stack.enter_context(_heard())


@contextmanager
def _identity() -> Iterator[None]:
    """Let messages be made, which want to know who makes them; a ServerApp knows it anyway."""
    before = {key: vars(TaskIdentity)[key] for key in ("_task_id", "_run_id", "_node_id")}
    if None in before.values():
        TaskIdentity.task_id = TaskIdentity.run_id = _RUN_ID
        TaskIdentity.node_id = SUPERLINK_NODE_ID
    try:
        yield
    finally:
        for key, value in before.items():
            setattr(TaskIdentity, key, value)


@contextmanager
def _awake(name: str, nodes: int) -> Iterator[None]:
    """Let nothing of Flower's sleep until more nodes are there: all that will come are there."""
    module: Any = strategy_utils
    before, thread = module.sleep, threading.get_ident()

    def sleep(seconds: float) -> None:
        if threading.get_ident() == thread:
            raise Waits(name, nodes)
        before(seconds)

    module.sleep = sleep
    try:
        yield
    finally:
        module.sleep = before


@contextmanager
def _heard() -> Iterator[list[str]]:
    """Keep what this thread logs from the terminal, and the warnings among it."""
    warnings: list[str] = []
    thread = threading.get_ident()

    def others(record: logging.LogRecord) -> bool:
        if record.thread == thread and record.levelno >= logging.WARNING:
            warnings.append(" ".join(record.getMessage().split()))
        return record.thread != thread

    logger = logging.getLogger("flwr")
    logger.addFilter(others)
    try:
        yield warnings
    finally:
        logger.removeFilter(others)
