"""What a run records: one line a round, and one a client and round."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

_RARE = ("clients", "topology", "confusion", "stopped", "width")
"""What is left out of a line unless there is something to say."""


@dataclass(frozen=True, kw_only=True)
class RoundRecord:
    """One line of ``metrics.jsonl``.

    Attributes:
        round: The round, from 1.
        metrics: Means over the global test set: ``loss``, ``accuracy``, ...; or over the clients'
            own held-out examples if there is no such set; empty if the round was not evaluated.
        train_loss: Mean loss over all examples that the accepted clients trained on.
        health: How the updates look: see `roundel.server.health`.
        privacy: What the run has released so far: ``epsilon`` and ``delta``; empty without noise.
        cohort: How many clients were asked.
        completed: How many updates were accepted.
        failures: How many were not: failed, refused, lost or unfinished.
        bytes_up: Tensor bytes that clients sent, refused ones included.
        bytes_down: Tensor bytes that clients were sent.
        seconds: How long the round took, evaluation included.
        params_sha256: Hash of the shared parameters after the round.
        clients: Figures over the clients' own held-out examples, if they were evaluated.
        topology: What there is to say about links and nodes where clients do not stand around one
            server.
        confusion: Which class was taken for which, in the last round: rows are true classes.
        stopped: Why the run ended with this round although others were planned.
        width: The most clients that were trained at once, if memory did not suffice for as many as
            the run began with.
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
    health: Mapping[str, Any] = field(default_factory=dict[str, Any])
    privacy: Mapping[str, float] = field(default_factory=dict[str, float])
    clients: Mapping[str, Any] | None = None
    topology: Mapping[str, Any] | None = None
    confusion: Sequence[Sequence[int]] | None = None
    stopped: str | None = None
    width: int | None = None

    def line(self) -> dict[str, Any]:
        """Return the record as it is written: metrics stand beside the other keys."""
        values = asdict(self)
        metrics = values.pop("metrics")
        rare = {key: values.pop(key) for key in _RARE}
        values |= values.pop("privacy")
        line = {"round": values.pop("round"), "loss": None, "accuracy": None, **metrics, **values}
        return line | {key: value for key, value in rare.items() if value is not None}


RESERVED = frozenset(
    {f.name for f in fields(RoundRecord)} - {"metrics", "privacy"} | {"loss", "epsilon", "delta"}
)
"""What a round's line says besides metrics, and the loss: no metric may be called so."""


@dataclass(frozen=True, kw_only=True)
class ClientRecord:
    """One line of ``clients.jsonl``.

    Attributes:
        round: The round, from 1.
        client: The client's number.
        status: What became of its work: ``accepted``, ``rejected``, ``failed``, ...
        attempt: Which attempt, from 0.
        stage: What it was doing when it failed, if that was not training.
        num_examples: How many examples it trained on.
        num_steps: How many steps it took.
        train_loss: Mean loss over its training.
        update_norm: Euclidean norm of its parameter delta.
        update_blake3: Hash of the update as it was sent, by `roundel.core.messages`.
        seconds: How long it trained.
        reason: Why, unless it was accepted.
        location: File and line in the user's code, if it failed there.
        malicious: True if it attacks on purpose; left out otherwise.
    """

    round: int
    client: int
    status: str
    attempt: int = 0
    stage: str = ""
    num_examples: int | None = None
    num_steps: int | None = None
    train_loss: float | None = None
    update_norm: float | None = None
    update_blake3: str = ""
    seconds: float | None = None
    reason: str = ""
    location: str = ""
    malicious: bool | None = None

    def line(self) -> dict[str, Any]:
        """Return the record as it is written, without what does not apply."""
        return {key: value for key, value in vars(self).items() if value or value == 0}


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
