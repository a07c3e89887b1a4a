"""Which versions of the wire understand each other."""

import pytest

from roundel.core.wire.versions import Version, mismatch


@pytest.mark.parametrize("node", [(1, 2), (1, 3), (1, 4)])
def test_versions_at_most_one_minor_apart_understand_each_other(node):
    assert mismatch("edge", Version(*node), Version(1, 3)) == ""


@pytest.mark.parametrize(
    ("node", "older"),
    [
        ((1, 1), "Roundel on node 'edge'"),
        ((1, 5), "Roundel on the coordinator"),
        ((0, 3), "Roundel on node 'edge'"),
        ((2, 0), "Roundel on the coordinator"),
    ],
)
def test_others_are_refused_and_told_which_side_to_upgrade(node, older):
    version = Version(*node)
    assert mismatch("edge", version, Version(1, 3)) == (
        f"node 'edge' speaks protocol {version} and the coordinator 1.3, which are too far apart; "
        f"upgrade {older}"
    )
