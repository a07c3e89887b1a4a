"""The noise of a round: which keys it is drawn from, and what binds it to what it hides."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from roundel.core.config import Experiment
from roundel.core.errors import CompositionError
from roundel.core.noise import bound_key, key_of, standard_normal, subkey
from roundel.core.params import tensors_sha256
from roundel.core.seeds import derive
from roundel.strategies.compose import Strategy

Secrets = Callable[[int], bytes]
"""A round to the key of its noise, always the same for the same round."""


@dataclass(frozen=True, kw_only=True)
class NoiseSource:
    """Draws what a strategy needs to be random on the server.

    Attributes:
        strategy: Says for which channels.
        experiment: Its seeds are for noise that is seeded.
        secrets: Gives the keys of all other noise; None if there is nowhere to keep them.
        bind: Writes down which aggregate a round's noise is for, before it is used.
    """

    strategy: Strategy
    experiment: Experiment
    secrets: Secrets | None
    bind: Callable[[int, str], None] | None

    @property
    def is_secret(self) -> bool:
        """Whether the server adds noise by keys that nobody else has."""
        wanted = [link.noise for link in self.strategy.server if link.noise is not None]
        return not all(noise.seeded for noise in wanted)

    def check(self) -> None:
        """Find out before round 1 whether there are keys.

        Raises:
            CompositionError: There is nowhere to keep them.
        """
        if self.is_secret:
            self._keys()

    def draw(self, number: int, aggregate: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return standard normal numbers for a round, as `RoundContext.noise` says.

        Should a round be computed again from other updates, its noise is another one.
        """
        drawn: dict[str, Tensor] = {}
        if self.bind is not None and self.is_secret:
            self.bind(number, tensors_sha256(aggregate, "aggregate"))
        for link in self.strategy.server:
            for channel in link.noise.channels if link.noise else ():
                name = f"{link.name}/{channel}"
                if link.noise is None or link.noise.seeded:
                    seed = self.experiment.seed_for("training")
                    key = key_of(derive(seed, f"noise {name}", number))
                else:
                    key = bound_key(self._keys()(number), f"noise {name}", aggregate)
                drawn[name] = standard_normal(key, len(aggregate[channel]))
        return drawn

    def cohort_seed(self, number: int) -> int:
        """Return the seed of a round's cohort.

        Where privacy counts on nobody's knowing who is in it, the experiment's seed must not say.
        """
        if self.is_secret and self.strategy.selector.poisson:
            return int.from_bytes(subkey(self._keys()(number), "cohort")[:8], "little") >> 1
        return derive(self.experiment.seed_for("sampling"), "cohort", number)

    def _keys(self) -> Secrets:
        if self.secrets is None:
            raise CompositionError(
                "there is nowhere to write the key of the noise down, without which the run could "
                "not be computed again; give the server `secrets`"
            )
        return self.secrets
