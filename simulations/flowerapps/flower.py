"""A ServerApp at work, and what of Flower is touched.

Flower promises `flwr.app`, `flwr.clientapp` and `flwr.serverapp`. `TOUCHED` lists what else is
used here and in the modules called ``flower_...`` of `roundel.simulations.flowerapps` and
`roundel.simulations.flowerstrategies`; a contract test says by name what is missing when a release
changes it. ``()`` in a name stands for an object of the class.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from math import inf
from typing import Any, TypeVar

from flwr.app import Array, ArrayRecord, Context, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.server import Server
from flwr.server import server as legacy
from flwr.server.client_manager import SimpleClientManager
from flwr.server.client_proxy import ClientProxy
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import Result
from flwr.supercore.task_identity import TaskIdentity

from roundel.core.seeds import derive, isolated_rng
from roundel.simulations.flowerapps.flower_records import faster_arrays, packed
from roundel.simulations.flowerapps.nodes import PATIENCE_S, Nodes, TooFewNodes
from roundel.simulations.flowerapps.parcels import Parcel

TOUCHED: Mapping[str, str] = {
    "flwr.common.constant:SUPERLINK_NODE_ID": "who sends the messages of a ServerApp",
    "flwr.common.constant:ErrorCode.CLIENT_APP_RAISED_EXCEPTION": "says that a client has raised",
    "flwr.common.constant:ErrorCode.CLIENT_APP_CRASHED": "says that a client's process has died",
    "flwr.common.constant:ErrorCode.NODE_UNAVAILABLE": "says that there is no such node",
    "flwr.supercore.task_identity:TaskIdentity": "names the sender of a new message",
    "flwr.supercore.task_identity:TaskIdentity._task_id": "is put back after a call of a strategy",
    "flwr.supercore.task_identity:TaskIdentity._run_id": "is put back after a call of a strategy",
    "flwr.supercore.task_identity:TaskIdentity._node_id": "is put back after a call of a strategy",
    "flwr.common.logger:FLOWER_LOGGER": "logs as 'flwr' what is kept from the terminal",
    "flwr.supercore.run:Run.create_empty": "is what a Grid says about its run",
    "flwr.app:Array.numpy": "reads arrays, and is replaced by what does that faster",
    "flwr.app:Array.from_numpy_ndarray": "writes arrays, and is replaced by what does that faster",
    "flwr.app:RecordDict.array_records": "is replaced by what does that faster",
    "flwr.app:RecordDict.metric_records": "is replaced by what does that faster",
    "flwr.app:RecordDict.config_records": "is replaced by what does that faster",
    "flwr.app.message.recorddict:_SyncedDict": "is what these are",
    "flwr.app.message.arrayrecord:gc.collect": "is called for each record, and is left out",
    "flwr.serverapp.strategy.strategy_utils:sleep": "waits for nodes that will not come",
    "flwr.app:RecordDict._data": "holds the values of a record",
    "flwr.app:ArrayRecord._data": "holds the values of a record",
    "flwr.app:MetricRecord._data": "holds the values of a record",
    "flwr.app:ConfigRecord._data": "holds the values of a record",
    "flwr.app:Array.__dict__": "holds dtype, shape, stype and data of an array, and nothing else",
    "flwr.app:Message(metadata)": "is how a message is made that was sent before",
    "flwr.app:Metadata()._message_id": "is what a message is called once it was sent",
    "flwr.serverapp.strategy:FedAvg().weighted_by_key": "names what an update counts",
    "flwr.serverapp.strategy:DifferentialPrivacyServerSideFixedClipping().strategy": (
        "is the strategy that another one wraps"
    ),
    "flwr.serverapp.strategy:Strategy.start": "is the order in which a strategy is called",
    "flwr.server.client_manager:SimpleClientManager.wait_for": "waits for nodes that never come",
    "flwr.server.client_proxy:ClientProxy().cid": "names whose a result of a server_fn is",
    "flwr.server:Server": "is the same class",
    "flwr.server.server:Server": "holds the final parameters of a server_fn",
    "flwr.server.server:fit_clients": "returns results of a server_fn in no order",
    "flwr.server.server:evaluate_clients": "returns results of a server_fn in no order",
}
"""What is used besides the promised modules, and what it does there."""

T = TypeVar("T")

_TASK_ID = 1

KINDS: Mapping[str, type] = {"serverapp": ServerApp, "clientapp": ClientApp}
"""What the parts of an app are."""


@dataclass(frozen=True, kw_only=True)
class Final:
    """What a ServerApp leaves behind.

    Attributes:
        arrays: The final ones; None if it shows none.
        source: Where they were found.
    """

    arrays: Parcel | None
    source: str


def identify(nodes: Nodes) -> None:
    """Tell Flower in which run this process takes part; it makes no message without."""
    TaskIdentity.run_id = nodes.run_id
    TaskIdentity.node_id = SUPERLINK_NODE_ID
    TaskIdentity.task_id = _TASK_ID


@contextmanager
def watched(
    nodes: Nodes, threads: int | None = None
) -> Iterator[Callable[[Grid, ServerApp], Final]]:
    """Yield what runs a ServerApp and finds its final arrays.

    The app is to be loaded within: it may make a strategy's server when it is imported. What it
    draws starts at the seed.

    Args:
        nodes: The federation.
        threads: How many messages an older ServerApp has on their way at once if it does not say;
            None for as many as Flower chooses, by the number of cores here.
    """
    identify(nodes)
    with ExitStack() as stack:
        stack.enter_context(isolated_rng(derive(nodes.seed, "flower server")))
        stack.enter_context(faster_arrays())
        results = stack.enter_context(_noted(Result))
        servers = stack.enter_context(_noted(Server))
        stack.enter_context(_impatient())
        for name in ("fit_clients", "evaluate_clients"):
            stack.enter_context(_in_order(name, threads))

        def run(grid: Grid, app: ServerApp) -> Final:
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
def _in_order(name: str, threads: int | None) -> Iterator[None]:
    """Let a function of older ServerApps return results in the order of the instructions.

    It gathers them from a set, whose order depends on addresses in memory, and a sum on the order.

    Args:
        name: Of the function.
        threads: How many instructions are on their way at once if the app does not say.
    """
    before = getattr(legacy, name)

    def ordered(
        client_instructions: Sequence[tuple[ClientProxy, object]],
        max_workers: int | None,
        *args: object,
        **kwargs: object,
    ) -> tuple[Sequence[tuple[ClientProxy, object]], object]:
        places = {proxy.cid: place for place, (proxy, _) in enumerate(client_instructions)}
        workers = threads if max_workers is None else max_workers
        results, failures = before(client_instructions, workers, *args, **kwargs)
        return sorted(results, key=lambda result: places[result[0].cid]), failures

    setattr(legacy, name, ordered)
    try:
        yield
    finally:
        setattr(legacy, name, before)


@contextmanager
def _impatient() -> Iterator[None]:
    """Let older ServerApps wait for a while for nodes, and not for a day."""
    managers: Any = SimpleClientManager  # else a type checker takes what follows for a definition
    before = managers.wait_for

    def wait_for(self: SimpleClientManager, num_clients: int, timeout: float = inf) -> bool:
        come: bool = before(self, num_clients, min(timeout, PATIENCE_S))
        if not come and timeout > PATIENCE_S:
            raise TooFewNodes(len(self))
        return come

    managers.wait_for = wait_for
    try:
        yield
    finally:
        managers.wait_for = before


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
