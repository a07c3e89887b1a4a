"""Figures over clients' own examples, and those of a round."""

from collections.abc import Mapping
from math import inf, nan

import pytest

from roundel.core.messages import ClientFailure, Evaluation
from roundel.core.metrics import Metrics
from roundel.core.records import ClientRecord
from roundel.server.evaluation import ClientFigures, figures
from tests.server.toys import ticket_of


def answer(client_id: int, count: int = 2, **sums: float) -> Evaluation:
    return answer_with(sums, client_id, count)


def answer_with(sums: Mapping[str, float], client_id: int, count: int = 2) -> Evaluation:
    return Evaluation(ticket=ticket_of(client_id), metrics=Metrics(sums, count))


def failure(client_id: int, **changes: str) -> ClientFailure:
    return ClientFailure(ticket=ticket_of(client_id), stage="evaluate", error="no", **changes)


def figures_of(*answers: Evaluation | ClientFailure, min_examples: int = 1) -> ClientFigures:
    return ClientFigures.of(answers, min_examples)


def test_means_are_over_examples_and_the_spread_is_over_clients():
    said = figures_of(answer(0, 1, loss=0.0), answer(1, 3, loss=12.0)).line()
    assert said == {
        "asked": 2,
        "answered": 2,
        "failures": 0,
        "examples": 4,
        "small": 0,
        "loss": {
            "mean": 3.0,
            "p10": pytest.approx(0.4),
            "p50": 2.0,
            "p90": pytest.approx(3.6),
            "variance": 4.0,
            "worst_tenth": 4.0,  # a loss: the largest is the worst
        },
    }


def test_the_worst_tenth_are_the_least_accurate():
    answers = [answer(k, 10, accuracy=float(k)) for k in range(1, 10)]
    assert figures_of(*answers).line()["accuracy"]["worst_tenth"] == 0.1


def test_a_client_with_too_few_examples_is_pooled_and_has_no_figure_of_its_own():
    answers = [answer(0, 4, loss=40.0), answer(1, 5, loss=5.0), answer(2, 6, loss=12.0)]
    said = figures_of(*answers, min_examples=5).line()
    assert (said["answered"], said["small"], said["examples"]) == (3, 1, 15)
    assert said["loss"]["mean"] == 57 / 15
    assert (said["loss"]["p50"], said["loss"]["worst_tenth"]) == (1.5, 2.0)


def test_where_all_clients_have_too_few_there_are_pooled_means_alone():
    said = figures_of(answer(0, 1, loss=3.0), answer(1, 1, loss=1.0), min_examples=5).line()
    assert (said["answered"], said["small"]) == (2, 2)
    assert said["loss"] == {"mean": 2.0}


def test_a_population_that_holds_nothing_out_has_counts_and_no_figures():
    assert figures_of(answer(0, 0), answer(1, 0)).line() == {
        "asked": 2,
        "answered": 0,
        "failures": 0,
        "examples": 0,
        "small": 0,
    }


GOOD = {"loss": 4.0, "accuracy": 1.0}


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (answer(0), "it has [], not ['accuracy', 'loss']"),
        (answer(0, loss=1.0), "it has ['loss'], not ['accuracy', 'loss']"),
        (
            answer_with({**GOOD, "asked": 9.0}, 0),
            "it has ['accuracy', 'asked', 'loss'], not ['accuracy', 'loss']",
        ),
        (answer(0, loss=nan, accuracy=1.0), "its 'loss' is nan, which is not finite"),
        (answer(0, loss=1.0, accuracy=inf), "its accuracy counts inf right answers of 2 examples"),
        (
            answer_with(GOOD, 0, 1 << 60),
            "it covers 1152921504606846976 examples, which is not between 0 and 2**40",
        ),
        (
            answer_with({**GOOD, "top/5": 1.0}, 0),
            "its 'top/5' = 1.0 is not a count of its 2 examples",
        ),
    ],
    ids=["no names", "too few", "too many", "nan", "inf", "absurdly many examples", "a count"],
)
def test_one_clients_bad_figures_are_refused_by_name_and_leave_the_others_alone(bad, reason):
    found = figures_of(bad, *(answer_with(GOOD, k) for k in (1, 2, 3)))
    said = found.line()
    assert (said["answered"], said["failures"], said["examples"]) == (3, 1, 6)
    assert (said["loss"]["mean"], said["accuracy"]["mean"]) == (2.0, 0.5)
    assert "asked" in said
    assert said["asked"] == 4
    assert found.records(7) == (
        ClientRecord(round=7, client=0, status="rejected", stage="evaluate", reason=reason),
    )


def test_what_is_said_of_a_client_with_many_names_has_an_end():
    flood = answer_with({**GOOD, **{f"{k:0200}": 1.0 for k in range(100)}}, 0)
    (record,) = figures_of(flood, *(answer_with(GOOD, k) for k in (1, 2, 3))).records(7)
    assert record.reason.startswith(f"it has ['{0:0200}', '{1:0200}', ")
    assert record.reason.endswith("00, not ['accuracy', 'loss']")
    assert len(record.reason) == len("it has , not ['accuracy', 'loss']") + 1000


def test_which_counts_occur_may_differ_from_client_to_client():
    one = answer_with({"accuracy": 2.0, "confusion/0/0": 2.0}, 0, 2)
    other = answer_with({"accuracy": 0.0, "confusion/1/0": 3.0}, 1, 3)
    found = figures_of(one, other)
    assert found.line()["failures"] == 0
    assert found.pooled.confusion() == [[2, 0], [3, 0]]
    assert set(found.line()) == {"asked", "answered", "failures", "examples", "small", "accuracy"}


def test_failures_and_refusals_are_recorded_by_client_with_their_tracebacks():
    found = figures_of(
        failure(3, location="mine.py:7", traceback="Traceback of 3"),
        answer(2, loss=nan),
        failure(1),
        answer(0, loss=1.0),
    )
    assert [(r.client, r.status, r.location) for r in found.records(1)] == [
        (1, "failed", ""),
        (2, "rejected", ""),
        (3, "failed", "mine.py:7"),
    ]
    assert {record.stage for record in found.records(1)} == {"evaluate"}
    assert found.tracebacks() == {3: "Traceback of 3"}
    assert (found.line()["answered"], found.line()["failures"]) == (1, 3)


def test_if_nobody_answers_there_are_no_figures():
    assert figures_of(failure(0), failure(1)).line() == {
        "asked": 2,
        "answered": 0,
        "failures": 2,
        "examples": 0,
        "small": 0,
    }


# ---- a round's figures


def test_a_rounds_figures_are_its_means():
    assert figures(Metrics({"loss": 3.0, "mae": 1.0}, 2)) == {"loss": 1.5, "mae": 0.5}
    assert figures(Metrics()) == {}


def test_precision_and_recall_are_averaged_over_the_classes_that_have_one():
    # Class 0: 3 of 4 taken for it are right, 3 of 3 found. Class 1: never taken, 0 of 1 found.
    counts = {"confusion/0/0": 3.0, "confusion/1/0": 1.0}
    assert figures(Metrics({"accuracy": 3.0, **counts}, 4)) == {
        "accuracy": 0.75,
        "precision": 0.75,
        "recall": 0.5,
    }


def test_a_precision_of_the_users_own_stays_as_it_is():
    own = figures(Metrics({"precision": 1.0, "confusion/0/0": 4.0}, 4))
    assert (own["precision"], own["recall"]) == (0.25, 1.0)


def test_counts_of_nothing_are_no_confusion():
    assert figures(Metrics({"confusion/0/0": 0.0}, 2)) == {}
