"""The federation that a run of a Flower app has."""

from collections.abc import Sequence
from dataclasses import dataclass

from roundel.core.seeds import derive
from roundel.simulations.flowerapps.project import RunConfig

PATIENCE_S = 10.0
"""How long a ServerApp may wait for nodes: there are no more than there are from the start."""


class TooFewNodes(Exception):
    """A ServerApp waits for nodes that will never come."""

    def __init__(self, nodes: int) -> None:
        super().__init__(
            f"it waits for more nodes than there are: {nodes}; run it with more --clients, or "
            "lower what it waits for, such as min_available_nodes"
        )


def node_id(seed: int, client: int) -> int:
    """Return the id of the node that a client is for Flower, the same in every run of a seed."""
    return derive(seed, "flower node", client=client)


@dataclass(frozen=True, kw_only=True)
class Nodes:
    """The federation of a run, all of it from the seed.

    Attributes:
        seed: The run's.
        config: The settings of the app.
        run_id: The run's.
        ids: Node id of each client, by its number.
    """

    seed: int
    config: RunConfig
    run_id: int
    ids: Sequence[int]

    @classmethod
    def of(cls, seed: int, config: RunConfig, clients: int) -> "Nodes":
        """Number a federation."""
        return cls(
            seed=seed,
            config=config,
            run_id=derive(seed, "flower run"),
            ids=[node_id(seed, client) for client in range(clients)],
        )

    def message_id(self, number: int, client: int) -> str:
        """Return what a message is called.

        Args:
            number: Which of the messages to the client it is, from 1.
            client: The client; -1 for messages to none.
        """
        return f"{derive(self.seed, 'flower message', number, client):016x}"
