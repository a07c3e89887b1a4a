"""What a round's updates show about its clients."""

import pytest

from roundel.core.metrics import Metrics
from roundel.core.records import ClientRecord
from roundel.server.health import health


def accepted(*norms: float) -> list[ClientRecord]:
    return [
        ClientRecord(round=1, client=k, status="accepted", update_norm=norm)
        for k, norm in enumerate(norms)
    ]


def without_update(client: int, status: str) -> ClientRecord:
    return ClientRecord(round=1, client=client, status=status)


def test_norms_are_those_of_the_accepted_updates():
    records = [*accepted(1.0, 4.0, 3.0, 2.0), without_update(9, "failed")]
    assert health(records, Metrics())["update_norm"] == {"p50": 2.5, "max": 4.0}


def test_without_accepted_updates_there_is_no_norm_and_nobody_diverges():
    found = health([without_update(0, "lost")], Metrics())
    assert (found["update_norm"], found["diverging"]) == (None, [])


def test_those_that_did_not_count_are_counted_by_what_became_of_them():
    statuses = ["rejected", "failed", "failed", "lost", "lost", "lost", "unfinished"]
    records = [without_update(k, status) for k, status in enumerate(statuses)]
    found = health([*accepted(1.0), *records], Metrics())
    assert [found[name] for name in ("rejected", "failed", "lost")] == [1, 2, 3]


@pytest.mark.parametrize(("norm", "diverging"), [(20.0, []), (20.1, [4])])
def test_an_update_of_more_than_ten_times_the_median_length_diverges(norm, diverging):
    records = accepted(1.0, 2.0, 2.0, 3.0, norm)
    assert health(records, Metrics())["diverging"] == diverging


def test_at_most_ten_are_named():
    records = accepted(*[0.0] * 20, *[1.0] * 12)
    assert health(records, Metrics())["diverging"] == list(range(20, 30))


def test_the_share_of_clipped_examples_is_there_if_there_is_a_limit():
    assert health(accepted(1.0), Metrics({"loss": 1.0, "clipped": 3.0}, 12))["clipped"] == 0.25
    assert health(accepted(1.0), Metrics({"loss": 1.0}, 12))["clipped"] is None


def test_attackers_are_counted_if_there_are_any():
    attacker = ClientRecord(round=1, client=5, status="accepted", update_norm=1.0, malicious=True)
    assert health([*accepted(1.0), attacker], Metrics())["malicious"] == 1
    assert "malicious" not in health(accepted(1.0), Metrics())
