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

from roundel.core.errors import ConfigError, ParameterError, RoundelError, RunDirectoryError
from roundel.core.modelfile import read_model
from roundel.core.runfiles import read_run
from roundel.core.task import Task
from roundel.simulations.tasks.registry import make_task
from roundel.strategies.compose import Strategy
from roundel.strategies.fedavg import fedavg
from roundel.strategies.lora import adapter_scales
from roundel.strategies.registry import make_strategy


def load_model(
    run: Path | str, task: Task | None = None, strategy: Strategy | None = None
) -> nn.Module:
    """Return the final model of a run, in evaluation mode.

    Args:
        run: The run directory.
        task: The run's task, if it was given as an object and not by name.
        strategy: The run's strategy, if it was given as an object and changes the model.

    Raises:
        RunDirectoryError: The directory is not a run's.
        ParameterError: The run has not finished, or its model is not the task's.
    """
    path = Path(run)
    experiment, environment = read_run(path)
    tensors = read_model(path)
    task = task or task_of(path)
    model = (strategy or strategy_of(path)).adapted(task).new_model(experiment.seed_for("model"))
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        if strategy is None and "strategy" in environment.get("pieces", ()):
            raise ParameterError(
                f"the model in {path} is not one of the task {task.name!r} alone, and the strategy "
                "was given as an object, which no file can hold; give the same one in Python, as "
                "load_model(run, strategy=...)"
            ) from error
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


def check_adapters(initial: Path, task: Task, model: nn.Module) -> None:
    """Refuse to go on from a run whose adapters count more or less than the model's.

    Args:
        initial: Where the parameters come from; a file alone does not say what they count.
        task: The task, before a strategy has changed its model.
        model: The model that training starts from.

    Raises:
        ConfigError: Its scale is another, so that training would start elsewhere.
    """
    now = adapter_scales(model)
    if not now or not initial.is_dir():
        return
    try:
        before = adapter_scales(strategy_of(initial).adapted(task).new_model(0))
    except RoundelError:
        return  # not a run of ours, or one of code that is gone
    for layer, scale in now.items():
        if before.get(layer, scale) != scale:
            raise ConfigError(
                f"task.initial = {str(initial)!r} has adapters that count alpha / rank = "
                f"{before[layer]:g}, and here they would count {scale:g}, so that training would "
                "start from another model: set strategy.alpha and strategy.rank as there"
            )


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
