"""What a federation is doing at one moment, as people and programs are shown it."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any


class NodeState(StrEnum):
    """What a node is doing."""

    JOINING = "joining"
    """It has come and prepares its task and data: it hosts nothing yet."""

    WAITING = "waiting"
    """There is nothing for it to do."""

    WORKING = "working"
    """It was given work, and has not said yet how far it is."""

    TRAINING = "training"
    SENDING = "sending"
    EVALUATING = "evaluating"

    AWAY = "away"
    """It has been silent for longer than its lease."""

    DRAINED = "drained"
    """It was sent away."""


@dataclass(frozen=True, kw_only=True)
class Activity:
    """How far a node is with what it does.

    Attributes:
        what: ``train``, ``send`` or ``evaluate``.
        client: For which of its clients.
        round: In which round, from 1.
        done: How much of it is done, in steps or bytes.
        total: How much there is to do; 0 if that is not known.
    """

    what: str
    client: int
    round: int
    done: int = 0
    total: int = 0


@dataclass(frozen=True, kw_only=True)
class Capabilities:
    """What a node computes with, in its own words.

    Attributes:
        cores: How many processor cores.
        memory_bytes: How much memory.
        device: ``cpu``, or a GPU's name.
        machine: The kind of processor, such as ``aarch64``.
        python: Its version.
        torch: Its version.
    """

    cores: int = 0
    memory_bytes: int = 0
    device: str = ""
    machine: str = ""
    python: str = ""
    torch: str = ""


@dataclass(frozen=True, kw_only=True)
class NodeStatus:
    """One node at one moment.

    Attributes:
        name: What it is called.
        state: What it does.
        clients: How many clients it hosts.
        round: The round that it last had work of; 0 for none.
        silent_s: Seconds since it was last heard of.
        unanswered: How many of its clients still have to answer in the open round.
        activity: How far it is, if it does something.
        bytes_up: Payload bytes that came from it.
        bytes_down: Payload bytes that it was sent.
        failures: How many answers of its clients did not count.
        capabilities: What it computes with.
    """

    name: str
    state: NodeState
    clients: int
    round: int = 0
    silent_s: float = 0.0
    unanswered: int = 0
    activity: Activity | None = None
    bytes_up: int = 0
    bytes_down: int = 0
    failures: int = 0
    capabilities: Capabilities = Capabilities()


@dataclass(frozen=True, kw_only=True)
class RoundStatus:
    """The open round.

    Attributes:
        round: From 1.
        cohort: How many clients were asked.
        accepted: How many updates count so far.
        target: With how many the round ends at once.
        quorum: How many it needs to count at all.
        elapsed_s: Seconds since it began.
        left_s: Seconds until its deadline; None if it has none.
        missing: The nodes that are away and without which it cannot reach its quorum.
    """

    round: int
    cohort: int
    accepted: int
    target: int
    quorum: int
    elapsed_s: float = 0.0
    left_s: float | None = None
    missing: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """A federation at one moment.

    Attributes:
        run: The run's identity.
        rounds: How many rounds the run has; 0 if nobody knows.
        done: How many of them are over.
        population: How many clients there are.
        hosted: How many of them are hosted by a node that is there.
        open_round: The round that is open, if one is.
        nodes: Every node that has joined, by name.
    """

    run: str
    rounds: int
    done: int
    population: int
    hosted: int
    open_round: RoundStatus | None = None
    nodes: tuple[NodeStatus, ...] = ()

    def to_json(self) -> str:
        """Return one JSON object on one line."""
        return json.dumps(asdict(self), allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> "Snapshot":
        """Read what `to_json` wrote; what a later version added is left out.

        Raises:
            ValueError: It is something else.
        """
        try:
            fields = json.loads(text)
            return cls(
                **_known(cls, fields)
                | {
                    "open_round": _open_round(fields["open_round"]),
                    "nodes": tuple(_node(node) for node in fields["nodes"]),
                }
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"this is not the status of a federation: {error}") from error


def _open_round(fields: Mapping[str, Any] | None) -> RoundStatus | None:
    if fields is None:
        return None
    return RoundStatus(**{**_known(RoundStatus, fields), "missing": tuple(fields["missing"])})


def _node(fields: Mapping[str, Any]) -> NodeStatus:
    activity = fields["activity"]
    return NodeStatus(
        **_known(NodeStatus, fields)
        | {
            "state": NodeState(fields["state"]),
            "activity": None if activity is None else Activity(**_known(Activity, activity)),
            "capabilities": Capabilities(**_known(Capabilities, fields["capabilities"])),
        }
    )


def _known(kind: type, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of the fields that a record has."""
    return {name: fields[name] for name in kind.__annotations__ if name in fields}
