"""An experiment turned into objects: what client and server both work from."""

from collections.abc import Sequence
from dataclasses import dataclass

from roundel.core.config import Experiment, StrategyConfig
from roundel.core.errors import CompositionError
from roundel.core.job import Phase
from roundel.core.params import ParamSpec
from roundel.core.schedule import local_phases, with_duration
from roundel.core.task import Task
from roundel.strategies.compose import Strategy
from roundel.strategies.registry import make_strategy, settled


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One experiment, complete.

    Attributes:
        experiment: Its configuration.
        task: What is learned.
        strategy: How.
    """

    experiment: Experiment
    task: Task
    strategy: Strategy

    @classmethod
    def of(cls, experiment: Experiment, task: Task, strategy: Strategy | None = None) -> "Plan":
        """Build the strategy that the experiment names, unless one is given, and check the whole.

        The plan's experiment is resolved: it says every knob of a named strategy, or the name of
        the one that was given, and how long clients train. Its task has the model that the strategy
        makes of it.

        Raises:
            ConfigError: A strategy knob or the client's optimizer is wrong.
            CompositionError: The strategy does not go with the client's optimizer.
        """
        if strategy is None:
            said = settled(experiment.strategy)
            strategy = make_strategy(said.name, said.knobs, said.parts)
        else:
            said = StrategyConfig(name=strategy.name)
        plan = cls(
            experiment=experiment.model_copy(
                update={"strategy": said, "client": with_duration(experiment.client)}
            ),
            task=strategy.adapted(task),
            strategy=strategy,
        )
        plan.phases(1)
        if task.train is not None:
            _check_server_only(strategy, task)
        return plan

    def stateful(self, spec: ParamSpec) -> bool:
        """Tell whether clients keep state from round to round."""
        return self.task.train is not None or self.strategy.stateful(spec)

    def phases(self, round: int) -> Sequence[Phase]:
        """Return the local training of a round, from 1."""
        experiment = self.experiment
        return self.strategy.phases(local_phases(experiment.client, round, experiment.rounds))


def _check_server_only(strategy: Strategy, task: Task) -> None:
    """Refuse a strategy that changes local training which the user's own function does."""
    for part in strategy.parts:
        loop = part.corrections or part.loss_terms or part.solver or part.phases or part.needs
        if loop or part.side_work or part.tuning:
            raise CompositionError(
                f"{part.name} changes local training, and the task {task.name!r} brings a training "
                "function of its own; use a strategy that works on the server, such as fedavg or "
                "fedadam, or leave the function out"
            )
