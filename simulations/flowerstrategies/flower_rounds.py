"""One round of a strategy of Flower's: the cohort as its nodes, updates as their replies.

What a strategy knows of the world is a Grid whose nodes are the cohort, and nobody else. They have
trained by then: it is asked whom it would have sent the model, and gets the replies of those.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from flwr.common.constant import ErrorCode
from flwr.serverapp.strategy import Strategy
from numpy.typing import NDArray
from torch import Tensor

from roundel.core.errors import CompositionError, RunFailed
from roundel.core.messages import BUFFERS, INTEGERS, PARAMS
from roundel.core.params import Entry, ParamSpec
from roundel.simulations.flowerapps.flower_records import filled
from roundel.simulations.flowerstrategies.flower_cohort import Cohort, CohortGrid, surrounded
from roundel.strategies.sites import Aggregate, RoundContext, Sent, Told

PULL = "proximal-mu"
"""The setting by which Flower's FedProx tells clients how strongly to stay near the model."""

ROUND = "server-round"
EXAMPLES = "num-examples"

_METRICS = "metrics"


@dataclass(frozen=True, kw_only=True)
class Played:
    """How a strategy is asked.

    Attributes:
        name: What it is called.
        mu: How strongly clients are pulled to the model, as it said before the first round.
    """

    name: str
    mu: float

    def asked(
        self, strategy: Strategy, round: int, arrays: ArrayRecord, nodes: Cohort
    ) -> dict[int, Message]:
        """Return what a strategy would send, by node.

        Args:
            strategy: The strategy.
            round: The round, from 1.
            arrays: The model.
            nodes: The cohort.

        Raises:
            Waits: It waits for more nodes.
            RunFailed: Our clients cannot be asked in this way.
        """
        model = dict(arrays.items())
        grid, there = CohortGrid(self.name, nodes), set(nodes.ids.values())
        found: dict[int, Message] = {}
        checked: RecordDict | None = None
        for message in _messages(strategy.configure_train(round, arrays, ConfigRecord(), grid)):
            node = message.metadata.dst_node_id
            if node not in there or node in found:
                what = "twice" if node in found else "which is not in the cohort"
                raise RunFailed(
                    f"{self.name} asks the node {node} in round {round}, {what}; ask each of those "
                    "that grid.get_node_ids() returns at most once"
                )
            if not message.metadata.message_type.startswith("train"):
                raise RunFailed(
                    f"{self.name} asks for {message.metadata.message_type!r} in round {round}, and "
                    "here clients only train; leave it out"
                )
            if message.content is not checked:  # all have the same one, as a rule
                self._check(message.content, round, model)
                checked = message.content
            vars(message.metadata)["_message_id"] = f"{round}-{node}"
            found[node] = message
        return found

    def _check(self, content: RecordDict, round: int, model: Mapping[str, Array]) -> None:
        """Refuse what our clients would not do as they are told.

        Raises:
            RunFailed: They would not.
        """
        records = list(content.array_records.values())
        if len(records) != 1 or not _same(records[0], model):
            raise RunFailed(
                f"{self.name} sends other arrays than the model in round {round}, and clients "
                "start from the model here; run it in a Flower app with `roundel flower run`"
            )
        said = {k: v for config in content.config_records.values() for k, v in config.items()}
        if said.get(PULL, 0.0) != self.mu:
            raise RunFailed(self.untold(PULL, said.get(PULL)))
        for key in said.keys() - {ROUND, PULL}:
            raise RunFailed(self.untold(key, said[key]))

    def untold(self, key: str, value: object) -> str:
        """Say that clients would not know a setting."""
        if key == PULL:
            return (
                f"{self.name} tells clients {PULL} = {value!r}, and told them {self.mu!r} when it "
                "was asked without a model, before round 1: it must be the same whenever it is "
                "asked"
            )
        return (
            f"{self.name} tells clients {key} = {value!r}, and here they train as the experiment "
            f"says and know no such setting; leave it out, or run it in a Flower app with `roundel "
            "flower run`"
        )

    def step(
        self, strategy: Strategy, updates: Aggregate, context: RoundContext
    ) -> dict[str, Tensor]:
        """Let a strategy make the next model of a round's updates.

        Args:
            strategy: The strategy; what it remembers changes.
            updates: By channel, each update in a row, in the order of client numbers.
            context: The round's.

        Returns:
            By channel, by how much floats move, and what integers become.

        Raises:
            RunFailed: It makes none, or none that fits.
        """
        sent = known(context)
        nodes = Cohort.of(context.cohort)
        with surrounded(self.name, context.seed, len(nodes.ids)) as warnings:
            asked = self.asked(strategy, context.round, model_of(sent), nodes)
            replies = _replies(strategy, nodes, asked, updates, context)
            found: Any = strategy.aggregate_train(context.round, replies)
            made = found[0] if isinstance(found, tuple) and len(found) == 2 else found  # noqa: PLR2004 - arrays and metrics
            if not isinstance(made, ArrayRecord):
                said = f": {warnings[-1].rstrip('.')}" if warnings else ""
                what = "no arrays" if made is None else f"a {type(made).__name__} and no arrays"
                raise RunFailed(
                    f"{self.name} made {what} of the {len(replies)} replies of round "
                    f"{context.round}{said}; without arrays there is no next round"
                )
            return self._moved(made, sent, context.round)

    def _moved(self, made: ArrayRecord, sent: Sent, round: int) -> dict[str, Tensor]:
        spec = sent.spec
        entries = (*_floats(spec), *_integers(spec))
        names = [entry.name for entry in entries]
        if made.keys() != set(names):
            raise RunFailed(
                f"{self.name} returned the arrays {sorted(made)} in round {round}, and the model "
                f"has {sorted(names)}; return one of each name"
            )
        arrays = [self._checked(made[entry.name].numpy(), entry, round) for entry in entries]
        floats, integers = arrays[: len(_floats(spec))], arrays[len(_floats(spec)) :]
        vector = torch.from_numpy(np.concatenate([array.astype(np.float64) for array in floats]))
        delta = (vector - sent.params.double()).to(spec.dtype)
        moved = {BUFFERS: delta[spec.shared_buffers], PARAMS: delta[spec.shared_trainable]}
        if integers:
            whole = np.concatenate([array.astype(np.int64) for array in integers])
            moved[INTEGERS] = torch.from_numpy(whole)
        return moved

    def _checked(self, array: NDArray[Any], entry: Entry, round: int) -> NDArray[Any]:
        if array.shape != entry.shape:
            raise RunFailed(
                f"{self.name} returned {entry.name!r} of shape {array.shape} in round {round}, and "
                f"in the model it has {entry.shape}"
            )
        if array.dtype.kind not in "biuf" or not np.isfinite(array).all():
            raise RunFailed(
                f"{self.name} returned {entry.name!r} in round {round} with something that is no "
                "finite number"
            )
        return array.reshape(-1)


def known(context: RoundContext) -> Sent:
    """Return what the cohort was sent, which every server of ours knows."""
    if context.sent is None:
        raise CompositionError("a strategy of Flower's must know the model that clients were sent")
    return context.sent


def model_of(sent: Sent) -> ArrayRecord:
    """Return the model as Flower knows it: an array for each tensor, under its name."""
    floats, integers = sent.params.numpy(), sent.integers.numpy()
    return _record(sent.spec, floats, integers)


def _record(spec: ParamSpec, floats: NDArray[Any], integers: NDArray[Any]) -> ArrayRecord:
    """Return vectors as arrays by name; nothing that is done to these changes the vectors."""
    found: dict[str, Array] = {}
    for entries, vector in ((_floats(spec), floats), (_integers(spec), integers)):
        start = 0
        for entry in entries:
            piece = vector[start : start + entry.numel].reshape(entry.shape)
            found[entry.name] = Array.from_numpy_ndarray(piece)
            start += entry.numel
    return filled(ArrayRecord(), found)


def _floats(spec: ParamSpec) -> Sequence[Entry]:
    return [entry for entry in spec.entries if not entry.personal]


def _integers(spec: ParamSpec) -> Sequence[Entry]:
    return [entry for entry in spec.integers if not entry.personal]


def _same(record: ArrayRecord, model: Mapping[str, Array]) -> bool:
    """Tell whether a record holds the model, bit for bit."""
    if record.keys() != model.keys():
        return False
    pairs = ((record[name], array) for name, array in model.items())
    return all(one is other or one == other for one, other in pairs)


def _replies(
    strategy: Strategy,
    nodes: Cohort,
    asked: Mapping[int, Message],
    updates: Aggregate,
    context: RoundContext,
) -> list[Message]:
    """Return a reply for each message, in the order of client numbers."""
    sent, told = known(context), context.told
    rows = {client: row for row, client in enumerate(sorted(told))}
    trained, integers = _trained(updates, sent), updates.get(INTEGERS)
    figures = _figures(told, _weight_key(strategy))
    replies: list[Message] = []
    for client, node in nodes.ids.items():
        if node not in asked:
            continue
        if client not in told:
            error = Error(ErrorCode.NODE_UNAVAILABLE, "it sent no update that counts")
            replies.append(Message(error, reply_to=asked[node]))
            continue
        row = rows[client]
        counters = sent.integers if integers is None else integers[row]
        name = _name_of_arrays(asked[node].content)
        records = {
            name: _record(sent.spec, trained[row], counters.numpy()),
            _METRICS: figures[client],
        }
        replies.append(Message(filled(RecordDict(), records), reply_to=asked[node]))
    return replies


def _name_of_arrays(content: RecordDict) -> str:
    return next(name for name, record in content.items() if isinstance(record, ArrayRecord))


def _messages(found: object) -> Iterator[Message]:
    """Yield what a strategy wants to send.

    Raises:
        TypeError: It is something else.
    """
    for message in found if isinstance(found, Iterable) else [found]:
        if not isinstance(message, Message):
            raise TypeError(f"configure_train returned {message!r:.80}, and not messages")
        yield message


def _figures(told: Mapping[int, Told], key: str) -> dict[int, MetricRecord]:
    """Return what each client reports: Flower wants the same names from all.

    Args:
        told: What they have said.
        key: Under which name the strategy looks for how much an update counts.
    """
    names = set[str].intersection(*(set(each.metrics) for each in told.values()))
    found: dict[int, MetricRecord] = {}
    for client, each in told.items():
        said: dict[str, int | float] = {EXAMPLES: each.num_examples}
        said |= {f"train_{name}": float(each.metrics[name]) for name in sorted(names)}
        found[client] = filled(MetricRecord(), {key: each.num_examples, **said})
    return found


def _trained(updates: Aggregate, sent: Sent) -> NDArray[Any]:
    """Return what each client has made of the floats that it was sent, as rows."""
    deltas = [updates[channel] for channel in (BUFFERS, PARAMS) if channel in updates]
    return (torch.cat(deltas, dim=1) + sent.params).numpy()


def _weight_key(strategy: Any) -> str:  # noqa: ANN401 - a strategy, or what wraps one
    """Return under which name a strategy looks for the number of examples."""
    while not isinstance(key := getattr(strategy, "weighted_by_key", None), str):
        strategy = getattr(strategy, "strategy", None)
        if strategy is None:
            return EXAMPLES
    return key
