"""A federation at one moment as Prometheus reads it: text format 0.0.4."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from roundel.core.status import NodeState, NodeStatus, RoundStatus, Snapshot

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_GONE = (NodeState.AWAY, NodeState.DRAINED)
_Kind = Literal["counter", "gauge"]


@dataclass(frozen=True)
class _Family:
    """One figure, perhaps with several labels.

    Attributes:
        name: Without the prefix that all have.
        kind: Whether it only grows.
        meaning: For people.
        samples: Its labels and its value, each time.
    """

    name: str
    kind: _Kind
    meaning: str
    samples: Iterable[tuple[dict[str, str], float]]

    def lines(self) -> Iterator[str]:
        name = f"roundel_{self.name}"
        yield f"# HELP {name} {self.meaning}"
        yield f"# TYPE {name} {self.kind}"
        for labels, value in self.samples:
            inside = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels.items())
            yield f"{name}{f'{{{inside}}}' if inside else ''} {value:.15g}"


def metrics_text(snapshot: Snapshot) -> str:
    """Return the page.

    It holds names of nodes and numbers; no parameters and no secrets.
    """
    families = (*_of_run(snapshot), *_of_round(snapshot.open_round), *_of_nodes(snapshot.nodes))
    return "".join(f"{line}\n" for family in families for line in family.lines())


def _of_run(snapshot: Snapshot) -> Iterator[_Family]:
    yield _Family("run_info", "gauge", "Which run this is.", [({"run": snapshot.run}, 1)])
    yield _gauge("run_rounds", "Rounds that the run has.", snapshot.rounds)
    yield _Family("rounds_total", "counter", "Rounds that are over.", [({}, snapshot.done)])
    yield _gauge("clients", "Clients that there are.", snapshot.population)
    yield _gauge("clients_hosted", "Clients on nodes that are there.", snapshot.hosted)
    counts = Counter(node.state for node in snapshot.nodes)
    samples = [({"state": str(state)}, float(counts[state])) for state in NodeState]
    yield _Family("nodes", "gauge", "Nodes by what they are doing.", samples)


def _of_round(opened: RoundStatus | None) -> Iterator[_Family]:
    yield _gauge("round", "The open round, 0 for none.", opened.round if opened else 0)
    if opened is None:
        return
    yield _gauge("round_cohort", "Clients that the open round asked.", opened.cohort)
    yield _gauge("round_accepted", "Updates that count so far.", opened.accepted)
    yield _gauge("round_target", "With so many updates the round ends.", opened.target)
    yield _gauge("round_quorum", "So many updates the round needs to count.", opened.quorum)
    yield _gauge("round_open_seconds", "How long the round has been open.", opened.elapsed_s)
    if opened.left_s is not None:
        yield _gauge("round_left_seconds", "Time until the round's deadline.", opened.left_s)
    yield _gauge(
        "round_missing_nodes", "Nodes whose absence holds the round up.", len(opened.missing)
    )


def _of_nodes(nodes: Iterable[NodeStatus]) -> Iterator[_Family]:
    known = list(nodes)
    for name, kind, meaning, value in _NODE_FIGURES:
        samples = [({"node": node.name}, value(node)) for node in known]
        yield _Family(f"node_{name}", kind, meaning, samples)


def _progress(node: NodeStatus) -> float:
    doing = node.activity
    return min(1.0, doing.done / doing.total) if doing and doing.total else 0.0


_NODE_FIGURES: tuple[tuple[str, _Kind, str, Callable[[NodeStatus], float]], ...] = (
    ("up", "gauge", "Whether a node is there.", lambda node: node.state not in _GONE),
    ("clients", "gauge", "Clients that a node hosts.", lambda node: node.clients),
    ("round", "gauge", "The last round that a node had work of.", lambda node: node.round),
    ("unanswered", "gauge", "A node's clients yet to answer.", lambda node: node.unanswered),
    ("silent_seconds", "gauge", "Time since a node was heard of.", lambda node: node.silent_s),
    ("progress_ratio", "gauge", "How far a node is with what it does.", _progress),
    ("received_bytes_total", "counter", "Payload from a node.", lambda node: node.bytes_up),
    ("sent_bytes_total", "counter", "Payload to a node.", lambda node: node.bytes_down),
    ("failures_total", "counter", "Answers that did not count.", lambda node: node.failures),
)


def _gauge(name: str, meaning: str, value: float) -> _Family:
    return _Family(name, "gauge", meaning, [({}, value)])


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
