"""What is tuned by default, and how configurations are taken from it."""

import re
from itertools import pairwise
from math import log10
from pathlib import Path

import pytest

from roundel.core.errors import ConfigError
from roundel.simulations.spaces import KNOBS, Span, grid_points, random_points, space_of
from roundel.strategies.registry import STRATEGIES, check_knobs

TWO = {"client.lr": Span(0.01, 1.0), "strategy.mu": Span(0.001, 1.0)}


def test_every_strategy_has_its_default_inside_its_span():
    for name, space in KNOBS.items():
        knobs = check_knobs(name, {})
        assert name in STRATEGIES
        for key, span in space.items():
            usual = knobs[key.removeprefix("strategy.")]
            assert span.low < usual < span.high, (name, key)


def test_the_documentation_lists_every_span():
    page = Path(__file__).parents[2] / "docs" / "compare.md"
    row = re.compile(r"^\| ([\w, ]+) \| `(\w+)` \| ([\d.]+) \| ([\d.]+) \|$", re.MULTILINE)
    listed = {
        name: {f"strategy.{knob}": Span(float(low), float(high))}
        for names, knob, low, high in row.findall(page.read_text())
        for name in names.split(", ")
    }
    assert listed == KNOBS


def test_learning_rates_are_tuned_around_that_of_the_experiment():
    assert space_of("scaffold", 0.2) == {"client.lr": Span(0.01, 1.0)}
    assert list(space_of("fedprox", 0.2)) == ["client.lr", "strategy.mu"]
    assert list(space_of("fedsgd", 0.2)) == ["strategy.server_lr"]


def test_a_grid_has_exactly_as_many_points_as_are_asked_for():
    points = grid_points(TWO, 6)
    assert len(points) == 6
    assert sorted({point["client.lr"] for point in points}) == [0.01, 0.1, 1.0]
    assert sorted({point["strategy.mu"] for point in points}) == [0.001, 1.0]
    assert len({tuple(point.values()) for point in points}) == 6
    assert grid_points({"client.lr": Span(0.01, 1.0)}, 3) == [
        {"client.lr": 0.01},
        {"client.lr": 0.1},
        {"client.lr": 1.0},
    ]


@pytest.mark.parametrize("count", [1, 2, 3, 5, 7])
def test_what_makes_no_grid_is_refused_with_what_would(count):
    with pytest.raises(ConfigError, match=f"{count} trials are no grid over 2 knobs .*take 4 or"):
        grid_points(TWO, count)


def test_random_points_leave_no_part_of_a_span_out():
    points = random_points(TWO, 4, seed=0)
    places = sorted((log10(point["client.lr"]) + 2) / 2 for point in points)
    assert all(place // 0.25 == number for number, place in enumerate(places))
    assert all(a < b for a, b in pairwise(places))


def test_strategies_that_share_a_key_get_the_same_values_of_it():
    alone = random_points({"client.lr": TWO["client.lr"]}, 5, seed=3)
    both = random_points(TWO, 5, seed=3)
    assert [point["client.lr"] for point in both] == [point["client.lr"] for point in alone]
    assert random_points(TWO, 5, seed=4) != both
