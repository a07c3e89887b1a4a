"""Listen to what the clients of one round send, without changing anything."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from roundel.core.clientstate import ClientState
from roundel.core.messages import ClientFailure, ClientUpdate, EvaluateRequest, Evaluation
from roundel.core.params import ParamSpec
from roundel.server.aggregation import Accumulators
from roundel.server.loop import Clients
from roundel.server.open_round import OpenRound
from roundel.strategies.compose import Strategy

Heard = dict[int, Mapping[str, Tensor]]


@dataclass(frozen=True, kw_only=True)
class Overheard:
    """Clients, and what those of one round sent that counted.

    Attributes:
        clients: They do all the work.
        strategy: As the server's.
        spec: Likewise.
        round: Which round.
        heard: Client to the decoded channels of its update, once that round is over.
    """

    clients: Clients
    strategy: Strategy
    spec: ParamSpec
    round: int
    heard: Heard = field(default_factory=dict[int, Mapping[str, Tensor]])

    @property
    def size(self) -> int:
        """N, the population."""
        return self.clients.size

    def train(self, open_round: OpenRound) -> None:
        """Carry a round's messages until it has ended."""
        if open_round.machine.terms.round == self.round:
            self.heard.clear()  # of an attempt for which memory did not suffice
            open_round.accumulators = _Listening(self.strategy, self.spec, self.heard)
        self.clients.train(open_round)

    def commit(self, round: int, accepted: Sequence[int]) -> None:
        """Make the staged states of the accepted clients final."""
        self.clients.commit(round, accepted)

    def evaluate(self, requests: Sequence[EvaluateRequest]) -> Sequence[Evaluation | ClientFailure]:
        """Ask clients for figures on their own examples."""
        return self.clients.evaluate(requests)

    def states(self) -> Mapping[int, ClientState] | None:
        """Return all committed client states."""
        return self.clients.states()


class _Listening(Accumulators):
    """Accumulators that also note whom they had each update from."""

    def __init__(self, strategy: Strategy, spec: ParamSpec, heard: Heard) -> None:
        super().__init__(strategy, spec)
        self._heard = heard

    def add_all(self, updates: Sequence[ClientUpdate]) -> None:
        """Add several updates that the admission gate has let through."""
        super().add_all(updates)
        for update in updates:
            self._heard[update.ticket.client_id] = {
                channel: tensor.clone() for channel, tensor in update.channels.items()
            }
