"""Arms as users write them."""

from typing import Any

import pytest

from roundel.core.arms import arm_table, arm_text, make_arms
from roundel.core.comparison import Arm
from roundel.core.errors import ConfigError
from roundel.core.grid import read_grid


def arms(
    *said: str,
    tables: object = (),
    grid: dict[str, Any] | None = None,
    own: dict[str, Any] | None = None,
) -> tuple[Arm, ...]:
    return make_arms(said, tables, read_grid(grid or {}, []), own or {})


def labels(made: tuple[Arm, ...]) -> list[str]:
    return [arm.label for arm in made]


def test_without_a_word_the_four_default_strategies_are_compared() -> None:
    assert labels(arms()) == ["fedavg", "fedprox", "scaffold", "fedadam"]


def test_a_line_makes_an_arm_for_every_combination_of_its_values() -> None:
    made = arms("fedavg", "fedprox mu=0.01,0.1 client.lr=0.5")
    assert labels(made) == ["fedavg", "fedprox mu=0.01 lr=0.5", "fedprox mu=0.1 lr=0.5"]
    assert made[2].settings == {"strategy.name": "fedprox", "strategy.mu": 0.1, "client.lr": 0.5}


def test_parts_are_written_behind_a_plus() -> None:
    (arm,) = arms("fedadam+prox")
    assert arm.settings == {"strategy.name": "fedadam", "strategy.parts": ["prox"]}


def test_a_line_may_give_a_label_and_say_that_it_was_tuned() -> None:
    (arm,) = arms('fedprox mu=0.1 label="mine, mu=0.1" tuned=true')
    assert (arm.label, arm.tuned) == ("mine, mu=0.1", True)


def test_a_grid_multiplies_arms_and_keys_of_one_strategy_only_that_one() -> None:
    made = arms(
        grid={
            "strategy": {"name": ["fedavg", "fedprox"]},
            "client": {"lr": [0.1, 0.2], "epochs": [1]},
            "fedprox": {"mu": [1.0]},
        }
    )
    assert labels(made) == [
        "fedavg lr=0.1",
        "fedavg lr=0.2",
        "fedprox lr=0.1 mu=1.0",
        "fedprox lr=0.2 mu=1.0",
    ]
    assert made[0].settings["client.epochs"] == 1


def test_knobs_of_the_base_are_for_the_strategy_of_that_name_and_its_parts_for_all() -> None:
    own = {"strategy.name": "fedprox", "strategy.mu": 0.5, "strategy.parts": ["clip"]}
    avg, prox = arms("fedavg", "fedprox", own=own)
    assert avg.settings == {"strategy.name": "fedavg", "strategy.parts": ["clip"]}
    assert prox.settings == own
    assert labels((avg, prox)) == ["fedavg+clip", "fedprox+clip"]


def test_the_strategy_of_a_file_is_compared_with_the_default_ones() -> None:
    assert labels(arms(own={"strategy.name": "krum"}))[:2] == ["krum", "fedavg"]


def test_with_a_grid_of_how_to_train_the_strategy_of_a_file_is_compared_with_itself() -> None:
    own = {"strategy.name": "krum"}
    assert labels(arms(own=own, grid={"client": {"lr": [1, 2]}})) == ["krum lr=1", "krum lr=2"]


def test_a_table_without_a_name_takes_that_of_the_base() -> None:
    own = {"strategy.name": "krum"}
    made = arms(tables=[{"label": "a"}, {"label": "b", "client": {"lr": 0.5}}], own=own)
    assert labels(made) == ["a", "b"]
    assert made[1].settings == {"strategy.name": "krum", "client.lr": 0.5}


HARD = Arm(
    label='say "hi", <b>ü</b> mu=1',
    tuned=True,
    settings={
        "strategy.name": "fedprox",
        "strategy.parts": [{"name": "clip", "norm": 1.0}, "mask"],
        "strategy.mu": 0.1,
        "strategy.text": "a, b=c [",
        "strategy.list": [1, 2.5, "x y"],
        "client.augment": False,
        "client.lr": 1e-05,
    },
)


@pytest.mark.parametrize("arm", [HARD, *arms("fedavg", "fedprox mu=0.1", "fedadam+prox label=x")])
def test_an_arm_reads_back_from_its_line_and_from_its_table(arm: Arm) -> None:
    assert arms(arm_text(arm)) == (arm,)
    assert arms(tables=[arm_table(arm)]) == (arm,)


@pytest.mark.parametrize(
    ("said", "more", "sentence"),
    [
        (["fedavg", "fedavg"], {}, "two arms are called 'fedavg'; leave one out"),
        (["fedadam+"], {}, "'fedadam+' names no strategy"),
        (["fedprox 0.1"], {}, "'0.1' in the arm 'fedprox 0.1' is no setting"),
        ([], {"tables": "x"}, "arms = 'x' is not allowed"),
        ([], {"tables": [{"label": 1}]}, "an arm's label = 1"),
        ([], {"tables": [{"label": "a", "rounds": 3}]}, "an arm has rounds = 3, which is the same"),
        ([], {"tables": [{"label": "a"}]}, "the arm {} says no strategy.name"),
        (["fedavg"], {"grid": {"fedavgm": {"mu": [1]}}}, "[grid.fedavgm] is for a strategy that"),
        (
            ["fedavg"],
            {"own": {"strategy.name": "fedprox", "strategy.mu": 1}},
            "strategy.mu = 1 is for fedprox, which is not compared; write it beside its strategy",
        ),
        (["fedavg label==1+1"], {}, "an arm cannot be called '=1+1': use printable characters"),
        (['fedavg label="a\\nb"'], {}, "an arm cannot be called 'a\\nb'"),
        (['fedavg label=" "'], {}, "an arm cannot be called ' '"),
        (["fedprox mu="], {}, "mu in the arm 'fedprox mu=' has no value"),
    ],
)
def test_what_is_no_arm_is_refused(said: list[str], more: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        arms(*said, **more)
    assert str(caught.value).startswith(sentence)
