"""An experiment turned into objects."""

import pytest
from torch import nn

from roundel.core.config import Experiment
from roundel.core.errors import CompositionError, ConfigError
from roundel.core.optimizers import OptimizerSpec
from roundel.core.task import Task
from roundel.core.training import TrainingResult
from roundel.strategies.compose import compose
from roundel.strategies.fedavg import fedavg
from roundel.strategies.plan import Plan
from tests.strategies.toys import head_then_body

TASK = Task(name="linear", model=lambda: nn.Linear(1, 1))


def experiment(**sections) -> Experiment:
    return Experiment.model_validate({"rounds": 4, **sections})


def test_the_strategy_is_the_one_that_the_experiment_names():
    plan = Plan.of(experiment(strategy={"name": "fedprox", "mu": 0.5}), TASK)
    assert [part.name for part in plan.strategy.parts] == ["fedavg", "prox(mu=0.5)"]
    assert plan.task is TASK


def test_a_given_strategy_takes_the_place_of_the_named_one():
    given = compose(fedavg(), name="mine")
    assert Plan.of(experiment(strategy={"name": "no such thing"}), TASK, given).strategy is given


def test_a_plan_says_every_knob_of_its_strategy_and_how_long_clients_train():
    plan = Plan.of(experiment(strategy={"name": "fedprox", "mu": 0.5}), TASK)
    assert plan.experiment.strategy.knobs == {"mu": 0.5, "server_lr": 1.0, "weights": None}
    assert plan.experiment.client.epochs == 5
    steps = Plan.of(experiment(client={"steps": 3}), TASK).experiment.client
    assert (steps.epochs, steps.steps) == (None, 3)


def test_a_plan_says_the_name_of_a_strategy_that_was_given():
    said = Plan.of(experiment(), TASK, compose(fedavg(), name="mine")).experiment.strategy
    assert (said.name, said.knobs) == ("mine", {})


def test_the_phases_of_a_round_follow_its_schedule():
    plan = Plan.of(
        experiment(client={"lr": 0.8, "schedule": "step", "gamma": 0.5, "epochs": 3}), TASK
    )
    phases = [plan.phases(number) for number in (1, 2, 4)]
    assert [[phase.optimizer.lr for phase in each] for each in phases] == [[0.8], [0.4], [0.1]]
    assert [each[0].epochs for each in phases] == [3, 3, 3]


def test_a_strategy_may_rewrite_the_phases():
    strategy = compose(fedavg(), head_then_body(lambda entry: entry.name == "bias"))
    head, body = Plan.of(experiment(client={"lr": 0.3}), TASK, strategy).phases(1)
    assert head.trains is not None
    assert body.trains is not None
    entries = sorted(TASK.spec(TASK.new_model(0)).entries, key=lambda entry: entry.name)
    assert [entry.name for entry in entries] == ["bias", "weight"]
    assert [head.trains(entry) for entry in entries] == [True, False]
    assert [body.trains(entry) for entry in entries] == [False, True]
    assert head.optimizer == body.optimizer == OptimizerSpec(lr=0.3)


@pytest.mark.parametrize(
    ("sections", "error", "message"),
    [
        ({"strategy": {"name": "fedavgx"}}, ConfigError, "did you mean 'fedavg'"),
        ({"client": {"optimizer": "sdg"}}, ConfigError, "did you mean 'sgd'"),
        (
            {"strategy": {"name": "scaffold"}, "client": {"optimizer": "adam"}},
            CompositionError,
            "scaffold needs more than it gets",
        ),
    ],
)
def test_contradictions_are_found_before_the_first_round(sections, error, message):
    with pytest.raises(error, match=message):
        Plan.of(experiment(**sections), TASK)


# ---- a training function of the user's own


def own(_model, _examples, _context):
    return TrainingResult(steps=1)


OWN = Task(name="own", model=TASK.model, train=own)


@pytest.mark.parametrize("name", ["fedavg", "fedavgm", "fedadam", "fedyogi", "fedadagrad"])
def test_strategies_that_work_on_the_server_go_with_a_training_function(name):
    assert Plan.of(experiment(strategy={"name": name}), OWN).task.train is own


@pytest.mark.parametrize(("name", "part"), [("scaffold", "scaffold"), ("fedprox", "prox(mu=0.01)")])
def test_strategies_that_change_local_training_do_not(name, part):
    with pytest.raises(CompositionError) as caught:
        Plan.of(experiment(strategy={"name": name}), OWN)
    assert str(caught.value) == (
        f"{part} changes local training, and the task 'own' brings a training function of its "
        "own; use a strategy that works on the server, such as fedavg or fedadam, or leave the "
        "function out"
    )


def test_phases_of_a_strategy_do_not_go_with_it_either():
    strategy = compose(fedavg(), head_then_body(lambda entry: entry.name == "bias"))
    with pytest.raises(CompositionError, match="changes local training"):
        Plan.of(experiment(), OWN, strategy)


def test_clients_keep_state_if_the_strategy_or_a_training_function_may_give_them_some():
    def stateful(name, task):
        plan = Plan.of(experiment(strategy={"name": name}), task)
        return plan.stateful(task.spec(task.new_model(0)))

    assert [stateful("fedavg", task) for task in (TASK, OWN)] == [False, True]
    assert stateful("scaffold", TASK)
