"""What a comparison is: problems, arms and seeds, and the ordinary run that each cell is.

A *problem* says what is learned, an *arm* how, and a *cell* is one arm on one problem with one
seed. With the same seed all arms of a problem share the partition, the initial model, the cohorts
and the order of the data, since each of them is drawn from the seed alone.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product
from pathlib import PurePosixPath
from typing import Any

from roundel.core.config import Experiment, StrategyConfig
from roundel.core.configfile import parse_experiment

_MOST_OF_A_NAME = 80
"""Characters of a directory's name."""


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One way to learn.

    Attributes:
        label: What tables and figures call it.
        settings: Dotted keys and values over the base; ``strategy.name`` is always there.
        tuned: Whether the settings were selected by tuning.
    """

    label: str
    settings: Mapping[str, Any]
    tuned: bool = False

    @property
    def title(self) -> str:
        """Name of its strategy with those of the parts, as in ``fedadam+prox``."""
        return strategy_title(self.settings)


@dataclass(frozen=True, kw_only=True)
class Problem:
    """What is learned.

    Attributes:
        label: What tables and figures call it; empty if it is the only one.
        settings: Dotted keys and values over the base.
    """

    label: str
    settings: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class ReportSpec:
    """What the report shows.

    Attributes:
        baseline: Label of the arm that the others are compared to.
        metrics: Keys of the lines of ``metrics.jsonl``; the first one is tested.
        targets: By metric, what is to be reached.
        tail: The share of rounds, at the end, whose mean is the final figure.
    """

    baseline: str
    metrics: tuple[str, ...] = ("accuracy",)
    targets: Mapping[str, float] = field(default_factory=dict)
    tail: float = 0.05


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One arm on one problem with one seed.

    Attributes:
        path: Of its run, below the directory of the comparison.
    """

    problem: Problem
    arm: Arm
    seed: int
    path: PurePosixPath


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """All that is compared.

    Attributes:
        name: What it is called.
        base: The experiment that all cells have in common, as a tree; without a strategy.
        grid: Dotted keys with the values that make several problems of the base.
        arms: At least one, with different labels.
        seeds: All different.
        report: What the report shows.
    """

    name: str
    base: Mapping[str, Any]
    grid: Mapping[str, tuple[Any, ...]]
    arms: tuple[Arm, ...]
    seeds: tuple[int, ...]
    report: ReportSpec

    @cached_property
    def problems(self) -> tuple[Problem, ...]:
        """Every combination of the values of the grid; the base alone if there are none."""
        varied = [key for key, values in self.grid.items() if len(values) > 1]
        return tuple(
            Problem(
                label=settings_text({key: settings[key] for key in varied}),
                settings=settings,
            )
            for values in product(*self.grid.values())
            for settings in [dict(zip(self.grid, values, strict=True))]
        )

    def cells(self) -> Iterator[Cell]:
        """Yield all cells, seed by seed, so that one which stops early is balanced."""
        problems = _slugs([problem.label for problem in self.problems])
        arms = _slugs([arm.label for arm in self.arms])
        for seed in self.seeds:
            for problem in self.problems:
                for arm in self.arms:
                    steps = ["cells", problems[problem.label], arms[arm.label], f"seed-{seed}"]
                    path = PurePosixPath(*filter(None, steps))
                    yield Cell(problem=problem, arm=arm, seed=seed, path=path)

    def experiment(self, cell: Cell) -> Experiment:
        """Return what is run for a cell.

        Raises:
            ConfigError: A key or value is wrong.
        """
        return self.experiment_of(cell.problem, cell.arm, cell.seed)

    def experiment_of(self, problem: Problem, arm: Arm, seed: int) -> Experiment:
        """The same of its coordinates."""
        tree = deepcopy(dict(self.base))
        for key, value in {**problem.settings, **arm.settings}.items():
            put(tree, key, value)
        return parse_experiment({**tree, "name": f"{self.name}: {arm.label}", "seed": seed})


def strategy_title(settings: Mapping[str, Any]) -> str:
    """Return the name of the strategy that settings say, with those of its parts."""
    parts = settings.get("strategy.parts", [])
    return StrategyConfig(name=settings["strategy.name"], parts=parts).title


def settings_text(settings: Mapping[str, Any]) -> str:
    """Say settings as a label does, by the last step of their keys if that is clear.

    >>> settings_text({"partition.alpha": 0.1, "cohort.size": 20})
    'alpha=0.1 size=20'
    """
    last = [key.rpartition(".")[2] for key in settings]
    names = (
        key if last.count(short) > 1 else short for key, short in zip(settings, last, strict=True)
    )
    return " ".join(f"{name}={value}" for name, value in zip(names, settings.values(), strict=True))


def put(tree: dict[str, Any], key: str, value: object) -> None:
    """Set a dotted key of a tree, in place; a value on its way becomes a section."""
    *sections, last = key.split(".")
    for section in sections:
        node = tree.get(section)
        if not isinstance(node, dict):
            node = tree[section] = {}
        tree = node
    tree[last] = value


def leaves(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the values of a tree under dotted keys; lists are values.

    >>> leaves({"strategy": {"name": "fedprox", "mu": 0.1}})
    {'strategy.name': 'fedprox', 'strategy.mu': 0.1}
    """
    found: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            found |= leaves(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


def _slugs(labels: Collection[str]) -> dict[str, str]:
    """Return a directory's name for each label: readable, portable, and none of them twice."""
    slugs: dict[str, str] = {}
    taken: set[str] = set()
    for label in labels:
        stem = re.sub(r"[^a-z0-9+=._]+", "-", label.lower()).strip("-.")[:_MOST_OF_A_NAME]
        slug, count = stem, 1
        while label and (not slug or slug in taken):
            count += 1
            slug = f"{stem or 'arm'}-{count}"
        taken.add(slug)
        slugs[label] = slug
    return slugs
