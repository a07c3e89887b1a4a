"""A caller speaks for the node that its certificate names, and for no other."""

import pytest

from roundel.core.errors import ProtocolError
from roundel.server.callers import Caller, answering, check_speaks_for

EDGE = Caller(name="edge", role="node", serial=1)


def test_a_node_speaks_for_itself_only() -> None:
    with answering(EDGE):
        check_speaks_for("edge")
        with pytest.raises(ProtocolError, match="that of node 'edge', which cannot speak for"):
            check_speaks_for("other")


def test_without_certificates_everybody_is_who_it_says_it_is() -> None:
    check_speaks_for("anybody")
