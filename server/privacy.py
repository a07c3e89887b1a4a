"""What a run has given away about each client, and when it must stop."""

from dataclasses import dataclass
from functools import cache

from roundel.core.errors import ConfigError
from roundel.strategies.plan import Plan
from roundel.strategies.sites import Privacy


@dataclass(frozen=True, kw_only=True)
class Ledger:
    """The account of a run's privacy.

    The guarantee is client-level: it bounds how far anyone who sees every model of the run can tell
    whether a given client was in the population (add-or-remove-one adjacency). It covers the models
    and not the other figures that the run records for its operator.

    Attributes:
        privacy: What the strategy guarantees.
        sampling: The probability that a client takes part in a round; 1 if cohorts are not drawn
            by Poisson sampling, since then nothing is gained by not being asked.
    """

    privacy: Privacy
    sampling: float

    @classmethod
    def of(cls, plan: Plan, population: int) -> "Ledger | None":
        """Open the account of a run; None if its strategy guarantees nothing.

        Raises:
            ConfigError: `dp-accounting` is not installed, or the budget does not reach for one
                round.
        """
        privacy, selector = plan.strategy.privacy, plan.strategy.selector
        if privacy is None:
            return None
        share = min(1.0, plan.experiment.cohort.size / population)
        ledger = cls(privacy=privacy, sampling=share if selector.poisson else 1.0)
        first = ledger.epsilon(1)
        if privacy.budget is not None and first > privacy.budget:
            raise ConfigError(
                f"the budget of epsilon = {privacy.budget:g} does not reach for one round, which "
                f"costs {first:.4g}; raise it, or the noise"
            )
        return ledger

    def epsilon(self, rounds: int) -> float:
        """Return the epsilon of so many rounds, at the strategy's delta."""
        return _epsilon(self.privacy.noise_multiplier, self.sampling, rounds, self.privacy.delta)

    def line(self, rounds: int) -> dict[str, float]:
        """Return what a round's line says."""
        return {"epsilon": self.epsilon(rounds), "delta": self.privacy.delta}

    def reason_to_stop(self, rounds: int) -> str | None:
        """Say why there must be no further round, or None if there may be one."""
        budget = self.privacy.budget
        if budget is None or (after := self.epsilon(rounds + 1)) <= budget:
            return None
        return f"one more round would raise epsilon to {after:.4g}, above the budget of {budget:g}"


@cache
def _epsilon(noise_multiplier: float, sampling: float, rounds: int, delta: float) -> float:
    try:
        import dp_accounting  # noqa: PLC0415 - an extra, and it takes seconds
        from dp_accounting import pld  # noqa: PLC0415 - likewise
    except ImportError as error:
        raise ConfigError(
            "the privacy account needs dp-accounting; install it by "
            "`pip install 'roundel[privacy]'`"
        ) from error
    accountant = pld.PLDAccountant(dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE)
    event = dp_accounting.GaussianDpEvent(noise_multiplier)
    if sampling < 1:
        event = dp_accounting.PoissonSampledDpEvent(sampling, event)
    accountant.compose(event, rounds)
    return float(accountant.get_epsilon(delta))
