"""Versions of the wire format, and which of them understand each other."""

from dataclasses import dataclass


@dataclass(frozen=True, order=True)
class Version:
    """A version of the wire format.

    Attributes:
        major: Others are another format.
        minor: Each adds fields or calls; one without them is still understood.
    """

    major: int
    minor: int

    def __str__(self) -> str:
        """Return it as it is written."""
        return f"{self.major}.{self.minor}"


OURS = Version(1, 0)
"""What this version of Roundel speaks."""

_REACH = 1


def mismatch(name: str, node: Version, coordinator: Version) -> str:
    """Say why a node and a coordinator do not understand each other; empty if they do.

    They do if their minor versions are at most one apart.

    Args:
        name: What the node calls itself.
        node: What it speaks.
        coordinator: What its coordinator speaks.
    """
    if node.major == coordinator.major and abs(node.minor - coordinator.minor) <= _REACH:
        return ""
    older = f"Roundel on node {name!r}" if node < coordinator else "Roundel on the coordinator"
    return (
        f"node {name!r} speaks protocol {node} and the coordinator {coordinator}, which are too "
        f"far apart; upgrade {older}"
    )
