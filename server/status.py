"""What the coordinator knows of its nodes, put into the words of `roundel.core.status`."""

from collections.abc import Iterable

from roundel.core.status import Activity, NodeState, NodeStatus, RoundStatus, Snapshot

_DOING = {
    "train": NodeState.TRAINING,
    "send": NodeState.SENDING,
    "evaluate": NodeState.EVALUATING,
}


def node_state(
    *,
    silent_s: float,
    lease_s: float,
    clients: int,
    unanswered: int,
    activity: Activity | None,
    drained: bool,
) -> NodeState:
    """Say what a node is doing.

    Args:
        silent_s: Seconds since it was last heard of.
        lease_s: How long a node that hosts clients may be silent.
        clients: How many clients it hosts.
        unanswered: How many answers it owes.
        activity: What it said last that it does; None if it waits.
        drained: Whether it was sent away.
    """
    if drained:
        return NodeState.DRAINED
    if not clients:  # it may take its time
        return NodeState.JOINING
    if silent_s > lease_s:
        return NodeState.AWAY
    if not unanswered:  # what it said last is over
        return NodeState.WAITING
    return NodeState.WORKING if activity is None else _DOING.get(activity.what, NodeState.WORKING)


def snapshot(
    *,
    run: str,
    rounds: int,
    done: int,
    population: int,
    nodes: Iterable[NodeStatus],
    open_round: RoundStatus | None = None,
) -> Snapshot:
    """Return a federation at one moment.

    Args:
        run: The run's identity.
        rounds: How many rounds the run has.
        done: How many of them are over.
        population: How many clients there are.
        nodes: Every node that has joined, in any order.
        open_round: The round that is open, if one is.
    """
    known = tuple(sorted(nodes, key=lambda node: node.name))
    gone = (NodeState.AWAY, NodeState.DRAINED)
    return Snapshot(
        run=run,
        rounds=rounds,
        done=done,
        population=population,
        hosted=sum(node.clients for node in known if node.state not in gone),
        open_round=open_round,
        nodes=known,
    )
