"""What a run has given away about each client, and when it must stop.

*Whom it protects.* The guarantee is client-level. Neighbouring federations differ in one client:
with noise at the server it is there or not (add-or-remove-one; for a cohort of fixed size: it sends
0 or its update), with noise at the clients everything that it holds is replaced.

*How rounds add up.* Without sampling a run of T rounds is one Gaussian mechanism with the noise
multiplier ``z / sqrt(T)``, and the accountant ``"pld"`` is the closed form of that. With Poisson
sampling it is the composition of privacy loss distributions of dp-accounting, discretised upwards,
so that epsilon is never told too small. The accountant ``"rdp"`` composes Renyi divergences and is
looser. Cohorts of fixed size count as not sampled: nothing is gained by not being asked.

*What it covers.* The models of all rounds, whoever sees them; not the other figures that a run
records for its operator, nor when a run ends that is told to stop by such a figure of its clients.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from math import exp, expm1, sqrt
from typing import Any

import torch

from roundel.core.errors import CompositionError, ConfigError
from roundel.core.messages import BUFFERS, INTEGERS
from roundel.core.params import ParamSpec
from roundel.strategies.compose import Strategy
from roundel.strategies.plan import Plan
from roundel.strategies.sites import Accountant, Privacy
from roundel.strategies.weighers import EQUAL

Epsilons = Callable[[int], float]
"""Number of rounds to epsilon."""

_FINENESS = 1e-3
"""Step of the privacy loss distribution, over that of one whose noise multiplier is 1."""


def check_covered(strategy: Strategy, spec: ParamSpec) -> None:
    """Refuse a private strategy that sends, or asks for, something without noise.

    Raises:
        CompositionError: It does.
    """
    if strategy.privacy is None:
        return
    if strategy.selector.asks:
        raise CompositionError(
            f"{strategy.name} selects clients by {strategy.selector.name}, which asks them about "
            "their data, and they answer without noise; use another selector, such as uniform"
        )
    if strategy.privacy.local and strategy.weigher != EQUAL:
        raise CompositionError(
            f"{strategy.name} weighs updates by {strategy.weigher.name}, so that the model tells "
            "something about a client to which no noise was added; use the weigher EQUAL of "
            "roundel.strategies.weighers"
        )
    if strategy.privacy.local:  # what the server derives from noised channels is noised
        covered, sums = set(strategy.vectors), strategy.channels(spec)
    else:
        covered, sums = set(strategy.noised), strategy.aggregated(spec)
    bare = sorted(sums.keys() - covered - {BUFFERS, INTEGERS})
    if bare:
        raise CompositionError(
            f"{strategy.name} adds no noise to the channel {bare[0]!r}, which clients fill from "
            "their data; leave out the part that sends it"
        )
    private = next(part for part in strategy.parts if part.privacy is not None)
    if strategy.privacy.local and strategy.codecs[0] is not private.codecs[0]:
        raise CompositionError(
            f"{private.name} comes after {strategy.codecs[0].name}, of which something may go "
            f"without noise; name {private.name} first"
        )
    buffers = [e for e in (*spec.entries, *spec.integers) if not (e.trainable or e.personal)]
    if buffers:
        raise CompositionError(
            f"{strategy.name} adds noise to what is trained, and the model's buffer "
            f"{buffers[0].name!r} would be sent without; use a model without such, with GroupNorm "
            "in place of BatchNorm say, or keep normalisation at the clients"
        )


@dataclass(frozen=True, kw_only=True)
class Ledger:
    """The account of a run's privacy.

    Attributes:
        privacy: What the strategy guarantees.
        sampling: The probability that a client takes part in a round; 1 if cohorts are not drawn
            by Poisson sampling.
    """

    privacy: Privacy
    sampling: float

    @classmethod
    def of(cls, plan: Plan, population: int) -> "Ledger | None":
        """Open the account of a run; None if its strategy guarantees nothing.

        Raises:
            ConfigError: `dp-accounting` is needed and not installed, delta means nothing among so
                many clients, or the budget does not reach for one round.
        """
        privacy, selector = plan.strategy.privacy, plan.strategy.selector
        if privacy is None:
            return None
        if privacy.delta * population >= 1:
            raise ConfigError(
                f"strategy.delta = {privacy.delta:g} is not below 1 / {population}: publishing one "
                f"of the {population} clients in full would satisfy it; lower it"
            )
        share = min(1.0, plan.experiment.cohort.size / population)
        sampled = selector.poisson and not privacy.local
        ledger = cls(privacy=privacy, sampling=share if sampled else 1.0)
        first = ledger.epsilon(1)
        if privacy.budget is not None and first > privacy.budget:
            raise ConfigError(
                f"the budget of epsilon = {privacy.budget:g} does not reach for one round, which "
                f"costs {first:.4g}; raise it, or the noise"
            )
        return ledger

    def epsilon(self, rounds: int) -> float:
        """Return the epsilon of so many rounds, at the strategy's delta."""
        of = self.privacy
        return epsilons(of.noise_multiplier, self.sampling, of.delta, of.accountant)(rounds)

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
def epsilons(
    noise_multiplier: float, sampling: float, delta: float, accountant: Accountant
) -> Epsilons:
    """Return what tells the epsilon of any number of rounds; asking in turn is quick.

    Args:
        noise_multiplier: z, as in `Privacy`.
        sampling: q, in (0, 1].
        delta: In (0, 1).
        accountant: By which method.

    Raises:
        ConfigError: `dp-accounting` is needed and not installed.
    """
    if accountant == "rdp":
        return _by_rdp(noise_multiplier, sampling, delta)
    if sampling < 1:
        return _by_pld(noise_multiplier, sampling, delta)
    return cache(lambda rounds: gaussian_epsilon(noise_multiplier / sqrt(rounds), delta))


def gaussian_epsilon(noise_multiplier: float, delta: float) -> float:
    """Return the epsilon of one Gaussian mechanism, exactly (Balle and Wang 2018, Theorem 8).

    It solves ``delta = Phi(1/(2z) - epsilon z) - exp(epsilon) Phi(-1/(2z) - epsilon z)``.
    """
    low, high = 0.0, 1.0
    while _gaussian_delta(noise_multiplier, high) > delta:
        low, high = high, 2 * high
    if _gaussian_delta(noise_multiplier, low) <= delta:
        return low
    while (middle := (low + high) / 2) not in (low, high):
        if _gaussian_delta(noise_multiplier, middle) > delta:
            low = middle
        else:
            high = middle
    return high


def _gaussian_delta(z: float, epsilon: float) -> float:
    at = torch.tensor([1 / (2 * z) - epsilon * z, -1 / (2 * z) - epsilon * z], dtype=torch.float64)
    first, second = torch.special.log_ndtr(at).tolist()
    return exp(first) * -expm1(min(0.0, epsilon + second - first))


def _by_rdp(noise_multiplier: float, sampling: float, delta: float) -> Epsilons:
    accounting = _dp_accounting()
    accountant = accounting.rdp.RdpAccountant()
    event = accounting.GaussianDpEvent(noise_multiplier)
    if sampling < 1:
        event = accounting.PoissonSampledDpEvent(sampling, event)
    with _quiet():
        accountant.compose(event)
    orders, one = accountant.orders, accountant.rdp

    @cache
    def epsilon(rounds: int) -> float:
        with _quiet():
            return float(accounting.rdp.compute_epsilon(orders, rounds * one, delta)[0])

    return epsilon


def _by_pld(noise_multiplier: float, sampling: float, delta: float) -> Epsilons:
    one = _dp_accounting().pld.privacy_loss_distribution.from_gaussian_mechanism(
        noise_multiplier,
        sampling_prob=sampling,
        value_discretization_interval=_FINENESS / noise_multiplier,
    )
    composed = _Composition(one)
    return cache(lambda rounds: float(composed.of(rounds).get_epsilon_for_delta(delta)))


class _Composition:
    """A distribution composed with itself any number of times, one more at the price of one.

    A number of times is put together from powers of two, the largest first; what it shares with the
    number before is at hand. So the result does not depend on what was asked for earlier.
    """

    def __init__(self, one: Any) -> None:  # noqa: ANN401 - of a package without types
        self._powers = [one]
        self._partial: dict[int, Any] = {}

    def of(self, times: int) -> Any:  # noqa: ANN401 - likewise
        partial: dict[int, Any] = {}
        composed, count = None, 0
        for place in reversed(range(times.bit_length())):
            if not times >> place & 1:
                continue
            count += 1 << place
            if count in self._partial:
                composed = self._partial[count]
            else:
                power = self._power(place)
                composed = power if composed is None else composed.compose(power)
            partial[count] = composed
        self._partial = partial
        return composed

    def _power(self, place: int) -> Any:  # noqa: ANN401 - likewise
        while len(self._powers) <= place:
            last = self._powers[-1]
            self._powers.append(last.compose(last))
        return self._powers[place]


def _dp_accounting() -> Any:  # noqa: ANN401 - a package without types
    try:
        import dp_accounting  # noqa: PLC0415 - an extra, and it takes seconds
    except ImportError as error:
        raise ConfigError(
            "this privacy account needs dp-accounting; install it by "
            "`pip install 'roundel[privacy]'`"
        ) from error
    return dp_accounting


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep dp-accounting from telling which orders of divergence it leaves out."""
    from absl import logging  # noqa: PLC0415 - comes with dp-accounting

    before = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        logging.set_verbosity(before)
