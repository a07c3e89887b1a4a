"""Whose model the figures on clients' own examples are of."""

import pytest

from roundel.core.configfile import load_experiment
from roundel.reports.personal import PERSONAL, own_models
from roundel.strategies.registry import FAMILIES


def test_the_strategies_with_personal_models_are_those_of_that_family():
    assert {make.__name__ for make in FAMILIES["personal models"]} == PERSONAL


@pytest.mark.parametrize(
    ("setting", "own"),
    [
        ("strategy.name=ditto", True),
        ('strategy.parts=["prox", {name="fedrep", head_epochs=2}]', True),
        ("topology.kind=local", True),
        ("topology.kind=gossip", True),
        ("topology.kind=hierarchical", False),
        ("strategy.name=scaffold", False),
    ],
)
def test_clients_are_judged_by_their_own_models_where_they_keep_some(setting, own):
    assert own_models(load_experiment(None, [setting])) is own
