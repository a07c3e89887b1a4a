"""Connections never take all that a process may open."""

import resource

import pytest

from roundel.server.descriptors import connections_at_most


@pytest.mark.parametrize(
    ("hard", "expected"), [(256, 128), (resource.RLIM_INFINITY, 20_000), (1_048_576, 20_000)]
)
def test_half_of_the_open_files_are_connections_at_most(monkeypatch, hard, expected):
    raised = []
    monkeypatch.setattr(resource, "getrlimit", lambda _what: (128, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda _what, limits: raised.append(limits))
    assert connections_at_most() == expected
    assert raised == [(hard, hard)]
