"""Optuna suggests what to try next, from what was tried alone."""

import pytest

from roundel.core.errors import ConfigError
from roundel.simulations import suggesting
from roundel.simulations.spaces import Span
from roundel.simulations.suggesting import check_optuna, suggestion

SPACE = {"client.lr": Span(0.01, 1.0), "strategy.mu": Span(0.001, 1.0)}
TRIED = [
    ({"client.lr": 0.01, "strategy.mu": 0.5}, 0.1),
    ({"client.lr": 0.2, "strategy.mu": 0.01}, None),
    ({"client.lr": 1.0, "strategy.mu": 0.1}, 0.9),
]


def test_where_it_is_not_installed_the_remedy_is_said(monkeypatch):
    monkeypatch.setattr(suggesting, "find_spec", lambda _name: None)
    with pytest.raises(ConfigError, match="`pip install optuna`, or take --search random"):
        check_optuna()


def test_a_suggestion_lies_in_the_space_and_comes_again():
    pytest.importorskip("optuna")
    points = [suggestion(SPACE, TRIED, trials=9, goal="max", seed=s) for s in (1, 1, 2)]
    assert points[0] == points[1] != points[2]
    for point in points:
        assert point.keys() == SPACE.keys()
        assert all(span.low <= point[key] <= span.high for key, span in SPACE.items())


def test_it_goes_where_it_was_better():
    pytest.importorskip("optuna")
    tried = [
        ({"client.lr": lr, "strategy.mu": 0.1}, -abs(lr - 0.1))
        for lr in (0.01, 0.02, 0.05, 0.09, 0.1, 0.11, 0.2, 0.5, 1.0)
    ]
    near = [
        suggestion(SPACE, tried, trials=10, goal="max", seed=seed)["client.lr"]
        for seed in range(10)
    ]
    assert sum(0.05 <= lr <= 0.2 for lr in near) >= 7
