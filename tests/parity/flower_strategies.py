"""Flower's own strategies, run on one vector a client: an implementation that is not ours.

Nothing is sent anywhere: the strategy is asked for a round's messages, and is given the replies
that clients would send. flwr is imported when it is needed; a test that uses this module begins
with ``pytest.importorskip("flwr")``.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def flower_aggregate(
    strategy: Any,
    params: Array,
    client_params: Sequence[Array],
    num_examples: Sequence[int],
    metrics: Sequence[Mapping[str, float]] | None = None,
    server_round: int = 1,
) -> Array:
    """Return the parameters that a Flower strategy makes of one round's replies.

    For several rounds, call it again with the same strategy object, which keeps its state, and with
    what it has returned.

    Args:
        strategy: An object of `flwr.serverapp.strategy`.
        params: What the server holds, any shape.
        client_params: What each client has made of it, the same shape; copied first, since some
            strategies write into what they are sent.
        num_examples: How many training examples each client has.
        metrics: Further numbers that each client reports, ``{"train_loss": 0.5}`` say.
        server_round: The round, from 1.

    Raises:
        ValueError: The strategy returned nothing.
    """
    from flwr.app import ConfigRecord

    reported = metrics or [{}] * len(client_params)
    # Flower collects garbage after each array that it reads, which takes seconds a round here.
    with _identity(), patch("gc.collect"):
        nodes = _Nodes(len(client_params))
        list(strategy.configure_train(server_round, _arrays(params), ConfigRecord(), nodes))
        replies = [
            _reply(node, own, {"num-examples": count, **more})
            for node, (own, count, more) in enumerate(
                zip(client_params, num_examples, reported, strict=True), start=1
            )
        ]
        aggregated, _ = strategy.aggregate_train(server_round, replies)
    if aggregated is None:
        raise ValueError(f"{type(strategy).__name__} returned no parameters")
    found: Array = aggregated["w"].numpy()
    return found


class _Nodes:
    """All of a grid that strategies look at; they wait until there are two nodes."""

    def __init__(self, count: int) -> None:
        self._ids = list(range(1, max(count, 2) + 1))

    def get_node_ids(self) -> list[int]:
        return self._ids


def _arrays(params: Array) -> Any:
    from flwr.app import Array as FlowerArray
    from flwr.app import ArrayRecord

    return ArrayRecord({"w": FlowerArray(np.array(params))})


def _reply(node: int, params: Array, metrics: Mapping[str, float]) -> Any:
    from flwr.app import Message, MetricRecord, RecordDict

    content = RecordDict({"arrays": _arrays(params), "metrics": MetricRecord(dict(metrics))})
    return Message(content=content, dst_node_id=node, message_type="train")


@contextmanager
def _identity() -> Iterator[None]:
    """Be a task of Flower, which only a task can make messages of."""
    from flwr.supercore.task_identity import TaskIdentity

    names = ("_run_id", "_node_id", "_task_id")
    before = {name: getattr(TaskIdentity, name) for name in names}
    for name in names:
        setattr(TaskIdentity, name, 1)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(TaskIdentity, name, value)
