"""What a comparison is."""

from roundel.core.comparison import (
    Arm,
    Comparison,
    ReportSpec,
    leaves,
    put,
    settings_text,
    strategy_title,
)


def a_comparison(*labels: str, **more: object) -> Comparison:
    arms = tuple(Arm(label=label, settings={"strategy.name": "fedavg"}) for label in labels)
    known = {"name": "c", "base": {"rounds": 4}, "grid": {}, "seeds": (0, 1)} | more
    return Comparison(arms=arms, report=ReportSpec(baseline=labels[0]), **known)  # type: ignore[arg-type]


def test_cells_come_seed_by_seed_so_that_a_stopped_comparison_is_balanced() -> None:
    paths = [str(cell.path) for cell in a_comparison("a", "b").cells()]
    assert paths == [
        "cells/a/seed-0",
        "cells/b/seed-0",
        "cells/a/seed-1",
        "cells/b/seed-1",
    ]


def test_several_problems_have_a_directory_each() -> None:
    compared = a_comparison("a", grid={"partition.alpha": (0.1, 1.0)}, seeds=(5,))
    assert [str(cell.path) for cell in compared.cells()] == [
        "cells/alpha=0.1/a/seed-5",
        "cells/alpha=1.0/a/seed-5",
    ]


def test_labels_that_look_alike_as_directories_have_different_ones() -> None:
    paths = [str(cell.path) for cell in a_comparison("A B", "a b", "../..", seeds=(0,)).cells()]
    assert paths == ["cells/a-b/seed-0", "cells/a-b-2/seed-0", "cells/arm-2/seed-0"]


def test_a_value_that_does_not_vary_is_not_in_the_label_of_a_problem() -> None:
    compared = a_comparison("a", grid={"partition.alpha": (0.1,), "cohort.size": (5, 6)})
    assert [problem.label for problem in compared.problems] == ["size=5", "size=6"]
    assert compared.problems[0].settings == {"partition.alpha": 0.1, "cohort.size": 5}


def test_a_cell_is_the_base_with_what_its_problem_and_its_arm_say() -> None:
    compared = Comparison(
        name="c",
        base={"rounds": 4, "client": {"lr": 0.5, "batch_size": 8}},
        grid={"partition.alpha": (0.1,)},
        arms=(Arm(label="p", settings={"strategy.name": "fedprox", "client.lr": 0.25}),),
        seeds=(7,),
        report=ReportSpec(baseline="p"),
    )
    experiment = compared.experiment(next(compared.cells()))
    assert (experiment.seed, experiment.rounds, experiment.name) == (7, 4, "c: p")
    assert (experiment.client.lr, experiment.client.batch_size) == (0.25, 8)
    assert (experiment.strategy.name, experiment.partition.alpha) == ("fedprox", 0.1)
    assert compared.base == {"rounds": 4, "client": {"lr": 0.5, "batch_size": 8}}


def test_keys_that_end_alike_are_said_whole() -> None:
    assert settings_text({"client.lr": 0.1, "strategy.lr": 1}) == "client.lr=0.1 strategy.lr=1"


def test_a_title_names_the_parts() -> None:
    settings = {"strategy.name": "fedadam", "strategy.parts": ["prox", {"name": "clip"}]}
    assert strategy_title(settings) == "fedadam+prox+clip"


def test_a_tree_and_its_leaves_say_the_same() -> None:
    tree = {"rounds": 3, "client": {"lr": 0.1}, "strategy": {"parts": [{"name": "prox"}]}}
    again: dict[str, object] = {}
    for key, value in leaves(tree).items():
        put(again, key, value)
    assert again == tree
