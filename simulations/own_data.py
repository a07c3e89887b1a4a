"""A node that brings the examples of one client: from a path to what it hosts."""

from dataclasses import replace
from pathlib import Path

import torch

from roundel.client.node import Hosted
from roundel.core.config import Experiment, PartitionConfig
from roundel.core.data import Examples
from roundel.core.errors import ConfigError, DataError, RoundelError
from roundel.core.learning import Learner
from roundel.core.seeds import isolated_rng
from roundel.core.task import Task
from roundel.core.usercode import one_line, user_code
from roundel.simulations.division import checked
from roundel.simulations.partitions.own import OWN, OwnExamples
from roundel.simulations.prepare import prepare
from roundel.simulations.registration import hosted_by


def check_brings(experiment: Experiment, data: Path | None) -> None:
    """Refuse a node that brings examples to a run that divides its own, and the other way round.

    Args:
        experiment: The coordinator's.
        data: Where the node's own examples lie, if it has any.

    Raises:
        ConfigError: The run and the node do not go together.
    """
    own = experiment.partition.kind == OWN
    if own and data is None:
        raise ConfigError(
            "in this run every node brings its own examples (partition.kind = 'own'); join with "
            "--data PATH"
        )
    if not own and data is not None:
        raise ConfigError(
            f"--data {data} has no place in this run, whose examples are divided over its nodes "
            f"(partition.kind = {experiment.partition.kind!r}); leave it out, or serve with "
            "partition.kind = 'own'"
        )


def own_share(experiment: Experiment, path: Path) -> Hosted:
    """Make what a node brings that has the examples of one client.

    Which client that is, the coordinator says. The examples are those that the task reads from the
    path, all of them: none is kept back as a global test set, which is the coordinator's matter.

    Args:
        experiment: The coordinator's; its `task.path` is not looked at.
        path: Where the node's examples lie, as `task.path` would say.

    Raises:
        ConfigError: The experiment cannot be made here.
        DataError: There are no such examples, too few of them, or they do not fit the model.
    """
    if not path.exists():
        raise DataError(f"--data {path} does not exist; name the file or folder of your examples")
    simulation = prepare(_here(experiment, path), load_test=False)
    settings = simulation.plan.experiment.partition
    examples = _examples(simulation.plan.task, path, settings)
    _check_fit(simulation.learner, examples, path)
    own = OwnExamples(
        size=simulation.population.size,
        examples=examples,
        config=settings,
        seed=experiment.seed_for("data"),
    )
    return hosted_by(replace(simulation, population=own), ())


def _here(experiment: Experiment, path: Path) -> Experiment:
    """Return the experiment with this machine's paths.

    Parameters to start from come with every round's broadcast, so a file of them that is at the
    coordinator alone is needed only for what never travels, which is compared when the node hosts.
    """
    initial = experiment.task.initial
    found = {"path": path, "initial": initial if initial and initial.exists() else None}
    return experiment.model_copy(update={"task": experiment.task.model_copy(update=found)})


def _examples(task: Task, path: Path, settings: PartitionConfig) -> Examples:
    load = task.load_all or task.load
    if load is None:
        raise ConfigError(f"the task {task.name!r} reads no examples from {path}; join without it")
    with user_code(f"loading {path} by the task {task.name!r}", DataError):
        examples = checked(load(path), task, "load")
    if len(examples) < settings.min_examples:
        raise DataError(
            f"{path} has {len(examples)} examples, less than partition.min_examples = "
            f"{settings.min_examples}; join with more"
        )
    return examples


def _check_fit(learner: Learner, examples: Examples, path: Path) -> None:
    """Let the model see an example, and one each of the lowest and the highest target.

    Raises:
        DataError: It cannot do with them.
    """
    few = examples.take(torch.tensor(_telling(examples)))
    try:
        with isolated_rng(0):
            learner.evaluate(learner.initial, learner.initial_integers, few)
    except RoundelError:
        raise
    except (Exception, SystemExit) as error:
        low, high = few.targets.min().item(), few.targets.max().item()
        raise DataError(
            f"the run's model cannot do with the examples in {path}, which are inputs of shape "
            f"{tuple(examples.inputs.shape[1:])} and targets from {low:g} to {high:g} "
            f"({one_line(error)}); bring examples of the run's shape and classes"
        ) from error


def _telling(examples: Examples) -> list[int]:
    """Return the rows of the first example and of those with the lowest and the highest target."""
    each = examples.targets.reshape(len(examples), -1)
    return sorted({0, int(each.amin(dim=1).argmin()), int(each.amax(dim=1).argmax())})
