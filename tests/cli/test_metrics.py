"""`--metrics` serves what a federation is doing."""

import urllib.request

import pytest

from roundel.cli.metrics import measured
from roundel.core.status import Snapshot

EMPTY = Snapshot(run="r", rounds=9, done=4, population=100, hosted=0)


def test_whoever_asks_gets_the_latest_figures():
    said: list[str] = []
    seen: list[Snapshot] = []
    with measured(seen.append, "0", said.append) as on_status:
        (line,) = said
        address = line.removeprefix("figures for Prometheus are at ")
        assert read(address) == ""
        on_status(EMPTY)
        assert "\nroundel_rounds_total 4\n" in read(address)
    assert seen == [EMPTY]


def test_without_an_address_nothing_is_served():
    seen: list[Snapshot] = []
    with measured(seen.append, None, say=pytest.fail) as on_status:
        on_status(EMPTY)
    assert seen == [EMPTY]


def read(address: str) -> str:
    with urllib.request.urlopen(address, timeout=10.0) as page:
        return page.read().decode()
