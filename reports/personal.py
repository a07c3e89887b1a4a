"""Whose model the figures on clients' own examples are of, as far as a run's settings say."""

from collections.abc import Mapping

from roundel.core.config import Experiment

PERSONAL = frozenset({"fedbn", "fedper", "fedrep", "lg_fedavg", "ditto", "pfedme", "fine_tune"})
"""The built-in strategies that keep layers or whole models at the clients.

Reports do without the strategies themselves, which need torch.
"""

_ALONE = frozenset({"local", "gossip"})
"""The topologies in which every client has a model of its own."""


def own_models(experiment: Experiment) -> bool:
    """Tell whether clients are judged each by its own model.

    A strategy or a task of the user's own may have personal layers that the settings do not tell.

    >>> from roundel.core.configfile import load_experiment
    >>> own_models(load_experiment(None, ['strategy.parts=["fedbn"]']))
    True
    >>> own_models(load_experiment(None, []))
    False
    """
    strategy = experiment.strategy
    parts = (part["name"] if isinstance(part, Mapping) else part for part in strategy.parts)
    return experiment.topology.kind in _ALONE or not PERSONAL.isdisjoint((strategy.name, *parts))
