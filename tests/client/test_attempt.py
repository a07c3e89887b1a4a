"""The border to user code: whatever happens behind it comes back as a value."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from inspect import getsourcelines

import pytest
import torch

from roundel.client.attempt import (
    ON_PURPOSE,
    Work,
    attempt_block,
    attempt_evaluation,
    attempt_evaluations,
    attempt_training,
    failure_of,
)
from roundel.client.trainer import JudgeTogether, Trainer
from roundel.core.data import ClientData, Examples
from roundel.core.errors import DataError
from roundel.core.faults import fails
from roundel.core.job import LocalJob, Trained
from roundel.core.learning import Learner
from roundel.core.messages import (
    ClientFailure,
    ClientUpdate,
    EvaluateRequest,
    Evaluation,
    TrainRequest,
)
from roundel.core.metrics import Metrics
from roundel.core.task import Task
from roundel.strategies.plan import Plan
from tests.server.toys import ROWS, STRATEGY, TASK, experiment_of, state_of, ticket_of

STATE = {"control": torch.tensor([1.0])}
DATA = ClientData(train=ROWS, validation=ROWS.take(torch.tensor([1])), test=ROWS)


def trainer_of(task: Task = TASK) -> Trainer:
    plan = Plan.of(experiment_of("client.steps=1"), task, STRATEGY)
    return Trainer(plan, Learner(task, seed=0))


def train_request() -> TrainRequest:
    state = state_of()
    return TrainRequest(
        ticket=ticket_of(3), base_version=0, params=state.params, integers=state.integers
    )


def evaluate_request(split: str = "test") -> EvaluateRequest:
    state = state_of()
    return EvaluateRequest(
        ticket=ticket_of(3), params=state.params, integers=state.integers, split=split
    )


def data_of(_client_id: int) -> ClientData:
    return DATA


def line_of(function: Callable[..., object], text: str) -> str:
    """Return ``file:line`` of the line of a function that holds a text."""
    lines, first = getsourcelines(function)
    (offset,) = [i for i, line in enumerate(lines) if text in line]
    return f"{__file__}:{first + offset}"


def broken_loss(_outputs, _targets):
    raise ValueError("no loss\n  for you")


def broken_data(client_id: int) -> ClientData:
    raise OSError(f"client {client_id} has no disk")


# ---- training


def test_a_client_that_trains_gives_its_update():
    update, state = attempt_training(trainer_of(), train_request(), data_of, {})
    assert isinstance(update, ClientUpdate)
    assert (update.ticket, update.num_examples, update.num_steps) == (ticket_of(3), 2, 1)
    assert state == {}


def test_a_client_that_attacks_sends_what_it_makes_of_its_update():
    trainer, request = trainer_of(), train_request()
    learned, kept = attempt_training(trainer, request, data_of, STATE)

    def double(channels):
        return {**channels, "params": 2 * channels["params"]}

    sent, state = attempt_training(trainer, request, data_of, STATE, double)
    assert isinstance(sent, ClientUpdate)
    assert isinstance(learned, ClientUpdate)
    assert sent.channels["params"].equal(2 * learned.channels["params"])
    assert state.keys() == kept.keys()


def test_an_attack_that_fails_is_a_failure_of_its_client():
    def fall(_channels):
        raise ValueError("no such attack")

    answer, _ = attempt_training(trainer_of(), train_request(), data_of, STATE, fall)
    assert isinstance(answer, ClientFailure)
    assert (answer.stage, answer.error) == ("train", "ValueError: no such attack")


def test_data_is_asked_for_by_the_clients_number():
    asked = []
    attempt_training(trainer_of(), train_request(), lambda c: asked.append(c) or DATA, {})
    assert asked == [3]


def test_a_failing_loss_is_a_failure_at_the_users_line():
    trainer = trainer_of(replace(TASK, loss=broken_loss))
    failure, state = attempt_training(trainer, train_request(), data_of, STATE)
    assert isinstance(failure, ClientFailure)
    assert (failure.ticket, failure.stage) == (ticket_of(3), "train")
    assert failure.error == "ValueError: no loss for you"
    assert failure.location == line_of(broken_loss, "raise ValueError")
    assert failure.traceback.startswith("Traceback (most recent call last):\n")
    assert 'raise ValueError("no loss' in failure.traceback
    assert state is STATE


def test_failing_data_is_a_failure_of_its_own_stage():
    failure, state = attempt_training(trainer_of(), train_request(), broken_data, STATE)
    assert isinstance(failure, ClientFailure)
    assert (failure.stage, failure.error) == ("data", "OSError: client 3 has no disk")
    assert failure.location == line_of(broken_data, "raise OSError")
    assert state is STATE


def test_a_client_without_examples_is_a_failure():
    none = ROWS.take(torch.empty(0, dtype=torch.int64))
    empty = ClientData(train=none, validation=none, test=none)
    failure, _ = attempt_training(trainer_of(), train_request(), lambda _c: empty, {})
    assert isinstance(failure, ClientFailure)
    assert failure.error.startswith("there are no training examples")


def test_examples_that_do_not_fit_the_model_are_a_failure():
    odd = Examples(torch.zeros(2, 5), torch.zeros(2))
    data = replace(DATA, train=odd)
    failure, _ = attempt_training(trainer_of(), train_request(), lambda _c: data, {})
    assert isinstance(failure, ClientFailure)
    assert (failure.stage, failure.error.split(":")[0]) == ("train", "RuntimeError")


def test_a_failed_client_leaves_the_next_one_alone():
    calls = []

    def loss(outputs, targets):
        calls.append(1)
        if len(calls) == 1:
            raise ValueError("once")
        return TASK.loss(outputs, targets)

    trainer = trainer_of(replace(TASK, loss=loss))
    failure, _ = attempt_training(trainer, train_request(), data_of, {})
    assert isinstance(failure, ClientFailure)
    after, _ = attempt_training(trainer, train_request(), data_of, {})
    alone, _ = attempt_training(trainer_of(), train_request(), data_of, {})
    assert isinstance(after, ClientUpdate)
    assert isinstance(alone, ClientUpdate)
    assert torch.equal(after.channels["params"], alone.channels["params"])


def raising(error: BaseException) -> Callable[[int], ClientData]:
    def data(_client_id: int) -> ClientData:
        raise error

    return data


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (SystemExit(3), "SystemExit: 3"),
        (SystemExit(), "SystemExit"),
        (RecursionError("too deep"), "RecursionError: too deep"),
        (MemoryError(), "MemoryError"),
        (StopIteration(), "StopIteration"),
        (AssertionError("x" * 10), "AssertionError: xxxxxxxxxx"),
        (DataError("no rows"), "no rows"),
    ],
)
def test_whatever_user_code_raises_even_to_exit_is_a_failure(error, text):
    failure, _ = attempt_training(trainer_of(), train_request(), raising(error), {})
    assert isinstance(failure, ClientFailure)
    assert failure.error == text


def test_the_users_interrupt_is_no_failure_of_a_client():
    with pytest.raises(KeyboardInterrupt):
        attempt_training(trainer_of(), train_request(), raising(KeyboardInterrupt()), {})
    with pytest.raises(KeyboardInterrupt):
        attempt_evaluation(trainer_of(), evaluate_request(), raising(KeyboardInterrupt()), {})


# ---- evaluating


def test_a_client_that_evaluates_gives_its_figures():
    evaluation = attempt_evaluation(trainer_of(), evaluate_request(), data_of, {})
    assert isinstance(evaluation, Evaluation)
    assert evaluation.metrics.count == 2
    # The initial weights (1, 2) miss the targets (1, 4) by 0 and 2.
    assert evaluation.metrics.sums == {"loss": 4.0, "accuracy": 2.0}


def test_the_split_chooses_the_examples():
    evaluation = attempt_evaluation(trainer_of(), evaluate_request("validation"), data_of, {})
    assert isinstance(evaluation, Evaluation)
    assert evaluation.metrics.count == 1


def broken_metrics(_outputs, _targets):
    return {"accuracy": 1 // 0}


def test_failing_metrics_are_a_failure_at_the_users_line():
    trainer = trainer_of(replace(TASK, metrics=broken_metrics))
    failure = attempt_evaluation(trainer, evaluate_request(), data_of, {})
    assert isinstance(failure, ClientFailure)
    assert (failure.ticket, failure.stage) == (ticket_of(3), "evaluate")
    assert failure.error == "ZeroDivisionError: integer division or modulo by zero"
    assert failure.location == line_of(broken_metrics, "1 // 0")


def test_failing_data_fails_an_evaluation_in_its_own_stage():
    failure = attempt_evaluation(trainer_of(), evaluate_request(), broken_data, {})
    assert isinstance(failure, ClientFailure)
    assert (failure.stage, failure.error) == ("data", "OSError: client 3 has no disk")


# ---- evaluating together


def evaluations(trainer: Trainer, data: Callable[[int], ClientData], judge: JudgeTogether):
    requests = [replace(evaluate_request(), ticket=ticket_of(k)) for k in (3, 4)]
    return requests, attempt_evaluations(trainer, requests, data, judge)


def test_clients_that_are_evaluated_together_are_judged_once():
    asked = []

    def judge(vector, integers, examples):
        asked.append((vector, integers, [len(each) for each in examples]))
        return [Metrics({"loss": float(k)}, k) for k in range(2)]

    small = replace(DATA, test=ROWS.take(torch.tensor([0])))
    requests, found = evaluations(trainer_of(), lambda k: DATA if k == 3 else small, judge)
    assert found == [
        Evaluation(ticket=ticket_of(3), metrics=Metrics({"loss": 0.0}, 0)),
        Evaluation(ticket=ticket_of(4), metrics=Metrics({"loss": 1.0}, 1)),
    ]
    assert asked == [(requests[0].params, requests[0].integers, [2, 1])]


def test_clients_that_cannot_be_judged_together_are_judged_one_by_one():
    def judge(_vector, _integers, _examples):
        raise ValueError("not together")

    trainer = trainer_of()
    requests, found = evaluations(trainer, data_of, judge)
    assert found == [attempt_evaluation(trainer, request, data_of, {}) for request in requests]


def test_a_client_whose_data_cannot_be_read_fails_alone():
    def data(client_id: int) -> ClientData:
        return broken_data(client_id) if client_id == 3 else DATA

    _, (failure, evaluation) = evaluations(trainer_of(), data, lambda *_: [])
    assert isinstance(failure, ClientFailure)
    assert (failure.stage, failure.error) == ("data", "OSError: client 3 has no disk")
    assert isinstance(evaluation, Evaluation)
    assert evaluation.metrics.count == 2


def test_what_judging_together_draws_follows_from_the_ticket():
    drawn = []

    def judge(_vector, _integers, _examples):
        drawn.append(torch.rand(()).item())
        return [Metrics(), Metrics()]

    before = torch.get_rng_state()
    for _ in range(2):
        evaluations(trainer_of(), data_of, judge)
    assert drawn[0] == drawn[1]
    assert torch.equal(before, torch.get_rng_state())


# ---- the report


def raised(error: Exception) -> Exception:
    """Return the error with a traceback."""
    with pytest.raises(type(error)) as caught:
        raise error
    return caught.value


class Unreadable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("not even that")


def test_an_error_whose_message_raises_is_reported_all_the_same():
    failure = failure_of(raised(Unreadable()), ticket_of(1), "train")
    assert failure.error == "Unreadable: (its message cannot be read)"
    assert "Unreadable: <exception str() failed>" in failure.traceback


def test_a_message_that_is_no_text_can_still_be_written_and_sent():
    failure = failure_of(raised(ValueError("bad name \udcff")), ticket_of(1), "train")
    assert failure.error == "ValueError: bad name \\udcff"
    for text in (failure.error, failure.traceback):
        assert text.encode()
        assert json.loads(json.dumps(text)) == text


def test_a_message_without_end_loses_its_middle():
    failure = failure_of(raised(ValueError("x" * 10**7 + " the end")), ticket_of(1), "train")
    assert len(failure.error) < 2_100
    assert failure.error.startswith("ValueError: xxx")
    assert failure.error.endswith("xxx the end")
    assert len(failure.traceback) < 100_100
    assert failure.traceback.startswith("Traceback (most recent call last):")


def test_causes_are_part_of_the_traceback():
    def load() -> None:
        try:
            broken_data(3)
        except OSError as error:
            raise ValueError("no rows") from error

    with pytest.raises(ValueError, match="no rows") as caught:
        load()
    failure = failure_of(caught.value, ticket_of(1), "data")
    assert "OSError: client 3 has no disk" in failure.traceback
    assert failure.location == line_of(load, "raise ValueError")


# ---- failing on purpose


def test_a_client_that_is_to_fail_fails_before_its_data_is_asked_for():
    asked = []
    plan = Plan.of(experiment_of("client.steps=1", "faults.fail=1"), TASK, STRATEGY)
    trainer = Trainer(plan, Learner(TASK, seed=0))
    failure, state = attempt_training(
        trainer, train_request(), lambda c: asked.append(c) or DATA, STATE
    )
    assert failure == ClientFailure(ticket=ticket_of(3), stage="train", error=ON_PURPOSE)
    assert state is STATE
    assert asked == []


def test_only_those_that_are_struck_fail():
    experiment = experiment_of("client.steps=1", "faults.fail=0.5")
    trainer = Trainer(Plan.of(experiment, TASK, STRATEGY), Learner(TASK, seed=0))
    failed = []
    for client_id in range(20):
        request = replace(train_request(), ticket=ticket_of(client_id))
        answer, _ = attempt_training(trainer, request, data_of, {})
        failed += [client_id] * isinstance(answer, ClientFailure)
    assert failed == [k for k in range(20) if fails(experiment, 1, k)]
    assert 0 < len(failed) < 20


def test_evaluation_does_not_fail_on_purpose():
    plan = Plan.of(experiment_of("faults.fail=1"), TASK, STRATEGY)
    trainer = Trainer(plan, Learner(TASK, seed=0))
    answer = attempt_evaluation(trainer, evaluate_request(), data_of, {})
    assert isinstance(answer, Evaluation)


def out_of_memory(_jobs: Sequence[LocalJob]) -> Sequence[Trained]:
    raise torch.OutOfMemoryError("out of memory")


def test_memory_that_is_short_for_several_is_told_and_for_one_is_no_reason():
    works = [Work(request=train_request(), state={}) for _ in range(2)]
    with pytest.raises(torch.OutOfMemoryError):
        attempt_block(trainer_of(), works, data_of, out_of_memory)
    ((alone, _),) = attempt_block(trainer_of(), works[:1], data_of, out_of_memory)
    assert isinstance(alone, ClientUpdate)


def unwilling(_jobs: Sequence[LocalJob]) -> Sequence[Trained]:
    raise ValueError("not together")


def test_clients_that_only_together_fail_are_trained_by_themselves_with_a_warning():
    works = [Work(request=train_request(), state={}) for _ in range(2)]
    with pytest.warns(
        RuntimeWarning, match=r"^2 clients .* by itself \(ValueError: not together\)"
    ):
        answers = attempt_block(trainer_of(), works, data_of, unwilling)
    alone, _ = attempt_training(trainer_of(), train_request(), data_of, {})
    assert isinstance(alone, ClientUpdate)
    for answer, _ in answers:
        assert isinstance(answer, ClientUpdate)
        assert torch.equal(answer.channels["params"], alone.channels["params"])
