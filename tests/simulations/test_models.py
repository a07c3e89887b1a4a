"""The model that a run ended with, ready to be used."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from roundel.core.config import Experiment
from roundel.core.data import Examples, InMemoryPopulation
from roundel.core.errors import ParameterError, RunDirectoryError
from roundel.core.learning import Learner
from roundel.core.task import Task
from roundel.simulations import Pieces, load_model, simulate
from tests.killing import killed_in

CLIENT = Examples(torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 1.0]]), torch.tensor([0, 1, 0]))
EXPERIMENT = Experiment.model_validate(
    {"rounds": 2, "cohort": {"size": 2}, "evaluation": {"clients": 0}}
)


class Net(nn.Module):
    """A frozen stem, a norm, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(2, 2).requires_grad_(requires_grad=False)
        self.norm = nn.BatchNorm1d(2)
        self.head = nn.Linear(2, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.head(self.norm(self.stem(inputs)))
        return outputs


TASK = Task(name="net", model=Net, load_test=lambda _path: CLIENT)
PIECES = Pieces(task=TASK, population=InMemoryPopulation.of([CLIENT] * 2))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return simulate(EXPERIMENT, pieces=PIECES, out=tmp_path_factory.mktemp("net") / "run")


def test_the_model_does_what_the_last_round_recorded(run):
    model = load_model(run.path, TASK)
    assert not any(part.training for part in model.modules())
    with torch.no_grad():
        loss = TASK.loss(model(CLIENT.inputs), CLIENT.targets)
    assert float(loss) == pytest.approx(run.rounds[-1]["loss"])


def test_frozen_parameters_buffers_and_counters_come_along(run):
    state = load_model(str(run.path), TASK).state_dict()
    initial = TASK.new_model(0).state_dict()
    assert torch.equal(state["stem.weight"], initial["stem.weight"])
    assert not torch.equal(state["norm.running_mean"], initial["norm.running_mean"])
    assert state["norm.num_batches_tracked"].item() == 2 * 5  # two rounds of five epochs
    assert Learner(TASK, 0).spec.fingerprint == TASK.spec(load_model(run.path, TASK)).fingerprint


def test_a_named_task_is_made_again_with_its_knobs(tmp_path):
    sets = ["rounds=1", "task.model=cnn", "cohort.size=2", "evaluation.clients=0"]
    run = simulate(settings=[*sets, "client.steps=1"], out=tmp_path / "run")
    assert sum(p.numel() for p in load_model(run.path).parameters()) == 9_930


def test_a_run_that_has_not_finished_has_no_model(tmp_path):
    with killed_in(1) as die:
        simulate(EXPERIMENT, pieces=PIECES, out=tmp_path / "run", on_round=die)
    with pytest.raises(ParameterError, match=r"the run has not finished$"):
        load_model(tmp_path / "run", TASK)


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(RunDirectoryError, match="is not a run directory"):
        load_model(tmp_path, TASK)


def test_a_model_of_another_shape_is_refused_in_one_sentence(run):
    other = replace(TASK, model=lambda: nn.Linear(2, 2))
    with pytest.raises(ParameterError) as caught:
        load_model(run.path, other)
    assert str(caught.value) == (
        f"the model in {run.path} is not one of the task 'net': the task's code has changed "
        "since; use the code that the run ran with"
    )
