"""What crosses the line between the server and a client, in one process or over a network.

Each message is a frozen record of plain values and tensors. A failure is a message too: clients
that drop out or break are normal, so they are reported as values and not raised.

An *epoch* (`Ticket`) names one attempt at one client's work. An answer must carry the ticket of its
request, so late, repeated and foreign answers are told apart from the one that counts.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from roundel.core.metrics import Metrics
from roundel.core.params import tensors_blake3

PARAMS = "params"
"""The channel of the shared trainable parameters; every update has it."""

BUFFERS = "buffers"
"""The channel of the shared float buffers; present if the model has any."""

INTEGERS = "integers"
"""The channel of the integer buffers, int64; present if the model has any."""


@dataclass(frozen=True, kw_only=True)
class Ticket:
    """One attempt at one client's work; a fencing token.

    Attributes:
        run: The run's identity.
        round: The round, from 1.
        client_id: Whose work.
        stage: Which stage of a reduction in several stages; 0 where there is one.
        attempt: How often this work was assigned before.
    """

    run: str
    round: int
    client_id: int
    stage: int = 0
    attempt: int = 0


@dataclass(frozen=True, kw_only=True)
class TrainRequest:
    """Work for one client in one round.

    Attributes:
        ticket: Goes back with the answer.
        base_version: How many aggregations `params` has behind it; differs from ``round - 1`` only
            when rounds overlap.
        params: The shared part of the vector, shape ``(S,)``.
        integers: The integer buffers, int64.
        channels: Further named tensors of the broadcast, such as a control variate.
    """

    ticket: Ticket
    base_version: int
    params: Tensor
    integers: Tensor
    channels: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])


@dataclass(frozen=True, kw_only=True)
class ClientUpdate:
    """What one client made of a round.

    Attributes:
        ticket: That of the request.
        base_version: That of the request.
        num_examples: How many examples it trained on.
        num_steps: How many local steps it took.
        channels: Named tensors for the aggregators: ``params`` holds ``trained - sent``.
        scalars: Named numbers for weighers and aggregators.
        metrics: Sums over the examples trained on.
        seconds: How long the training took; for the record only.
    """

    ticket: Ticket
    base_version: int
    num_examples: int
    num_steps: int
    channels: Mapping[str, Tensor]
    scalars: Mapping[str, float] = field(default_factory=dict[str, float])
    metrics: Metrics = Metrics()
    seconds: float = 0.0


def update_blake3(update: ClientUpdate) -> str:
    """Return a hash of everything in an update that aggregation can depend on.

    Channels with their names, dtypes, shapes and bytes, scalars, and the counts of examples and
    steps; not the ticket, the training metrics or the time it took.
    """
    about = (update.num_examples, update.num_steps, sorted(update.scalars.items()))
    return tensors_blake3(update.channels, repr(about))


@dataclass(frozen=True, kw_only=True)
class EvaluateRequest:
    """Ask a client how good parameters are on its own held-out examples.

    Attributes:
        ticket: Goes back with the answer.
        params: The shared part of the vector, shape ``(S,)``.
        integers: The integer buffers, int64.
        split: ``"test"``, ``"validation"`` or ``"train"``.
    """

    ticket: Ticket
    params: Tensor
    integers: Tensor
    split: str = "test"


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """A client's answer to `EvaluateRequest`.

    Attributes:
        ticket: That of the request.
        metrics: Sums over its held-out examples; a count of 0 if it holds out none.
    """

    ticket: Ticket
    metrics: Metrics


@dataclass(frozen=True, kw_only=True)
class ClientFailure:
    """A client's work that ended in an exception.

    Attributes:
        ticket: That of the request.
        stage: What it was doing: ``"data"``, ``"train"`` or ``"evaluate"``.
        error: The exception's type and message, one line.
        location: File and line of the innermost frame of the user's own code.
        traceback: The whole traceback.
    """

    ticket: Ticket
    stage: str
    error: str
    location: str = ""
    traceback: str = ""
