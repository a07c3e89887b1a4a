"""What a loop can do that is not ours: one that hands out work, and all the replies at once."""

from roundel.core.errors import ConfigError
from roundel.strategies.plan import Plan

WAIT_S = 600.0
"""How long nodes are waited for before the first round, unless something else is said."""


def deadline_s(plan: Plan) -> float | None:
    """Return how long a round waits, if the strategy or the experiment says."""
    return (plan.strategy.pacing or plan.experiment.cohort).deadline_s


def check_stepwise(plan: Plan) -> None:
    """Refuse what such a loop cannot do.

    Raises:
        ConfigError: The experiment asks for it.
    """
    experiment = plan.experiment
    if experiment.topology.kind != "star":
        raise ConfigError(
            f"topology.kind = {experiment.topology.kind!r} has no single server, and Flower's loop "
            "is one; use topology.kind = 'star'"
        )
    factor = (plan.strategy.pacing or experiment.cohort).deadline_factor
    if factor is not None:
        raise ConfigError(
            f"cohort.deadline_factor = {factor:g} goes by when each update comes, and Flower's "
            "loop hands over all replies at once; leave it out, or use cohort.deadline_s"
        )
