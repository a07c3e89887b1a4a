"""How long whoever takes too much has to wait, worked out by hand."""

import pytest

from roundel.server.budgets import Bucket, Rate, Refusals

RATE = Rate(per_s=2.0, burst=3.0)


def test_a_bucket_gives_its_burst_at_once_and_then_its_rate():
    bucket = Bucket(RATE, 0.0)
    assert [bucket.wait_s(1.0, 0.0) for _ in range(5)] == [0.0, 0.0, 0.0, 0.5, 1.0]


def test_a_bucket_fills_again_but_never_beyond_its_burst():
    bucket = Bucket(RATE, 0.0)
    assert bucket.wait_s(5.0, 0.0) == 1.0
    assert bucket.wait_s(1.0, 1.0) == 0.5
    assert bucket.wait_s(3.0, 100.0) == 0.0
    assert bucket.wait_s(1.0, 100.0) == 0.5


def test_a_clock_that_goes_back_gives_nothing():
    bucket = Bucket(RATE, 10.0)
    bucket.wait_s(3.0, 10.0)
    assert bucket.wait_s(1.0, 5.0) == 0.5
    assert bucket.wait_s(0.0, 10.25) == pytest.approx(0.25)


def test_a_bucket_is_empty_when_not_one_is_left():
    bucket = Bucket(RATE, 0.0)
    bucket.wait_s(2.0, 0.0)
    assert not bucket.is_empty(0.0)
    bucket.wait_s(0.5, 0.0)
    assert bucket.is_empty(0.0)
    assert not bucket.is_empty(0.25)


def refusals(**how) -> Refusals:
    limits = {"each": RATE, "together": Rate(per_s=1.0, burst=5.0), "places": 2, **how}
    return Refusals(**limits, now_s=0.0)


def test_whoever_was_refused_too_often_is_not_listened_to_for_a_while():
    counted = refusals()
    for _ in range(3):
        assert not counted.are_too_many("a", 0.0)
        counted.add("a", 0.0)
    assert counted.are_too_many("a", 0.0)
    assert not counted.are_too_many("b", 0.0)
    assert not counted.are_too_many("a", 0.5)


def test_all_places_together_have_a_limit_too():
    counted = refusals(places=10)
    for place in "abcde":
        counted.add(place, 0.0)
    assert counted.are_too_many("f", 0.0)
    assert not counted.are_too_many("f", 1.0)


def test_only_so_many_places_are_remembered():
    counted = refusals(together=Rate(per_s=1.0, burst=100.0))
    for place in "aaabc":
        counted.add(place, 0.0)
    assert not counted.are_too_many("a", 0.0)
