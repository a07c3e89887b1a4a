"""Lists of values."""

import pytest

from roundel.core.errors import ConfigError
from roundel.core.grid import parse_seeds, parse_values, read_grid


def test_the_section_of_a_key_says_whether_it_makes_arms_or_problems() -> None:
    grid = read_grid({"client": {"lr": [0.1, 0.2]}, "partition": {"alpha": [1.0]}, "seeds": 4}, [])
    assert (grid.how, grid.what) == ({"client.lr": (0.1, 0.2)}, {"partition.alpha": (1.0,)})
    assert grid.seeds == 4


def test_a_table_that_is_no_section_is_for_the_strategy_of_that_name() -> None:
    grid = read_grid({"fedprox": {"mu": [0.1], "client": {"lr": [0.5]}}}, [])
    assert grid.of == {"fedprox": {"strategy.mu": (0.1,), "client.lr": (0.5,)}}


def test_lists_of_the_command_line_come_to_those_of_the_file() -> None:
    grid = read_grid({"partition": {"alpha": [1.0]}}, ["partition.alpha=0.1,0.2", "rounds=3"])
    assert grid.what == {"partition.alpha": (0.1, 0.2), "rounds": (3,)}


def test_seeds_of_one_purpose_are_keys_like_others() -> None:
    assert read_grid({"seeds": {"data": [1, 2]}}, []).what == {"seeds.data": (1, 2)}
    beside = read_grid({"seeds": 4}, ["seeds.data=1,2"])
    assert (beside.what, beside.seeds) == ({"seeds.data": (1, 2)}, 4)


@pytest.mark.parametrize(
    ("table", "said", "sentence"),
    [
        ({"rounds": 3}, [], "grid.rounds = 3 is not a list; write [3]"),
        ({"rounds": []}, [], "grid.rounds = [] has no values"),
        ({"fedprox": {"mu": []}}, [], "grid.fedprox.mu = [] has no values"),
        ({"seed": [1, 2]}, [], "grid.seed = [1, 2] is not allowed: write seeds = [...]"),
        ({"name": ["a"]}, [], "grid.name = ['a'] is not allowed: a comparison has one name"),
        ({"rounds": [3, 4, 3]}, [], "grid.rounds has 3 twice, and both would be one problem"),
        ({}, ["rounds"], "--grid 'rounds' is no list of values; write --grid partition.alpha="),
    ],
)
def test_what_is_no_grid_is_refused(table: dict, said: list[str], sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_grid(table, said)
    assert str(caught.value).startswith(sentence)


@pytest.mark.parametrize(
    ("said", "first", "seeds"),
    [
        (None, 0, (0, 1, 2)),
        (2, 10, (10, 11)),
        ("2", 0, (0, 1)),
        ("4,9", 0, (4, 9)),
        ("-1,", 0, (-1,)),
        ([3], 0, (3,)),
    ],
)
def test_seeds_are_so_many_or_those_named(said: object, first: int, seeds: tuple[int, ...]) -> None:
    assert parse_seeds(said, first) == seeds


@pytest.mark.parametrize("said", [0, -1, "x", "1,x", [], [1.5], [True], True, {"data": 1}])
def test_what_are_no_seeds_is_refused_with_the_value(said: object) -> None:
    with pytest.raises(ConfigError, match=r"seeds = .* is not allowed: write how many, or which"):
        parse_seeds(said, 0)


def test_a_seed_counts_once() -> None:
    with pytest.raises(ConfigError, match="seed 4 is there twice"):
        parse_seeds("4,5,4", 0)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("0.1,1", [0.1, 1]),
        ("iid,shards", ["iid", "shards"]),
        ("true, x", [True, "x"]),
        ('"a,b",c', ['"a', 'b"', "c"]),
        ('"a,b","c"', ["a,b", "c"]),
        ("[[1, 2], [3]]", [[[1, 2], [3]]]),
        ("", []),
    ],
)
def test_values_are_separated_by_commas(text: str, values: list) -> None:
    assert parse_values(text) == values
