"""When a model is judged, by whom, and what that says; with clients that answer at once."""

from dataclasses import replace
from inspect import getsourcelines
from math import nan

import pytest

from roundel.core.errors import ConfigError, RunFailed
from roundel.core.learning import Learner
from roundel.core.messages import (
    ClientFailure,
    ClientUpdate,
    EvaluateRequest,
    Evaluation,
    TrainRequest,
)
from roundel.core.metrics import Metrics
from roundel.core.seeds import derive, sample
from roundel.strategies.compose import compose
from roundel.strategies.local_dp import local_dp
from tests.server.toys import (
    TASK,
    FakeClients,
    experiment_of,
    fail,
    figures,
    half_a_step,
    run,
    server_of,
)


def test_the_test_set_is_evaluated_every_so_many_rounds_and_at_the_end():
    results = run(server_of(experiment_of("rounds=5", "evaluation.every=2")), FakeClients())
    assert [bool(report.record.metrics) for _, report in results] == [
        False,
        True,
        False,
        True,
        True,
    ]


def test_figures_on_the_test_set_are_those_of_the_new_parameters():
    ((_, report),) = run(server_of(experiment_of("rounds=1")), FakeClients())
    # w = (1.5, 2) misses targets (1, 4) by 0.5 and 2.
    assert report.record.metrics == {"loss": (0.25 + 4.0) / 2, "accuracy": 1.25}


def test_without_a_test_set_there_are_no_figures():
    ((_, report),) = run(server_of(experiment_of("rounds=1"), test=None), FakeClients())
    assert report.record.metrics == {}
    assert report.record.line()["loss"] is None


@pytest.mark.parametrize(("every", "rounds"), [(0, [4]), (3, [3, 4]), (1, [1, 2, 3, 4])])
def test_clients_are_evaluated_every_so_many_rounds_and_at_the_end(every, rounds):
    settings = ("rounds=4", "evaluation.clients=2", f"evaluation.clients_every={every}")
    results = run(server_of(experiment_of(*settings)), FakeClients(evaluate=figures(loss=1.0)))
    assert [r.record.round for _, r in results if r.record.clients is not None] == rounds


def test_client_figures_are_pooled_and_spread_over_those_with_enough_examples():
    def evaluate(request: EvaluateRequest) -> Evaluation:
        client_id = request.ticket.client_id
        return Evaluation(
            ticket=request.ticket, metrics=Metrics({"loss": 3.0 * client_id}, client_id)
        )

    settings = ("rounds=1", "evaluation.clients=100", "evaluation.min_examples=2")
    ((_, report),) = run(server_of(experiment_of(*settings)), FakeClients(evaluate=evaluate))
    own = {"p10": 3.0, "p50": 3.0, "p90": 3.0, "variance": 0.0, "worst_tenth": 3.0}
    assert report.record.clients == {
        "asked": 4,
        "answered": 3,  # client 0 holds nothing out
        "failures": 0,
        "examples": 6,
        "small": 1,
        "loss": {"mean": 3.0, **own},
    }
    assert report.record.metrics["loss"] == (0.25 + 4.0) / 2  # still those of the test set


def failing_evaluation(request: EvaluateRequest) -> Evaluation | ClientFailure:
    if request.ticket.client_id < 2:
        return ClientFailure(
            ticket=request.ticket,
            stage="evaluate",
            error="KeyError: 'f1'",
            location="mine.py:3",
            traceback=f"Traceback of {request.ticket.client_id}",
        )
    if request.ticket.client_id == 2:
        return Evaluation(ticket=request.ticket, metrics=Metrics({"loss": nan}, 2))
    return Evaluation(ticket=request.ticket, metrics=Metrics({"loss": 1.0}, 2))


def test_a_client_whose_evaluation_fails_or_is_refused_is_named_with_its_reason():
    def train(request: TrainRequest) -> ClientUpdate | ClientFailure:
        return fail(request) if request.ticket.client_id == 0 else half_a_step(request)

    experiment = experiment_of("rounds=1", "cohort.size=4", "evaluation.clients=4")
    clients = FakeClients(train, evaluate=failing_evaluation)
    ((_, report),) = run(server_of(experiment), clients)
    assert report.record.clients is not None
    assert (report.record.clients["answered"], report.record.clients["failures"]) == (1, 3)
    assert report.record.failures == 1  # of the training
    said = [record for record in report.clients if record.stage]
    assert [(r.client, r.status, r.stage, r.reason, r.location) for r in said] == [
        (0, "failed", "evaluate", "KeyError: 'f1'", "mine.py:3"),
        (1, "failed", "evaluate", "KeyError: 'f1'", "mine.py:3"),
        (2, "rejected", "evaluate", "its 'loss' is nan, which is not finite", ""),
    ]
    assert report.failures == {
        0: "Traceback\n  task.py:7\nValueError: bad row\n\nTraceback of 0",
        1: "Traceback of 1",
    }


def test_a_broken_evaluation_does_not_count_as_trouble_with_updates():
    experiment = experiment_of("rounds=1", "cohort.size=4", "evaluation.clients=4")
    ((_, report),) = run(server_of(experiment), FakeClients(evaluate=failing_evaluation))
    assert [report.record.health[key] for key in ("rejected", "failed", "lost")] == [0, 0, 0]


# ---- without a global test set


def test_without_a_test_set_the_clients_pooled_means_stand_for_the_round():
    def evaluate(request: EvaluateRequest) -> Evaluation:
        count = 1 + request.ticket.client_id
        sums = {"loss": 2.0 * count, "accuracy": 1.0, "confusion/0/0": 1.0}
        return Evaluation(ticket=request.ticket, metrics=Metrics(sums, count))

    experiment = experiment_of("rounds=1", "evaluation.clients=4")
    ((_, report),) = run(server_of(experiment, test=None), FakeClients(evaluate=evaluate))
    record = report.record
    assert record.metrics == {"loss": 2.0, "accuracy": 0.4, "precision": 1.0, "recall": 1.0}
    assert record.confusion == [[4]]
    assert record.clients is not None
    assert record.clients["loss"] == {"mean": 2.0}  # nobody has five examples


@pytest.mark.parametrize(
    ("settings", "rounds"),
    [
        ((), [1, 2, 3, 4, 5]),
        (("evaluation.every=2",), [2, 4, 5]),
        (("evaluation.every=2", "evaluation.clients_every=3"), [3, 5]),
        (("evaluation.clients_every=0",), [5]),
    ],
    ids=str,
)
def test_without_a_test_set_clients_are_asked_as_often_as_it_would_have_been(settings, rounds):
    experiment = experiment_of("rounds=5", "evaluation.clients=2", *settings)
    server = server_of(experiment, test=None)
    results = run(server, FakeClients(evaluate=figures(loss=1.0)))
    assert [r.record.round for _, r in results if r.record.clients is not None] == rounds
    assert [r.record.round for _, r in results if r.record.metrics] == rounds


def test_with_a_test_set_clients_are_asked_in_the_last_round_alone():
    experiment = experiment_of("rounds=3", "evaluation.clients=2")
    results = run(server_of(experiment), FakeClients(evaluate=figures(loss=1.0)))
    assert [r.record.round for _, r in results if r.record.clients is not None] == [3]


def test_the_validation_examples_can_be_asked_for():
    asked = []

    def evaluate(request: EvaluateRequest) -> Evaluation:
        asked.append(request.split)
        return Evaluation(ticket=request.ticket, metrics=Metrics({"loss": 1.0}, 5))

    settings = ("rounds=1", "evaluation.clients=2", "evaluation.split=validation")
    run(server_of(experiment_of(*settings)), FakeClients(evaluate=evaluate))
    assert asked == ["validation", "validation"]


# ---- the user's metrics on the test set


def broken_metric(outputs, _targets):
    return {"f1": outputs.no_such_thing}


def test_code_that_fails_on_the_test_set_ends_the_run_with_its_line_and_the_traceback():
    experiment = experiment_of("rounds=3", "evaluation.every=2")
    task = replace(TASK, metrics=broken_metric)
    clients = FakeClients()
    server = server_of(experiment)
    server = replace(server, learner=Learner(task, seed=0))
    seen = []
    with pytest.raises(RunFailed) as caught:
        seen.extend(server.rounds(clients, server.initial_state()))
    assert [state.round for state, _ in seen] == [1]
    first, *details = str(caught.value).splitlines()
    line = getsourcelines(broken_metric)[1] + 1
    assert first == (
        "evaluating round 2 on the global test set failed: AttributeError: 'Tensor' object has no "
        f"attribute 'no_such_thing' ({__file__}:{line})"
    )
    assert details[1] == "Traceback (most recent call last):"
    assert caught.value.exit_code == 1


# ---- confusion


def test_confusion_is_in_the_last_round_alone_and_precision_and_recall_in_all():
    def counted(outputs, _targets):
        return {"accuracy": outputs.sum(), "confusion/0/0": 3, "confusion/1/0": 1}

    server = server_of(experiment_of("rounds=2"))
    server = replace(server, learner=Learner(replace(TASK, metrics=counted), seed=0))
    first, last = (report.record for _, report in run(server, FakeClients()))
    assert (first.confusion, last.confusion) == (None, [[3, 0], [1, 0]])
    assert [record.metrics["precision"] for record in (first, last)] == [0.75, 0.75]
    assert [record.metrics["recall"] for record in (first, last)] == [0.5, 0.5]


def test_an_evaluation_has_another_ticket_than_the_training_of_its_round():
    clients = FakeClients(evaluate=figures(loss=1.0))
    run(server_of(experiment_of("rounds=1", "cohort.size=4", "evaluation.clients=4")), clients)
    *_, (_, evaluated) = clients.log
    trained = {request.ticket for request in clients.requests}
    assert {ticket.client_id for ticket in evaluated} == {t.client_id for t in trained}
    assert not trained & set(evaluated)


def test_client_evaluation_sends_the_new_parameters_to_a_sample():
    sent = []

    def evaluate(request: EvaluateRequest) -> Evaluation:
        sent.append((request.ticket.client_id, request.params.tolist(), request.split))
        return Evaluation(ticket=request.ticket, metrics=Metrics({"loss": 1.0}, 1))

    run(
        server_of(experiment_of("rounds=1", "evaluation.clients=2")), FakeClients(evaluate=evaluate)
    )
    asked = sample(4, 2, derive(0, "evaluated", 1))
    assert sent == [(client_id, [11.0, 1.5, 2.0], "test") for client_id in asked]


# ---- stopping early


def test_a_run_that_reaches_its_target_stops_there_with_everything_a_last_round_has():
    # The first weight moves by half a step a round, and the loss on the first row with it.
    settings = ("rounds=9", "evaluation.every=2", "evaluation.clients=2")
    experiment = experiment_of(*settings, "stop.metric=loss", "stop.target=5")
    server = server_of(experiment)
    results = run(server, FakeClients(evaluate=figures(loss=1.0)))
    records = [report.record for _, report in results]
    assert [record.stopped for record in records] == [
        None,
        "loss = 2.5 reached the target of 5",
    ]
    assert [record.clients is not None for record in records] == [False, True]


def test_a_figure_of_every_round_may_stop_it_in_one_that_was_not_to_be_evaluated():
    settings = ("rounds=9", "evaluation.every=5", "evaluation.clients=2")
    experiment = experiment_of(*settings, "stop.metric=train_loss", "stop.patience=2")
    results = run(server_of(experiment), FakeClients(evaluate=figures(loss=1.0)))
    records = [report.record for _, report in results]
    assert [record.round for record in records] == [1, 2, 3]
    assert records[-1].stopped == "train_loss did not improve on 1.5 in 2 evaluations"
    assert [bool(record.metrics) for record in records] == [False, False, True]
    assert [record.clients is not None for record in records] == [False, False, True]


def test_what_is_recorded_of_earlier_rounds_counts():
    experiment = experiment_of("rounds=9", "stop.metric=train_loss", "stop.patience=3")
    server = server_of(experiment)
    whole = run(server, FakeClients())
    lines = [report.record.line() for _, report in whole]
    for done in range(1, 4):
        rest = list(server.rounds(FakeClients(), whole[done - 1][0], lines[:done]))
        assert [report.record.stopped for _, report in rest] == [
            line.get("stopped") for line in lines[done:]
        ]
    assert list(server.rounds(FakeClients(), whole[-1][0], lines)) == []


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (
            ("stop.metric=clients.accuracy.p10", "evaluation.clients=2"),
            (
                "stop.metric = 'clients.accuracy.p10' is measured in the last round only; set "
                "evaluation.clients_every, such as to 1"
            ),
        ),
        (
            ("stop.metric=clients.accuracy.p10", "evaluation.clients_every=1"),
            (
                "stop.metric = 'clients.accuracy.p10' is measured on clients, and "
                "evaluation.clients = 0 asks none; raise it, such as to 100"
            ),
        ),
    ],
)
def test_a_figure_that_comes_too_late_or_never_cannot_stop_a_run(settings, sentence):
    experiment = experiment_of("stop.target=0.5", *settings)
    with pytest.raises(ConfigError) as caught:
        server_of(experiment).check(population=4)
    assert str(caught.value) == sentence
    unused = experiment_of(*settings)  # nothing waits for it
    server_of(unused).check(population=4)


def test_without_a_test_set_accuracy_is_a_figure_of_clients():
    def check(*settings: str) -> None:
        server_of(experiment_of("stop.patience=2", *settings), test=None).check(population=4)

    check("evaluation.clients=2")
    with pytest.raises(ConfigError, match=r"evaluation\.clients = 0 asks none"):
        check()
    with pytest.raises(ConfigError, match="in the last round only"):
        check("evaluation.clients=2", "evaluation.clients_every=0")


@pytest.mark.parametrize("metric", ["train_loss", "health.clipped"])
def test_a_run_cannot_wait_for_a_figure_that_private_clients_do_not_tell(metric):
    experiment = experiment_of(f"stop.metric={metric}", "stop.target=1")
    server = server_of(experiment, strategy=compose(local_dp()))
    with pytest.raises(ConfigError, match="is a figure of training, which clients with noise of"):
        server.judging.check_stop()
