"""The model that a run ended with.

>>> import torch
>>> from roundel.simulations import load_model, simulate
>>> run = simulate(settings=["rounds=1", "evaluation.clients=0"], out=getfixture("tmp_path") / "r")
>>> model = load_model(run.path)
>>> model(torch.zeros(2, 64)).shape
torch.Size([2, 10])
"""

from pathlib import Path

from torch import nn

from roundel.core.errors import ParameterError, RunDirectoryError
from roundel.core.modelfile import read_model
from roundel.core.runfiles import read_run
from roundel.core.task import Task
from roundel.simulations.tasks.registry import make_task
from roundel.strategies.compose import Strategy
from roundel.strategies.fedavg import fedavg
from roundel.strategies.registry import make_strategy


def load_model(run: Path | str, task: Task | None = None) -> nn.Module:
    """Return the final model of a run, in evaluation mode.

    Args:
        run: The run directory.
        task: The run's task, if it was given as an object and not by name.

    Raises:
        RunDirectoryError: The directory is not a run's.
        ParameterError: The run has not finished, or its model is not the task's.
    """
    path = Path(run)
    experiment, _ = read_run(path)
    tensors = read_model(path)
    task = task or task_of(path)
    model = strategy_of(path).adapted(task).new_model(experiment.seed_for("model"))
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise ParameterError(
            f"the model in {path} is not one of the task {task.name!r}: the task's code has "
            "changed since; use the code that the run ran with"
        ) from error
    return model.eval()


def strategy_of(run: Path) -> Strategy:
    """Return the strategy that a run names; federated averaging if it was given as an object."""
    experiment, environment = read_run(run)
    if "strategy" in environment.get("pieces", ()):
        return fedavg()
    said = experiment.strategy
    return make_strategy(said.name, said.knobs, said.parts)


def task_of(run: Path | str) -> Task:
    """Return the task that a run names.

    Raises:
        RunDirectoryError: The directory is not a run's, or its task was given as an object.
    """
    experiment, environment = read_run(Path(run))
    if "task" in environment.get("pieces", ()):
        raise RunDirectoryError(
            f"{run} was given its task as an object, which no file can hold; give the same one in "
            "Python, as load_model(run, task)"
        )
    return make_task(experiment.task)
