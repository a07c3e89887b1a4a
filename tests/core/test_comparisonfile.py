"""Comparisons from files and command lines, and back."""

import shlex
from pathlib import Path

import pytest

from roundel.core.comparison import Comparison
from roundel.core.comparisonfile import (
    FILE,
    Said,
    command,
    dump_comparison,
    load_comparison,
    read_comparison,
    without_file,
)
from roundel.core.errors import ConfigError, RunDirectoryError

EVERYTHING = """
name = "alpha and mu"
rounds = 60
seed = 3

[strategy]
name = "fedprox"
mu = 0.5
parts = [{ name = "clip", norm = 1.0 }]

[partition]
clients = 20

[grid]
seeds = [3, 9]
strategy.name = ["fedavg", "fedprox"]
partition.alpha = [0.1, 1.0]
client.lr = [0.1, 0.2]

[grid.fedavg]
client.epochs = [1, 2]

[report]
baseline = "fedprox+clip lr=0.1"
metrics = ["loss"]
targets = { accuracy = 0.9 }
tail = 0.1
"""

OPTIONS = {"-s": "settings", "--grid": "grid", "--target": "targets", "--metric": "metrics"}


def of_line(line: str) -> Comparison:
    """Return what the command compares."""
    words = iter(shlex.split(line)[2:])
    lists: dict[str, list[str]] = {name: [] for name in ("arms", *OPTIONS.values())}
    single = {}
    for word in words:
        if word in ("--seeds", "--baseline"):
            single[word.removeprefix("--")] = next(words)
        elif word in OPTIONS:
            lists[OPTIONS[word]].append(next(words))
        else:
            lists["arms"].append(word)
    lists["settings"] = without_file(lists["settings"])
    return load_comparison(None, Said(**lists, **single))  # type: ignore[arg-type]


def check_same(one: Comparison, other: Comparison) -> None:
    """See that the cells of two are the same, and reported alike."""
    assert (one.problems, one.arms, one.seeds) == (other.problems, other.arms, other.seeds)
    assert one.report == other.report
    for cell in one.cells():
        assert one.experiment(cell) == other.experiment(cell)


@pytest.fixture
def everything(tmp_path: Path) -> Comparison:
    path = tmp_path / "grid.toml"
    path.write_text(EVERYTHING)
    return load_comparison(path)


def test_a_file_says_arms_problems_seeds_and_what_is_reported(everything: Comparison) -> None:
    assert everything.seeds == (3, 9)
    assert [problem.label for problem in everything.problems] == ["alpha=0.1", "alpha=1.0"]
    assert [arm.label for arm in everything.arms] == [
        "fedavg+clip lr=0.1 epochs=1",
        "fedavg+clip lr=0.1 epochs=2",
        "fedavg+clip lr=0.2 epochs=1",
        "fedavg+clip lr=0.2 epochs=2",
        "fedprox+clip lr=0.1",
        "fedprox+clip lr=0.2",
    ]
    assert everything.base == {"rounds": 60, "partition": {"clients": 20}}
    assert everything.report.metrics == ("loss", "accuracy")
    assert everything.report.targets == {"accuracy": 0.9}


@pytest.mark.parametrize(
    "said",
    [
        Said(),
        Said(seeds="4,6"),
        Said(seeds="1", settings=["seed=5"]),
        Said(arms=["fedavg", 'fedavg label="it again"'], baseline="it again"),
        Said(settings=["report.tail=0.2", "task.name=digits", "name=a b"], grid=["rounds=2,3"]),
        Said(metrics=["loss", "clients.accuracy.p10"], targets=["loss=0.25"]),
        Said(grid=["seeds.data=1,2"], seeds="2", settings=["report.tail=1"]),
        Said(settings=["task.name=synthetic"], arms=['fedavg label="not a.toml"']),
        Said(settings=without_file([])),
    ],
)
def test_what_is_written_and_the_printed_command_give_the_same_comparison(
    said: Said, tmp_path: Path
) -> None:
    compared = load_comparison(None, said)
    (tmp_path / FILE).write_text(dump_comparison(compared))
    assert read_comparison(tmp_path) == compared
    check_same(of_line(command(compared)), compared)


def test_that_holds_with_everything_at_once(everything: Comparison, tmp_path: Path) -> None:
    (tmp_path / FILE).write_text(dump_comparison(everything))
    assert read_comparison(tmp_path) == everything
    check_same(of_line(command(everything)), everything)


def test_the_command_of_the_default_comparison_is_short() -> None:
    line = "roundel compare fedavg fedprox scaffold fedadam --seeds 3 -s task.name=digits"
    assert command(load_comparison()) == line


def test_what_a_command_adds_without_a_file_is_for_the_digits_alone() -> None:
    assert without_file(["rounds=1"])[::3] == ["partition.alpha=0.1", "rounds=1"]
    assert without_file(["task.name=synthetic"]) == ["task.name=synthetic"]


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        (Said(grid=["partition.alfa=1,2"]), "partition.alfa is not a key"),
        (Said(arms=["fedavg client.lr=-1"]), "client.lr = -1 is not allowed"),
        (Said(baseline="fedavgm"), "the baseline 'fedavgm' is no arm; did you mean 'fedavg'?"),
        (Said(targets=["accuracy"]), "--target 'accuracy' is no target"),
        (Said(targets=["accuracy=high"]), "the target accuracy = 'high' is no number"),
        (Said(targets=["accuracy=nan"]), "the target accuracy = nan is no number"),
        (Said(settings=["report.tale=1"]), "report.tale is not a key; did you mean 'tail'?"),
        (Said(settings=["report.tail=2.0"]), "report.tail = 2.0 is not allowed"),
        (Said(settings=["report.metrics=[]"]), "report.metrics = [] has no values"),
        (Said(settings=["report.metrics=x"]), "report.metrics = 'x' is no list of names"),
        (Said(settings=["report.targets=1"]), "report.targets = 1 is not a table"),
        (Said(settings=["report=1"]), "report = 1 is not allowed: it is a table"),
        (Said(settings=["schema_version=9"]), "the comparison was written in format 9"),
    ],
)
def test_what_is_wrong_is_said_before_anything_runs(said: Said, sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_comparison(None, said)
    assert str(caught.value).startswith(sentence)


def test_another_directory_is_not_one_of_a_comparison(tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError, match=f"it has no {FILE}; check the path"):
        read_comparison(tmp_path)


def test_a_damaged_file_is_said_to_be_damaged(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text("seeds = [")
    with pytest.raises(RunDirectoryError, match=r"is damaged: .* is not a TOML file"):
        read_comparison(tmp_path)
