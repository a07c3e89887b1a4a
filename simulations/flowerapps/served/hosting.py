"""A node that hosts clients of a Flower app."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from roundel.client.attempt import failure_of, writable
from roundel.client.grpc_node import Prepare
from roundel.client.journal import Journal
from roundel.client.node import HostedClients
from roundel.core.clientstate import ClientState
from roundel.core.errors import ProtocolError
from roundel.core.flowerversion import installed
from roundel.core.messages import (
    ClientFailure,
    ClientUpdate,
    EvaluateRequest,
    Evaluation,
    Ticket,
    TrainRequest,
)
from roundel.simulations.flowerapps.flower import KINDS, identify
from roundel.simulations.flowerapps.flower_clients import client_work
from roundel.simulations.flowerapps.flower_records import faster_arrays
from roundel.simulations.flowerapps.loading import loaded
from roundel.simulations.flowerapps.nodes import Nodes
from roundel.simulations.flowerapps.parcels import Fields, Parcel, Task, Trouble
from roundel.simulations.flowerapps.project import RunConfig, read_project
from roundel.simulations.flowerapps.served.copies import app_fingerprint
from roundel.simulations.flowerapps.served.terms import app_terms, check_app, check_settings
from roundel.simulations.flowerapps.served.wired import (
    Tensors,
    parcel_of,
    reply_tensors,
    request_of,
    tensors_of,
)
from roundel.simulations.flowerapps.workers import Work

_LONGEST_LINE, _LONGEST_TRACEBACK = 2_000, 100_000


@dataclass(frozen=True, kw_only=True)
class Copy:
    """What a node brings to the run of an app.

    Attributes:
        app: The directory of its copy.
        address: Of the coordinator, for error messages.
        index: Which share of the clients it hosts, from 1.
        count: Of how many.
        node_config: What it says about itself besides.
    """

    app: Path
    address: str
    index: int = 1
    count: int = 1
    node_config: RunConfig


@contextmanager
def hosting(copy: Copy) -> Iterator[Prepare]:
    """Yield what makes the clients of a node; the app stays imported until others are made.

    It raises `AppError` if the app is broken, and `ConfigError` if the coordinator does not run
    one, or has settings that this copy has not.
    """
    with faster_arrays(), ExitStack() as imported:

        def prepare(text: str, journal: Journal) -> HostedClients:
            terms = app_terms(text)
            check_app(terms, copy.app, copy.address)
            assert terms is not None  # noqa: S101 - it was checked
            own = read_project(copy.app)
            check_settings(terms, own.config, copy.app)
            project = replace(own, config=terms.config)
            nodes = Nodes.of(terms.seed, terms.config, terms.clients)
            identify(nodes)
            imported.close()  # what is on the disk by now is what is said to run
            apps = imported.enter_context(loaded(project, {"clientapp": KINDS["clientapp"]}))
            return AppClients(
                nodes,
                range(copy.index - 1, terms.clients, copy.count),
                app_fingerprint(project, installed()),
                terms.reply_limit,
                client_work(apps.client, nodes, copy.node_config),
                journal.state,
            )

        yield prepare


class AppClients:
    """Clients of an app: a request is a message, an update is the reply.

    What a client keeps in ``context.state`` is its state, which counts once the reply does. The
    number of the message, which a request for training has as the version that it starts from, and
    the seed say all of its metadata that differ from client to client.

    Attributes:
        client_ids: Which clients they are.
        population: How many the run has.
        fingerprint: Of the app.
        own_data: That the coordinator need not say which client it is.
        stateful: That clients keep something.
    """

    own_data = False
    stateful = True

    def __init__(
        self,
        nodes: Nodes,
        client_ids: Sequence[int],
        fingerprint: str,
        reply_limit: int,
        work: Work,
        state_of: Callable[[int], ClientState],
    ) -> None:
        """Host clients.

        Args:
            nodes: The federation.
            client_ids: Which of its clients these are.
            fingerprint: Of the app.
            reply_limit: How many bytes a reply may have.
            work: Answers a message.
            state_of: A client's state as of the last reply that counted.
        """
        self.client_ids = client_ids
        self.population = len(nodes.ids)
        self.fingerprint = fingerprint
        self._nodes = nodes
        self._limit = reply_limit
        self._work = work
        self._state_of = state_of

    def train(self, request: TrainRequest) -> tuple[ClientUpdate | ClientFailure, ClientState]:
        """Answer a message; return the reply and what the client keeps if that counts."""
        ticket = request.ticket
        before = self._state_of(ticket.client_id)
        try:
            return self._answered(request, before)
        except ProtocolError as error:  # in the message, the reply or the state
            return failure_of(error, ticket, "train"), before

    def _answered(
        self, request: TrainRequest, before: ClientState
    ) -> tuple[ClientUpdate | ClientFailure, ClientState]:
        ticket = request.ticket
        answer = self._work(self._task(request, before))
        trouble = answer.trouble
        if trouble is not None and trouble.traceback:
            return _failure(ticket, trouble), before
        channels = self._checked(reply_tensors(answer))
        state = _state_tensors(answer.state)
        update = ClientUpdate(
            ticket=ticket,
            base_version=request.base_version,
            num_examples=0,
            num_steps=0,
            channels=channels,
            seconds=answer.seconds,
        )
        return update, state

    def evaluate(self, request: EvaluateRequest) -> Evaluation | ClientFailure:
        """Say that a coordinator asks for evaluations by messages of their own."""
        why = "a Flower app is evaluated by its own messages"
        return ClientFailure(ticket=request.ticket, stage="evaluate", error=why)

    def _checked(self, channels: Tensors) -> Tensors:
        size = sum(tensor.nbytes for tensor in channels.values())
        if size > self._limit:
            raise ProtocolError(
                f"its reply has {size} bytes, more than the {self._limit} that the coordinator "
                "takes; serve with a larger --reply-limit"
            )
        return channels

    def _task(self, request: TrainRequest, state: ClientState) -> Task:
        client, number = request.ticket.client_id, request.base_version
        content, metadata = request_of(request.channels)
        own: Fields = {
            "message_id": self._nodes.message_id(number, client),
            "dst_node_id": self._nodes.ids[client],
        }
        return Task(
            client=client,
            number=number,
            metadata={**metadata, **own},
            content=content,
            state=_state_parcel(state),
        )


def _state_tensors(state: Parcel) -> ClientState:
    """Return what a client keeps; what could not be read again, it hears of here.

    Raises:
        ProtocolError: It cannot be kept.
    """
    if not state.records:
        return {}
    try:
        tensors = tensors_of(state)
        parcel_of(tensors)
    except ProtocolError as error:
        raise ProtocolError(f"what it keeps in context.state cannot be kept: {error}") from error
    return tensors


def _state_parcel(state: ClientState) -> Parcel:
    return parcel_of(state)[0] if state else Parcel()


def _failure(ticket: Ticket, trouble: Trouble) -> ClientFailure:
    return ClientFailure(
        ticket=ticket,
        stage="train",
        error=writable(trouble.reason, _LONGEST_LINE),
        location=writable(trouble.location, _LONGEST_LINE),
        traceback=writable(trouble.traceback, _LONGEST_TRACEBACK),
    )
