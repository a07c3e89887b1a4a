"""A federation at one moment as lines of text, and what changed since the moment before.

Nothing here knows a terminal: a line says what it is about, and whoever prints it may colour it.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from roundel.core.status import Activity, NodeState, NodeStatus, RoundStatus, Snapshot
from roundel.reports.summary import byte_count
from roundel.reports.text import table

WIDE = 116
"""From so many columns on, a table has all its columns."""

_URGENCY = (
    NodeState.AWAY,
    NodeState.JOINING,
    NodeState.SENDING,
    NodeState.TRAINING,
    NodeState.EVALUATING,
    NodeState.WORKING,
    NodeState.WAITING,
    NodeState.DRAINED,
)
_BUSY = (NodeState.SENDING, NodeState.TRAINING, NodeState.EVALUATING)
_NAMED = 5
_BAR, _PERCENT = 6, 5
_RIGHT = ("round", "open", "clients", "seen", "bytes", "up", "down", "failed")
_MINUTE_S, _HOUR_S, _DAY_S = 60, 3600, 86400
_UNSHOWN = re.compile(r"[^ -~]")


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line about a federation.

    Attributes:
        text: What it says.
        state: That of the node which it is about, if it is about one.
        heading: Whether it names the columns below it.
        trouble: Whether somebody should look at it.
    """

    text: str
    state: NodeState | None = None
    heading: bool = False
    trouble: bool = False


def federation_lines(snapshot: Snapshot, *, width: int, height: int) -> list[Line]:
    """Return how the round goes, then a table with a line a node.

    Nodes that do not fit are counted in a last line; those that people would look for come first
    then.

    Args:
        snapshot: The federation.
        width: How many columns there are.
        height: How many lines there may be, five at least.
    """
    lines = [*_head(snapshot, width)]
    shown, hidden = _fitting(snapshot.nodes, height - len(lines) - 1)
    if shown:
        heading, *rows = _table(shown, width)
        lines.append(Line(text=heading, heading=True))
        lines += [
            Line(text=row, state=node.state, trouble=_in_trouble(node))
            for row, node in zip(rows, shown, strict=True)
        ]
    if hidden:
        lines.append(Line(text=_cut(f"and {len(hidden)} more: {_states(hidden)}", width)))
    return lines


def _head(snapshot: Snapshot, width: int) -> Iterator[Line]:
    yield Line(text=_cut(_progress_of(snapshot), width))
    nodes = snapshot.nodes
    if not nodes:
        yield Line(text=f"no node has joined; there are {snapshot.population} clients to host")
        return
    hosted = f"{_count(len(nodes), 'node')}, {snapshot.hosted} of {snapshot.population} clients"
    yield Line(text=_cut(f"{hosted}: {_states(nodes)}", width))
    opened = snapshot.open_round
    if opened is not None and opened.missing:
        yield Line(text=_cut(_waits_for(opened), width), trouble=True)


def _progress_of(snapshot: Snapshot) -> str:
    opened = snapshot.open_round
    if opened is None:
        of = f"{snapshot.done} of " if snapshot.rounds else ""
        return f"{of}{_count(snapshot.rounds or snapshot.done, 'round')} done"
    parts = [
        f"round {opened.round}{_of(snapshot.rounds)}",
        f"{opened.accepted} of {opened.target} updates",
    ]
    if opened.quorum < opened.target:
        parts.append(f"quorum {opened.quorum}")
    parts.append(f"open for {span(opened.elapsed_s)}")
    if opened.left_s is not None:
        parts.append(f"{span(opened.left_s)} left" if opened.left_s > 0 else "deadline passed")
    return "   ".join(parts)


def _of(rounds: int) -> str:
    """Return how many rounds there are, behind the number of one; some runs do not know it."""
    return f"/{rounds}" if rounds else ""


def _waits_for(opened: RoundStatus) -> str:
    short = max(0, opened.quorum - opened.accepted)
    return (
        f"round {opened.round} waits for {named(opened.missing)}, away: {_count(short, 'update')} "
        "short of its quorum"
    )


def _fitting(
    nodes: Sequence[NodeStatus], rows: int
) -> tuple[Sequence[NodeStatus], Sequence[NodeStatus]]:
    """Return which nodes have a line of their own, and which have not."""
    ordered = sorted(nodes, key=lambda node: _natural(node.name))
    if len(ordered) <= rows:
        return ordered, ()
    ordered.sort(key=lambda node: (not _in_trouble(node), _URGENCY.index(node.state)))
    fit = max(0, rows - 1)
    return ordered[:fit], ordered[fit:]


def _in_trouble(node: NodeStatus) -> bool:
    return node.state is NodeState.AWAY or node.failures > 0


def _natural(name: str) -> list[tuple[str, int]]:
    """Return a key that sorts edge2 before edge10."""
    return [(text, int(digits or 0)) for text, digits in re.findall(r"(\D*)(\d*)", name)]


def _states(nodes: Sequence[NodeStatus]) -> str:
    counts = Counter(node.state for node in nodes)
    return ", ".join(f"{counts[state]} {state}" for state in _URGENCY if counts[state])


def _table(nodes: Sequence[NodeStatus], width: int) -> list[str]:
    """Return the heading and a line for each node; the names get what room is left."""
    cells = [_cells(node, wide=width >= WIDE) for node in nodes]
    columns = list(cells[0])
    taken = max(map(len, table(columns, [list(row.values()) for row in cells], right=_RIGHT)))
    room = max(4, width - taken - 2)
    names = [_shorten(printable(node.name), room) for node in nodes]
    rows = [[name, *row.values()] for name, row in zip(names, cells, strict=True)]
    return table(["node", *columns], rows, right=_RIGHT)


def _cells(node: NodeStatus, *, wide: bool) -> Mapping[str, str]:
    """Return what a node's line says by column, without its name."""
    doing = node.activity if node.state in _BUSY else None
    head = {"state": str(node.state), "round": str(node.round) if node.round else "-"}
    tail = {"failed": str(node.failures) if node.failures else "-", "seen": ago(node.silent_s)}
    if not wide:
        return {
            **head,
            "open": f"{node.unanswered}/{node.clients}",
            "progress": _bar(doing, _BAR) or _client(doing).ljust(_BAR + _PERCENT),
            "bytes": byte_count(node.bytes_up + node.bytes_down),
            **tail,
        }
    return {
        **head,
        "clients": str(node.clients),
        "open": str(node.unanswered),
        "progress": f"{_bar(doing, 2 * _BAR):{2 * _BAR + _PERCENT}}  {_client(doing)}",
        "up": byte_count(node.bytes_up),
        "down": byte_count(node.bytes_down),
        **tail,
    }


def _bar(activity: Activity | None, width: int) -> str:
    """Return how far a node is, as a bar and in percent; empty if that is not known."""
    if activity is None or not activity.total:
        return ""
    share = min(1.0, activity.done / activity.total)
    full = int(share * width)
    return f"{'█' * full}{'░' * (width - full)} {int(100 * share):3d}%"


def _client(activity: Activity | None) -> str:
    return "" if activity is None else f"client {activity.client}"


# ---- what changes


@dataclass(frozen=True, kw_only=True)
class Change:
    """Something that happened between two moments.

    Attributes:
        event: ``node_joined``, ``node_away``, ``node_back``, ``node_left``, ``round_started`` or
            ``round_waits``.
        facts: What there is to know about it, as JSON can hold it.
    """

    event: str
    facts: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self, time: str) -> dict[str, Any]:
        """Return the object that stands for it.

        Args:
            time: When it was noticed.
        """
        return {"event": self.event, "time": time, **self.facts}


def changes(before: Snapshot | None, after: Snapshot) -> list[Change]:
    """Return what happened from one moment to a later one, nodes first.

    Args:
        before: The earlier moment; None if nothing is known of it.
        after: The later one.
    """
    old = {} if before is None else {node.name: node for node in before.nodes}
    found = [
        Change(event=event, facts=_facts(node))
        for node in after.nodes
        if (event := _event(old.get(node.name), node))
    ]
    still = {node.name for node in after.nodes}
    found += [
        Change(event="node_left", facts=_facts(node))
        for name, node in old.items()
        if name not in still and node.state is not NodeState.DRAINED
    ]
    return found + _round_changes(before.open_round if before else None, after.open_round)


def _event(before: NodeStatus | None, after: NodeStatus) -> str:
    """Say what happened to one node; empty for nothing worth a line."""
    was = NodeState.JOINING if before is None else before.state
    now = after.state
    if was is now or now is NodeState.JOINING:
        return ""
    if now is NodeState.DRAINED:
        return "node_left"
    if now is NodeState.AWAY:
        return "node_away"
    if was is NodeState.AWAY:
        return "node_back"
    return "node_joined" if was in (NodeState.JOINING, NodeState.DRAINED) else ""


def _facts(node: NodeStatus) -> Mapping[str, Any]:
    return {"node": node.name, "clients": node.clients}


def _round_changes(before: RoundStatus | None, after: RoundStatus | None) -> list[Change]:
    if after is None:
        return []
    found: list[Change] = []
    new = before is None or before.round != after.round
    if new:
        asked = {"round": after.round, "cohort": after.cohort, "quorum": after.quorum}
        found.append(Change(event="round_started", facts=asked))
    if after.missing and (before is None or new or before.missing != after.missing):
        facts = {
            "round": after.round,
            "nodes": list(after.missing),
            "accepted": after.accepted,
            "quorum": after.quorum,
        }
        found.append(Change(event="round_waits", facts=facts))
    return found


def change_lines(found: Sequence[Change], rounds: int) -> list[Line]:
    """Return a line for each kind of thing that happened.

    For whom a round waits is left out: whoever runs the rounds says so.

    Args:
        found: What happened.
        rounds: How many rounds the run has; 0 if nobody knows.
    """
    lines = []
    for event, verb, trouble in _VERBS:
        those = [change.facts for change in found if change.event == event]
        if those:
            who = named([facts["node"] for facts in those])
            clients = _count(sum(facts["clients"] for facts in those), "client")
            lines.append(Line(text=f"{who} {_verb(verb, len(those))}{clients}", trouble=trouble))
    lines += [
        Line(
            text=f"round {c.facts['round']}{_of(rounds)} asks {_count(c.facts['cohort'], 'client')}"
        )
        for c in found
        if c.event == "round_started"
    ]
    return lines


_VERBS = (
    ("node_joined", "joined with ", False),
    ("node_back", "is back with ", False),
    ("node_left", "left with ", True),
    ("node_away", "is away with ", True),
)


def _verb(verb: str, count: int) -> str:
    return verb if count == 1 else verb.replace("is ", "are ")


# ---- words


def named(names: Sequence[str]) -> str:
    """Return some names, the first of them if they are many.

    >>> named(["a"]), named(["a", "b"]), named(["a", "b", "c"])
    ('a', 'a and b', 'a, b and c')
    >>> named([f"edge{i}" for i in range(1, 9)])
    'edge1, edge2, edge3, edge4 and 4 more'
    """
    shown = [printable(name) or "a node" for name in sorted(names, key=_natural)]
    if len(shown) > _NAMED:
        shown[_NAMED - 1 :] = [f"{len(shown) - _NAMED + 1} more"]
    return " and ".join(filter(None, [", ".join(shown[:-1]), shown[-1]]))


def span(seconds: float) -> str:
    """Return a length of time as a clock shows it.

    >>> span(42.9), span(65), span(3723)
    ('0:42', '1:05', '1:02:03')
    """
    minutes, rest = divmod(int(seconds), _MINUTE_S)
    hours, minutes = divmod(minutes, _MINUTE_S)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def ago(seconds: float) -> str:
    """Return how long ago something was, in the largest unit that fits.

    >>> ago(0.4), ago(59), ago(61), ago(7200), ago(200_000)
    ('0 s', '59 s', '1 min', '2 h', '2 d')
    """
    units = ((_DAY_S, "d"), (_HOUR_S, "h"), (_MINUTE_S, "min"))
    for size, unit in units:
        if seconds >= size:
            return f"{int(seconds / size)} {unit}"
    return f"{int(seconds)} s"


def printable(name: str) -> str:
    r"""Return a name that cannot command a terminal.

    >>> printable("edge\x1b[2J7")
    'edge?[2J7'
    """
    return _UNSHOWN.sub("?", name)


def _shorten(name: str, room: int) -> str:
    """Cut the middle out of a name that is too long: its end often tells it from others."""
    if len(name) <= room:
        return name
    tail = (room - 1) // 2
    return f"{name[: room - 1 - tail]}…{name[len(name) - tail :]}"


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
