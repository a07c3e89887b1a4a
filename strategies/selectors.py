"""Who takes part in a round."""

from roundel.core.seeds import sample
from roundel.strategies.sites import Selection, Selector


def _uniform(selection: Selection) -> list[int]:
    return sample(selection.population, selection.size, selection.seed)


UNIFORM = Selector(name="uniform", select=_uniform)
"""Uniformly at random without replacement."""
