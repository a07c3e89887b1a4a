"""An experiment turned into objects: what client and server both work from."""

from collections.abc import Sequence
from dataclasses import dataclass

from roundel.core.config import Experiment
from roundel.core.learning import Phase
from roundel.core.schedule import local_phases
from roundel.core.task import Task
from roundel.strategies.compose import Strategy
from roundel.strategies.registry import make_strategy


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

        Raises:
            ConfigError: A strategy knob or the client's optimizer is wrong.
            CompositionError: The strategy does not go with the client's optimizer.
        """
        chosen = strategy or make_strategy(experiment.strategy.name, experiment.strategy.knobs)
        plan = cls(experiment=experiment, task=task, strategy=chosen)
        plan.phases(1)
        return plan

    def phases(self, round: int) -> Sequence[Phase]:
        """Return the local training of a round, from 1."""
        experiment = self.experiment
        return self.strategy.phases(local_phases(experiment.client, round, experiment.rounds))
