"""When a run is over: a pure function of what it recorded."""

import json
from math import inf, nan
from typing import Any

import pytest

from roundel.core.config import StopConfig
from roundel.core.errors import ConfigError
from roundel.core.files import json_line
from roundel.core.records import RoundRecord
from roundel.server.stopping import reason_to_stop


def line(round: int = 1, **changes: Any) -> dict[str, Any]:
    record = RoundRecord(
        round=round,
        metrics={"loss": 1.0, "accuracy": 0.5},
        train_loss=0.75,
        cohort=2,
        completed=2,
        failures=0,
        bytes_up=1,
        bytes_down=1,
        seconds=0.5,
        params_sha256="a",
        health={"update_norm": {"p50": 1.0, "max": 2.0}, "clipped": None},
    )
    return {**record.line(), **changes}


def stop(*values: float | None, metric: str = "accuracy", **config: Any) -> str | None:
    lines = [line(k, **{metric: value}) for k, value in enumerate(values, start=1)]
    return reason_to_stop(lines, StopConfig(metric=metric, **config))


def test_nothing_stops_a_run_unless_it_is_asked_for():
    assert stop(1.0, 1.0, 1.0) is None


# ---- a target


def test_a_target_stops_it_once_it_is_reached():
    assert stop(0.5, 0.8, target=0.9) is None
    assert stop(0.5, 0.9, target=0.9) == "accuracy = 0.9 reached the target of 0.9"


def test_a_loss_reaches_its_target_from_above():
    assert stop(0.3, metric="loss", target=0.25) is None
    assert stop(0.25, metric="loss", target=0.25) == "loss = 0.25 reached the target of 0.25"


@pytest.mark.parametrize(
    ("metric", "goal", "reached"),
    [
        ("accuracy", "auto", True),
        ("accuracy", "min", False),
        ("loss", "auto", False),
        ("loss", "max", True),
        ("rmse", "auto", False),
        ("f1", "auto", True),
    ],
)
def test_the_goal_says_which_way_is_better_and_auto_knows_losses(metric, goal, reached):
    assert (stop(2.0, metric=metric, goal=goal, target=1.0) is not None) is reached


# ---- patience


@pytest.mark.parametrize(
    ("values", "since"),
    [
        ((0.5,), None),
        ((0.5, 0.5), None),
        ((0.5, 0.5, 0.4), 2),
        ((0.5, 0.4, 0.6, 0.6), None),
        ((0.5, 0.4, 0.6, 0.6, 0.3), 2),
        ((0.5, 0.4, 0.6, 0.6, 0.7), None),
        ((0.9, 0.1, 0.2, 0.3, 0.4), 4),
    ],
)
def test_so_many_evaluations_without_a_new_best_one_stop_it(values, since):
    best = max(values)
    expected = f"accuracy did not improve on {best:g} in {since} evaluations" if since else None
    assert stop(*values, patience=2) == expected


def test_a_loss_improves_by_falling():
    assert stop(1.0, 0.9, 0.8, metric="loss", patience=2) is None
    assert stop(1.0, 1.1, 1.2, metric="loss", patience=2) is not None


def test_a_new_best_one_must_be_better_by_the_least_difference():
    values = (0.5, 0.59, 0.6)
    assert stop(*values, patience=2) is None
    reason = "accuracy did not improve on 0.5 in 2 evaluations"
    assert stop(*values, patience=2, min_delta=0.125) == reason
    assert stop(0.5, 0.59, 0.7, patience=2, min_delta=0.125) is None


def test_rounds_that_were_not_evaluated_do_not_count():
    def between(*values: float) -> list[dict[str, Any]]:
        skipped = line(loss=None, accuracy=None)
        return [each for v in values for each in (skipped, line(accuracy=v))]

    patient = StopConfig(patience=2)
    assert reason_to_stop(between(0.5, 0.4), patient) is None
    assert reason_to_stop(between(0.5, 0.4, 0.4), patient) is not None
    assert (
        reason_to_stop([*between(0.5, 0.4, 0.4), line(loss=None, accuracy=None)], patient) is None
    )


def test_a_target_comes_before_patience():
    assert stop(0.9, 0.9, 0.9, patience=1, target=0.9) == "accuracy = 0.9 reached the target of 0.9"


# ---- what is not finite


@pytest.mark.parametrize("bad", [nan, inf, -inf])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_diverged_figure_decides_the_same_before_and_after_it_is_written_down(bad, place):
    values = [0.5, 0.4, 0.3]
    values[place] = bad
    lines = [line(k, loss=value) for k, value in enumerate(values, start=1)]
    read_back = [json.loads(json_line(each)) for each in lines]
    for config in (
        StopConfig(metric="loss", patience=2),
        StopConfig(metric="loss", goal="max", patience=1),
        StopConfig(metric="loss", target=0.01),
        StopConfig(metric="loss", goal="max", target=99.0),
    ):
        decided = reason_to_stop(lines, config)
        assert decided == reason_to_stop([*read_back[:-1], lines[-1]], config)


# ---- names


CLIENTS = {
    "asked": 4,
    "answered": 3,
    "failures": 0,
    "examples": 30,
    "small": 1,
    "accuracy": {"mean": 0.5, "p10": 0.25},
    "loss": {"mean": 0.5, "p90": 2.0},
}


@pytest.mark.parametrize(
    ("metric", "target"),
    [
        ("clients.accuracy.p10", 0.25),
        ("clients.loss.p90", 2.5),
        ("clients.loss.mean", 0.5),
        ("health.update_norm.p50", 1.0),
        ("train_loss", 0.75),
        ("completed", 2.0),
    ],
)
def test_dots_lead_inside(metric, target):
    newest = [line(clients=CLIENTS)]
    reason = reason_to_stop(newest, StopConfig(metric=metric, target=target))
    assert reason is not None
    assert reason.startswith(f"{metric} = ")
    assert reason_to_stop([line()], StopConfig(metric="clients.loss.p90", target=9.0)) is None


@pytest.mark.parametrize(
    "metric",
    [
        "acuracy",
        "f1",
        "loss.p10",
        "params_sha256",
        "health",
        "health.p50",
        "clients",
        "clients.f1",
        "clients.f1.p10",
        "clients.accuracy",
        "clients.accuracy.p11",
        "seconds",
    ],
)
def test_a_name_that_no_round_has_is_refused_once_there_is_an_evaluation(metric):
    with pytest.raises(ConfigError) as caught:
        reason_to_stop([line(clients=CLIENTS)], StopConfig(metric=metric, target=0.5))
    assert str(caught.value) == (
        f"stop.metric = '{metric}' is not among the figures of a round; choose from loss, "
        "accuracy, train_loss, or one inside clients, such as clients.loss.p90"
    )


def test_accuracy_is_refused_for_a_task_that_has_none():
    with pytest.raises(ConfigError, match="'accuracy' is not among the figures of a round"):
        reason_to_stop([line(accuracy=None, mse=1.0)], StopConfig(patience=3))


@pytest.mark.parametrize(
    ("metric", "newest"),
    [
        ("accuracy", line(loss=None, accuracy=None)),
        ("f1", line(loss=None, accuracy=None)),
        ("train_loss", line(train_loss=None)),
        ("clients.accuracy.p10", line()),
        ("clients.f1.p10", line(clients={"asked": 2, "answered": 0, "examples": 0})),
        ("clients.accuracy.p10", line(clients={"examples": 2, "accuracy": {"mean": 0.5}})),
        ("health.clipped", line()),
    ],
)
def test_a_figure_that_may_come_later_is_waited_for(metric, newest):
    assert reason_to_stop([newest], StopConfig(metric=metric, target=0.5)) is None
