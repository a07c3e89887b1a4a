"""What a node and its coordinator compare is alike on both sides, unless they differ."""

import json
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from roundel.core.config import Experiment
from roundel.core.configfile import load_experiment
from roundel.core.data import Examples, InMemoryPopulation
from roundel.core.fingerprint import MAX_BYTES, misfit
from roundel.core.task import Task
from roundel.core.usercode import load_function
from roundel.simulations.prepare import Pieces, Simulation, prepare
from roundel.simulations.registration import code_of, hosted_by, own_functions, registration

POOL = Examples(torch.arange(40.0).view(20, 2), torch.arange(20) % 2)
TASK = Task(name="toy", model=lambda: nn.Linear(2, 2), load=lambda _path: POOL)


def made(task: Task = TASK, *settings: str, **pieces: Any) -> Simulation:
    few = ["partition.kind=iid", "partition.clients=4", "cohort.size=2"]
    return prepare(load_experiment(None, [*few, *settings]), Pieces(task=task, **pieces))


def difference(node: Simulation, coordinator: Simulation) -> str:
    """What the sentence about a node names."""
    sentence = misfit("edge", registration(node), registration(coordinator))
    return sentence.removeprefix("node 'edge' does not fit the run; it differs in ").removesuffix(
        "; install or give it what the coordinator has"
    )


def test_both_sides_of_one_experiment_agree():
    resolved = prepare(load_experiment(None, [])).plan.experiment
    node = prepare(resolved, load_test=False)
    assert registration(node) == registration(prepare(resolved))


def test_a_fingerprint_is_short_for_every_task_that_ships():
    for name in ("digits", "synthetic", "linear", "characters"):
        run = load_experiment(None, [f"task.name={name}"])
        assert len(registration(prepare(run))) < MAX_BYTES


def test_another_model_is_told_by_its_first_tensor():
    deeper = replace(TASK, model=lambda: nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2)))
    assert difference(made(deeper), made()) == (
        "the model's layout (0.weight 3x2 at the node, weight 2x2 at the coordinator)"
    )


def test_a_tensor_of_another_role_or_dtype_is_another_one():
    personal = replace(TASK, personal=lambda name: name == "bias")
    assert difference(made(personal), made()) == (
        "the model's layout (bias 2 personal at the node, bias 2 at the coordinator)"
    )
    norm = replace(TASK, model=lambda: nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)))
    listed = json.loads(registration(made(norm)))["tensors"]
    assert listed[:2] == ["1.running_mean 2 buffer", "1.running_var 2 buffer"]
    assert listed[-1] == "1.num_batches_tracked scalar int64 buffer"


def test_who_holds_which_examples_is_compared():
    assert difference(made(TASK, "seeds.data=9"), made()) == "who holds which examples"


def test_other_examples_are_told_from_another_division():
    for other in (Examples(POOL.inputs + 1, POOL.targets), Examples(POOL.inputs, 1 - POOL.targets)):
        task = replace(TASK, load=lambda _path, pool=other: pool)
        assert difference(made(task), made()) == "the task's examples"


def test_knobs_that_a_task_finds_out_are_compared():
    assert difference(made(replace(TASK, knobs={"classes": [0, 1]})), made()) == "task.classes"


def test_weights_that_never_travel_are_compared():
    def frozen() -> nn.Module:
        model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
        model[0].requires_grad_(requires_grad=False)
        return model

    personal = replace(TASK, personal=lambda name: name == "weight")
    for task in (personal, replace(TASK, model=frozen)):
        assert difference(made(task), made(task)) == ""
        assert difference(made(task, "seeds.model=9"), made(task)).startswith("weights that never")
    assert difference(made(TASK, "seeds.model=9"), made()) == ""  # all of them come with the round


def test_clients_made_on_demand_have_no_pool_to_compare():
    undivided = load_experiment(None, ["partition.clients=4", "cohort.size=2"])
    population = InMemoryPopulation.of([POOL] * 4)
    simulation = prepare(undivided, Pieces(task=TASK, population=population))
    told = json.loads(registration(simulation))
    assert (told["examples"], told["partition"]) == ("", "")


def test_a_node_hosts_the_clients_that_it_is_given():
    simulation = made()
    hosted = hosted_by(simulation, [1, 3])
    assert (list(hosted.client_ids), hosted.own_data) == ([1, 3], False)
    assert hosted.fingerprint == registration(simulation)


def test_functions_of_the_users_own_are_those_with_a_module():
    named = {
        "task": {"name": "birds:task"},
        "evaluation": {"metrics": ["birds:rare"]},
        "strategy": {"name": "fedavg", "parts": ["clip", {"name": "mine:part"}]},
    }
    assert own_functions(Experiment.model_validate(named)) == [
        "birds:task",
        "birds:rare",
        "mine:part",
    ]
    assert own_functions(Experiment()) == []


# ---- which code it is


def test_code_of_an_installed_package_is_told_by_its_version(workplace):
    (workplace / "birds.py").write_text("def task(): pass\n")
    about = workplace / "birding-1.2.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: birding\nVersion: 1.2\n")
    (about / "top_level.txt").write_text("birds\n")
    load_function("birds:task", "task.name")
    assert code_of(["birds:task", "birds:metric"]) == {"birds": "birding 1.2"}


def test_code_in_a_file_is_told_by_its_content(workplace):
    (workplace / "birds.py").write_text("def task(): pass\n")
    load_function("birds:task", "task.name")
    first = code_of(["birds:task"])
    assert first["birds"].startswith("a file with the hash ")
    (workplace / "birds.py").write_text("def task(): return 1\n")
    assert code_of(["birds:task"]) != first


def test_without_code_of_the_users_there_is_none_to_compare():
    assert code_of([]) == {}
