"""How a round's updates look: figures that show trouble before the accuracy does."""

from collections.abc import Sequence
from statistics import median
from typing import Any

from roundel.core.metrics import Metrics
from roundel.core.records import ClientRecord

DIVERGING = 10.0
"""An update so many times as long as the cohort's median one is taken for a diverging client's."""

_NAMED = 10


def health(clients: Sequence[ClientRecord], training: Metrics) -> dict[str, Any]:
    """Sum up a cohort.

    Args:
        clients: The records of the round's training.
        training: The merged training metrics of the accepted clients.

    Returns:
        ``update_norm``: the Euclidean norms of the accepted deltas, ``p50`` and ``max``, or None
        if there are none; ``clipped``: the share of trained examples whose batch had its gradient
        clipped, or None without a limit; ``rejected``, ``failed`` and ``lost``: how many clients
        were; ``diverging``: the numbers of up to ten accepted clients whose norm is more than
        `DIVERGING` times the median; ``malicious``: how many attack on purpose, if any do.
    """
    norms = {c.client: c.update_norm for c in clients if c.update_norm is not None}
    middle = median(norms.values()) if norms else 0.0
    statuses = [c.status for c in clients]
    malicious = sum(client.malicious is True for client in clients)
    return {
        "update_norm": {"p50": middle, "max": max(norms.values())} if norms else None,
        "clipped": training.means().get("clipped"),
        **{status: statuses.count(status) for status in ("rejected", "failed", "lost")},
        "diverging": sorted(c for c, n in norms.items() if n > DIVERGING * middle)[:_NAMED],
        **({"malicious": malicious} if malicious else {}),
    }
