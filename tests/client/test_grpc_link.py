"""Calls that are made again until they are answered."""

from typing import Any

import grpc
import pytest

from roundel.client import grpc_link
from roundel.client.grpc_link import Link, NotOffered, Pauses
from roundel.core.errors import ProtocolError, RunFailed, SessionLost

CODES = grpc.StatusCode


class Refusal(grpc.RpcError):
    def __init__(self, code: grpc.StatusCode, details: str = "no") -> None:
        self._code, self._details = code, details

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return self._details


class Clock:
    """Time that passes when somebody sleeps."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.slept: list[float] = []

    def monotonic(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now_s += seconds


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(grpc_link, "time", clock)
    return clock


def answering(*answers: Any):
    """Return a call that gives one answer after another; an exception is raised."""
    left = list(answers)

    def call() -> Any:
        answer = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    return call


def insist(*answers: Any, wait_s: float = 600.0) -> tuple[Any, list[str]]:
    said: list[str] = []
    return Link("host:1", wait_s, said.append).insist(answering(*answers)), said


def test_an_answer_is_passed_on(clock):
    assert insist("reply") == ("reply", [])
    assert clock.slept == []


@pytest.mark.parametrize(
    "code",
    [
        CODES.UNAVAILABLE,
        CODES.DEADLINE_EXCEEDED,
        CODES.RESOURCE_EXHAUSTED,
        CODES.CANCELLED,
        CODES.INTERNAL,
        CODES.UNKNOWN,
    ],
)
def test_a_coordinator_that_is_away_is_asked_again(clock, code):
    assert insist(Refusal(code), Refusal(code), "reply") == ("reply", [])
    assert clock.slept == [0.05, 0.1]


def test_pauses_grow_to_five_seconds():
    pauses = Pauses()
    assert [pauses.next_s() for _ in range(9)] == [
        *(0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2),
        *(5.0, 5.0),
    ]


def test_an_absence_that_lasts_is_told_once_and_so_is_its_end(clock):
    details = "failed; last error: UNKNOWN: ipv4:192.0.2.7:1: Connection refused\nsecond line"
    away = Refusal(CODES.UNAVAILABLE, details)
    reply, said = insist(*[away] * 12, "reply")
    assert reply == "reply"
    assert said == ["waiting for host:1 (unavailable: Connection refused) ...", "host:1 is back"]


def test_a_coordinator_that_stays_away_is_given_up_on_in_time(clock):
    with pytest.raises(RunFailed) as caught:
        insist(Refusal(CODES.DEADLINE_EXCEEDED, ""), wait_s=60.0)
    assert str(caught.value) == (
        "the coordinator at host:1 cannot be reached (deadline exceeded), after 60 s of trying; "
        "check that `roundel serve` runs there, and join again"
    )
    assert 50.0 < clock.now_s - 100.0 <= 60.0


@pytest.mark.parametrize(
    ("code", "error", "sentence"),
    [
        (CODES.FAILED_PRECONDITION, SessionLost, "no"),
        (CODES.NOT_FOUND, NotOffered, "no"),
        (CODES.INVALID_ARGUMENT, ProtocolError, "the coordinator at host:1 refuses: no"),
        (CODES.PERMISSION_DENIED, ProtocolError, "the coordinator at host:1 refuses: no"),
        (CODES.UNAUTHENTICATED, ProtocolError, "the coordinator at host:1 refuses: no"),
    ],
)
def test_a_refusal_is_final_and_says_why(clock, code, error, sentence):
    with pytest.raises(ProtocolError) as caught:
        insist(Refusal(code))
    assert type(caught.value) is error
    assert str(caught.value) == sentence
    assert clock.slept == []
