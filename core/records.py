"""What a run records: one line a round, and one a client and round."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class RoundRecord:
    """One line of ``metrics.jsonl``.

    Attributes:
        round: The round, from 1.
        metrics: Means over the global test set: ``loss``, ``accuracy``, ...; empty if the round
            was not evaluated.
        train_loss: Mean loss over all examples that the accepted clients trained on.
        cohort: How many clients were asked.
        completed: How many updates were accepted.
        failures: How many were not: failed, refused, lost or unfinished.
        bytes_up: Tensor bytes that clients sent, refused ones included.
        bytes_down: Tensor bytes that clients were sent.
        seconds: How long the round took, evaluation included.
        params_sha256: Hash of the shared parameters after the round.
        clients: Figures over the clients' own held-out examples, if they were evaluated.
    """

    round: int
    metrics: Mapping[str, float]
    train_loss: float | None
    cohort: int
    completed: int
    failures: int
    bytes_up: int
    bytes_down: int
    seconds: float
    params_sha256: str
    clients: Mapping[str, Any] | None = None

    def line(self) -> dict[str, Any]:
        """Return the record as it is written: metrics stand beside the other keys."""
        values = asdict(self)
        metrics = values.pop("metrics")
        clients = values.pop("clients")
        line = {"round": values.pop("round"), "loss": None, "accuracy": None, **metrics, **values}
        return line if clients is None else line | {"clients": clients}


@dataclass(frozen=True, kw_only=True)
class ClientRecord:
    """One line of ``clients.jsonl``.

    Attributes:
        round: The round, from 1.
        client: The client's number.
        status: What became of its work: ``accepted``, ``rejected``, ``failed``, ...
        attempt: Which attempt, from 0.
        num_examples: How many examples it trained on.
        num_steps: How many steps it took.
        train_loss: Mean loss over its training.
        update_norm: Euclidean norm of its parameter delta.
        seconds: How long it trained.
        reason: Why, unless it was accepted.
        location: File and line in the user's code, if it failed there.
    """

    round: int
    client: int
    status: str
    attempt: int = 0
    num_examples: int | None = None
    num_steps: int | None = None
    train_loss: float | None = None
    update_norm: float | None = None
    seconds: float | None = None
    reason: str = ""
    location: str = ""

    def line(self) -> dict[str, Any]:
        """Return the record as it is written, without what does not apply."""
        return {key: value for key, value in asdict(self).items() if value not in (None, "")}


@dataclass(frozen=True, kw_only=True)
class RoundReport:
    """Everything that is said about one round.

    Attributes:
        record: The round's line.
        clients: One record for each client of the cohort, by client number.
        failures: Client number to traceback, for clients that failed in user code.
        recomputed: Whether an earlier process had recorded this round already.
    """

    record: RoundRecord
    clients: tuple[ClientRecord, ...] = ()
    failures: Mapping[int, str] = field(default_factory=dict[int, str])
    recomputed: bool = False
