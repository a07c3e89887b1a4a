"""What a strategy costs, found out from its composition and from one client's work."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from roundel.core.messages import BUFFERS, INTEGERS
from roundel.server.aggregation import broadcast_channels
from roundel.simulations.conformance.trial import COHORT, Trial
from roundel.strategies.compose import Strategy, compose
from roundel.strategies.fedavg import fedavg

_WIDTH = 100
"""Wide enough for what a codec sends beside its numbers to be as small as in a real model."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """The costs of a strategy, in bytes of the model's trainable parameters.

    Float and integer buffers, which every strategy sends alike, do not count.

    Attributes:
        up: What a client sends.
        down: What a client receives.
        kept: What stays with a client between rounds.
        whole: Whether the model is sent whole and as it is; what a part of it costs depends on the
            model.
        streams: Whether the server adds updates up as they arrive; else it holds a round's.
        passes: Further passes over a client's examples before it trains.
        second: Whether clients train something beside what they send.
        root: Whether the server trains on examples of its own.
    """

    up: float
    down: float
    kept: float
    whole: bool
    streams: bool
    passes: int
    second: bool
    root: bool

    def sentence(self) -> str:
        """Say it in words."""
        of = "the parameters" if self.whole else "those of a network with a layer of 100 x 100"
        said = [f"a client sends {_times(self.up)} and receives {_times(self.down)} {of}"]
        said.append(f"keeps {_times(self.kept)}" if self.kept else "keeps nothing")
        if self.passes:
            said.append("takes one more pass over its examples")
        if self.second:
            said.append("trains a second time")
        server = "adds updates up as they arrive" if self.streams else "holds a round's updates"
        if self.root:
            server += " and trains on examples of its own"
        return f"{', '.join(said)}; the server {server}"


def facts(strategy: Strategy) -> Facts:
    """Find out what a strategy costs, by letting one client of a small federation train.

    Raises:
        CompositionError: The strategy needs more than federated averaging gives.
    """
    whole = _parameters(Trial(compose(fedavg()), width=_WIDTH))
    trial = Trial(strategy, width=_WIDTH)
    first = trial.first()
    answers = trial.ask(first, COHORT[:1])
    (sent,), (kept,) = answers.sent.values(), answers.clients.values()
    channels = {n: v for n, v in sent.channels.items() if n not in (BUFFERS, INTEGERS)}
    spec = trial.simulation.learner.spec
    personal = spec.personal.stop > spec.personal.start
    return Facts(
        up=_nbytes(channels) / whole,
        down=(_parameters(trial) + _nbytes(broadcast_channels(strategy, first.state))) / whole,
        kept=_nbytes(kept) / whole,
        whole=not personal and all(part.model is None for part in strategy.parts),
        streams=not any("set" in a.traits for a in strategy.aggregators.values()),
        passes=1 if strategy.measures else 0,
        second=bool(strategy.side_work),
        root=strategy.root,
    )


def _parameters(trial: Trial) -> int:
    """Return the bytes of the shared trainable parameters."""
    spec = trial.simulation.learner.spec
    size: int = spec.shared_trainable.stop - spec.shared_trainable.start
    return size * spec.dtype.itemsize


def _nbytes(tensors: Mapping[str, Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors.values())


def _times(share: float) -> str:
    """Write a factor with two digits, as ``2 x`` or ``0.031 x``."""
    return f"{share:.2g} x"
