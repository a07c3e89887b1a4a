"""Everything a run needs, made from its experiment and checked before it begins."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from roundel.core.config import Experiment
from roundel.core.configfile import dump_experiment, load_experiment
from roundel.core.data import ClientData, Examples, InMemoryPopulation
from roundel.core.errors import CompositionError, ConfigError, DataError, ParameterError
from roundel.core.task import Task
from roundel.simulations.partitions.make import CLIENTS
from roundel.simulations.partitions.own import Elsewhere
from roundel.simulations.population import PartitionedPopulation
from roundel.simulations.prepare import Pieces, prepare
from roundel.simulations.simulate import simulate

POOL = Examples(torch.arange(40.0).view(20, 2), torch.arange(20) % 2)
TASK = Task(
    name="toy", model=lambda: nn.Linear(2, 2), load=lambda _path: POOL, load_test=lambda _path: POOL
)

MINE = """\
from pathlib import Path
import torch
from torch import nn
from roundel.core.data import Examples
from roundel.core.task import Task

def top5(outputs, targets):
    return {"top5": torch.ones(len(targets)).sum()}

def of_the_same_name(outputs, targets):
    return {"accuracy": 0 * targets.sum()}

def a_number(outputs, targets):
    return 1

def one_each(outputs, targets):
    return {"hit": outputs[:, 0] > 0}

def task(*, path: Path | None = None, size: int = 4, mean: list[float] | None = None,
         activation: type[nn.Module] = nn.ReLU):
    pool = Examples(torch.zeros(40, size), torch.arange(40) % 2)
    net = lambda: nn.Sequential(nn.Linear(size, 2), activation())
    found = {"mean": [0.5] * size}
    return Task(name="mine", model=net, load=lambda _path: pool, load_test=lambda _path: pool,
                knobs=found)

def broken_model():
    return Task(name="broken", model=lambda: nn.Linear(2, "two"), load=lambda _path: None)

def broken_data():
    def load(path):
        return {}["images"]
    return Task(name="broken", model=lambda: nn.Linear(2, 2), load=load)

def broken_test():
    def load(path):
        raise OSError("no such share")
    return Task(name="broken", model=lambda: nn.Linear(2, 2), load_test=load,
                load=lambda _path: Examples(torch.zeros(400, 2), torch.zeros(400).long()))

def refusing():
    from roundel.core.errors import DataError
    def load(path):
        raise DataError("there are no birds in summer; wait")
    return Task(name="refusing", model=lambda: nn.Linear(2, 2), load=load)
"""


@pytest.fixture
def here(workplace) -> Path:
    """A directory with a module of the user's, gone after the test."""
    (workplace / "mine.py").write_text(MINE)
    return workplace


def experiment(*settings: str) -> Experiment:
    few = ["partition.kind=iid", "partition.clients=4", "cohort.size=2"]
    return load_experiment(None, [*few, *settings])


def undivided(*settings: str) -> Experiment:
    """An experiment for clients that bring their own examples."""
    return load_experiment(None, ["partition.clients=4", "cohort.size=2", *settings])


def line_of(text: str) -> int:
    return MINE[: MINE.index(text)].count("\n") + 1


# ---- what is settled


def test_the_experiment_says_every_knob_of_the_task_and_what_it_found_out(here):
    resolved = prepare(experiment("task.name=mine:task", "task.path=birds")).plan.experiment
    assert (resolved.task.name, str(resolved.task.path)) == ("mine:task", str(here / "birds"))
    assert resolved.task.knobs == {"size": 4, "mean": [0.5] * 4}
    assert "activation" not in dump_experiment(resolved)  # no file can hold a class


def test_the_resolved_experiment_is_its_own_resolution(here):
    for name in ("digits", "synthetic", "linear", "mine:task"):
        resolved = prepare(undivided(f"task.name={name}")).plan.experiment
        again = prepare(resolved).plan.experiment
        assert dump_experiment(again) == dump_experiment(resolved)


def test_the_experiment_says_how_many_clients_there_are():
    def clients(*settings: str, pieces: Pieces = Pieces(task=TASK)) -> int | None:
        base = load_experiment(None, ["cohort.size=2", *settings])
        return prepare(base, pieces).plan.experiment.partition.clients

    assert clients("partition.clients=7") == 7
    assert clients("partition.min_examples=0") == CLIENTS == 100
    three = InMemoryPopulation.of([POOL] * 3)
    assert clients(pieces=Pieces(task=TASK, population=three)) == 3


def test_a_given_task_has_its_own_name_in_the_experiment():
    resolved = prepare(experiment("task.name=digits"), Pieces(task=TASK)).plan.experiment
    assert (resolved.task.name, resolved.task.knobs) == ("toy", {})


# ---- clients


def test_a_task_that_makes_its_clients_is_asked_for_so_many_with_the_data_seed():
    asked = []

    def population(clients: int, seed: int) -> InMemoryPopulation:
        asked.append((clients, seed))
        return InMemoryPopulation.of([POOL] * 5)

    made = replace(TASK, population=population)
    settings = ("seed=3", "seeds.data=8", "partition.clients=5")
    simulation = prepare(undivided(*settings), Pieces(task=made))
    assert asked == [(5, 8)]
    assert simulation.population.size == 5


def test_a_pool_is_divided_as_the_experiment_says():
    population = prepare(experiment(), Pieces(task=TASK)).population
    assert isinstance(population, PartitionedPopulation)
    whole = [population.client(k) for k in range(4)]
    rows = [*(part for c in whole for part in (c.train, c.validation, c.test))]
    assert sum(len(part) for part in rows) == 20


def test_a_given_population_is_taken_as_it_is():
    given = InMemoryPopulation.of([POOL] * 4)
    assert prepare(undivided(), Pieces(task=TASK, population=given)).population is given


def test_what_would_divide_a_pool_is_refused_where_there_is_none():
    given = InMemoryPopulation.of([POOL] * 4)
    with pytest.raises(ConfigError) as caught:
        prepare(undivided("partition.noise=0.5"), Pieces(task=TASK, population=given))
    assert str(caught.value) == (
        "partition.noise = 0.5 has no effect: the clients bring their own examples and no pool is "
        "divided; leave it out"
    )


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            {"load": lambda _path: None},
            "load of the task 'toy' returned NoneType; it must return roundel.core.data.Examples",
        ),
        (
            {"load_test": lambda _path: POOL.take(torch.tensor([], dtype=torch.int64))},
            "load_test of the task 'toy' returned no examples; give it some",
        ),
    ],
)
def test_a_loader_that_returns_something_else_than_examples_is_an_error(change, sentence):
    with pytest.raises(DataError) as caught:
        prepare(experiment(), Pieces(task=replace(TASK, **change)))
    assert str(caught.value) == sentence


def test_nodes_do_not_read_the_global_test_set():
    def load_test(_path: Path | None) -> Examples:
        raise AssertionError("it was read")

    task = replace(TASK, load_test=load_test)
    assert prepare(experiment(), Pieces(task=task), load_test=False).test is None


def test_the_fingerprint_depends_on_inputs_targets_and_who_holds_them():
    def fingerprint(pool: Examples, *settings: str) -> str:
        task = replace(TASK, load=lambda _path: pool, load_test=None)
        return prepare(experiment(*settings), Pieces(task=task)).fingerprint

    other_inputs = Examples(POOL.inputs + 1, POOL.targets)
    other_targets = Examples(POOL.inputs, 1 - POOL.targets)
    prints = [fingerprint(pool) for pool in (POOL, other_inputs, other_targets)]
    assert len({*prints, fingerprint(POOL, "seeds.data=9")}) == 4
    assert fingerprint(POOL) == prints[0]


def test_a_task_without_examples_needs_a_population():
    bare = replace(TASK, load=None)
    with pytest.raises(ConfigError) as caught:
        prepare(experiment(), Pieces(task=bare))
    assert str(caught.value) == (
        "task 'toy' brings no examples to divide; give a population in `pieces`"
    )


# ---- clients that bring their own examples


def own(*settings: str) -> Experiment:
    return load_experiment(
        None, ["partition.kind=own", "partition.clients=3", "cohort.size=2", *settings]
    )


def test_the_model_and_the_test_set_need_no_clients_examples():
    simulation = prepare(own())
    assert (simulation.population, simulation.root) == (Elsewhere(3), None)
    assert simulation.test is not None
    assert len(simulation.test) == 355
    assert simulation.plan.experiment.partition.kind == "own"
    assert prepare(simulation.plan.experiment).fingerprint == simulation.fingerprint


def test_without_a_test_set_at_the_coordinator_clients_are_evaluated():
    def load_test(_path: Path | None) -> Examples:
        raise DataError("it does not ship")

    assert prepare(own(), Pieces(task=replace(TASK, load_test=load_test))).test is None
    with pytest.raises(DataError, match=r"^it does not ship$"):
        prepare(own("task.path=birds"), Pieces(task=replace(TASK, load_test=load_test)))


def test_root_examples_are_the_coordinators_own():
    simulation = prepare(own("strategy.name=fltrust", "partition.root=7"), Pieces(task=TASK))
    assert simulation.root is not None
    assert len(simulation.root) == 7

    def load(_path: Path | None) -> Examples:
        raise DataError("it does not ship")

    with pytest.raises(CompositionError, match="trains on root examples at the server, and the"):
        prepare(own("strategy.name=fltrust"), Pieces(task=replace(TASK, load=load)))


def test_nobody_at_the_coordinator_knows_how_many_examples_clients_have():
    assert prepare(own()).server("run").sizes is None


def test_such_an_experiment_is_refused_by_a_simulation_before_anything_is_read(tmp_path):
    def load(_path: Path | None) -> Examples:
        raise AssertionError("it was read")

    task = replace(TASK, load=load, load_test=load)
    with pytest.raises(ConfigError, match=r"^partition\.kind = 'own' leaves "):
        simulate(own(), pieces=Pieces(task=task), out=tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_a_task_that_makes_its_clients_cannot_have_them_bring_examples():
    with pytest.raises(ConfigError, match=r"^the task 'synthetic' reads no examples from a path"):
        prepare(own("task.name=synthetic"))


# ---- what the user's code raises


@pytest.mark.parametrize(
    ("name", "kind", "sentence", "line"),
    [
        (
            "broken_model",
            ConfigError,
            "making the model of the task 'broken' failed: TypeError: ",
            'nn.Linear(2, "two")',
        ),
        (
            "broken_data",
            DataError,
            "loading the data of the task 'broken' failed: KeyError: 'images' ",
            '{}["images"]',
        ),
        (
            "broken_test",
            DataError,
            "loading the data of the task 'broken' failed: OSError: no such share ",
            'OSError("no such share")',
        ),
    ],
)
def test_user_code_that_fails_is_told_with_its_line_and_traceback(here, name, kind, sentence, line):
    with pytest.raises(kind) as caught:
        prepare(experiment(f"task.name=mine:{name}"))
    first, empty, *details = str(caught.value).split("\n")
    assert first.startswith(sentence)
    assert first.endswith(f"({here / 'mine.py'}:{line_of(line)})")
    assert (empty, details[0]) == ("", "Traceback (most recent call last):")


def test_an_error_that_already_speaks_is_left_as_it_is(here):
    with pytest.raises(DataError, match=r"^there are no birds in summer; wait$"):
        prepare(experiment("task.name=mine:refusing"))


def test_contradictions_are_found_before_any_data_is_read():
    def load(_path: Path | None) -> Examples:
        raise AssertionError("it was read")

    with pytest.raises(ConfigError, match="did you mean 'fedavg'"):
        prepare(experiment("strategy.name=fedavgg"), Pieces(task=replace(TASK, load=load)))


# ---- metrics of one's own


def test_metrics_of_ones_own_stand_beside_those_of_the_task(here):
    task = prepare(experiment('evaluation.metrics=["mine:top5"]'), Pieces(task=TASK)).plan.task
    scores = torch.eye(2)
    figures = {k: float(v) for k, v in task.metrics(scores, torch.tensor([0, 0])).items()}
    assert figures == {"accuracy": 1, "confusion/0/0": 1, "confusion/0/1": 1, "top5": 2}


@pytest.mark.parametrize(
    ("metric", "sentence"),
    [
        (
            "of_the_same_name",
            "returned 'accuracy', which is measured already; call it something else",
        ),
        ("a_number", "returned int; it must return sums over the batch by name, such as "),
        ("one_each", "returned 'hit' of shape (2,); return one sum over the batch, by name"),
    ],
)
def test_a_metric_that_returns_something_else_than_new_sums_is_an_error(here, metric, sentence):
    settings = f'evaluation.metrics=["mine:{metric}"]'
    task = prepare(experiment(settings), Pieces(task=TASK)).plan.task
    with pytest.raises(ConfigError) as caught:
        task.metrics(torch.eye(2), torch.tensor([0, 1]))
    assert f"'mine:{metric}' {sentence}" in str(caught.value)


def test_a_metric_that_does_not_exist_is_found_before_any_data_is_read(here):
    def load(_path: Path | None) -> Examples:
        raise AssertionError("it was read")

    task = replace(TASK, load=load)
    with pytest.raises(ConfigError, match=r"^evaluation\.metrics = 'mine:top': .* 'top5'\?$"):
        prepare(experiment('evaluation.metrics=["mine:top"]'), Pieces(task=task))


# ---- parameters to start from


class Frozen(nn.Module):
    """A frozen body and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(2, 3).requires_grad_(requires_grad=False)
        self.head = nn.Linear(3, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.head(self.body(inputs))
        return outputs


FROZEN = replace(TASK, model=Frozen)


def test_a_run_starts_from_the_parameters_in_a_file_frozen_ones_included(tmp_path):
    given = {name: torch.full_like(t, 0.5) for name, t in Frozen().state_dict().items()}
    save_file(given, tmp_path / "given.safetensors")
    simulation = prepare(
        experiment(f"task.initial={tmp_path}/given.safetensors"), Pieces(task=FROZEN)
    )
    assert simulation.server("").initial_state().params.tolist() == [0.5] * 8
    model = simulation.learner.model.state_dict()
    assert model["body.weight"].tolist() == [[0.5, 0.5]] * 3


def test_the_first_model_is_recorded_whatever_else_is_set():
    def first_model(*settings):
        return prepare(experiment(*settings), Pieces(task=FROZEN)).unsaid["model_blake3"]

    assert first_model() == first_model("client.lr=0.5", "seeds.data=3")
    assert first_model() != first_model("seeds.model=1")


def test_a_run_starts_where_another_one_ended(tmp_path):
    first = simulate(experiment("rounds=2"), pieces=Pieces(task=FROZEN), out=tmp_path / "first")
    going_on = experiment("rounds=1", f"task.initial={first.path}", "seeds.model=99")
    simulation = prepare(going_on, Pieces(task=FROZEN))
    frozen = Frozen()
    state = simulation.learner.model.state_dict()
    run = simulate(going_on, pieces=Pieces(task=FROZEN), out=tmp_path / "second")
    assert run.experiment.task.initial == first.path
    assert run.hashes[0] not in first.hashes
    expected = FROZEN.new_model(0).state_dict()["body.weight"]  # the first run's, not of seed 99
    assert torch.equal(state["body.weight"], expected)
    assert frozen.state_dict().keys() == state.keys()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "there is no model {file}; check the path"),
        (b"not safetensors", "{file} cannot be read ("),
        (
            {"weight": torch.zeros(3, 2), "bias": torch.zeros(2)},
            "task.initial = '{file}' does not fit the model: 'weight' is 3 x 2 where ",
        ),
        (
            {"weight": torch.zeros(2, 2)},
            "task.initial = '{file}' does not fit the model: it lacks 'bias'; ",
        ),
    ],
    ids=["absent", "another format", "wrong shape", "missing name"],
)
def test_parameters_that_cannot_be_started_from_are_refused_in_one_sentence(
    tmp_path, content: Any, sentence
):
    file = tmp_path / "given.safetensors"
    if isinstance(content, bytes):
        file.write_bytes(content)
    elif content is not None:
        save_file(content, file)
    with pytest.raises(ParameterError) as caught:
        prepare(experiment(f"task.initial={file}"), Pieces(task=TASK))
    assert str(caught.value).startswith(sentence.format(file=file))
    assert "\n" not in str(caught.value)


def test_batch_norm_trains_where_a_client_has_one_example_more_than_a_batch(tmp_path):
    def model() -> nn.Module:
        return nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))

    clients = [
        ClientData(train=POOL.take(torch.arange(count)), validation=POOL, test=POOL)
        for count in (5, 9, 4, 2)
    ]
    pieces = Pieces(task=replace(TASK, model=model), population=InMemoryPopulation(clients))
    settings = ("rounds=2", "cohort.size=4", "client.batch_size=4", "client.epochs=1")
    run = simulate(undivided(*settings), pieces=pieces, out=tmp_path / "run")
    assert [line["completed"] for line in run.rounds] == [4, 4]
    steps = {row["client"]: row["num_steps"] for row in run.clients()}
    assert steps == {0: 1, 1: 2, 2: 1, 3: 1}
