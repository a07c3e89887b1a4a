"""Read comparisons from files and command lines, and write them as both.

One language serves what a user writes and what is recorded: an experiment file with a ``[grid]`` of
lists, arms, and what the report shows.

    rounds = 60

    [grid]
    seeds = 5
    strategy.name = ["fedavg", "fedprox"]
    partition.alpha = [0.1, 1.0]

    [grid.fedprox]
    mu = [0.01, 0.1]

    [report]
    baseline = "fedavg"
    targets = { accuracy = 0.9 }
"""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import tomli_w

from roundel.core.arms import arm_table, arm_text, make_arms, value_text
from roundel.core.comparison import Arm, Comparison, ReportSpec, leaves
from roundel.core.config import Experiment
from roundel.core.configfile import parse_value, read_tree
from roundel.core.errors import ConfigError, RunDirectoryError
from roundel.core.grid import parse_seeds, put_list, read_grid
from roundel.core.suggest import suggest

FILE = "comparison.toml"
SCHEMA_VERSION = 1

WITHOUT_FILE = {"partition.alpha": 0.1, "partition.test": 0.2, "evaluation.min_examples": 3}
"""What a command sets where neither a file nor a setting says what is learned: shares of the
digits that differ strongly, and enough held-out examples for most clients to have a figure of
their own."""


@dataclass(frozen=True, kw_only=True)
class Said:
    """What a command line says over a file.

    Attributes:
        arms: Such as ``"fedprox mu=0.01,0.1"``; in place of the file's.
        settings: Of all cells, such as ``"rounds=30"``.
        grid: Lists, such as ``"partition.alpha=0.1,1.0"``.
        seeds: How many, or which with commas.
        baseline: Label of an arm.
        metrics: In place of the file's.
        targets: Such as ``"accuracy=0.9"``; in place of the file's.
    """

    arms: Sequence[str] = ()
    settings: Sequence[str] = ()
    grid: Sequence[str] = ()
    seeds: str | None = None
    baseline: str | None = None
    metrics: Sequence[str] = ()
    targets: Sequence[str] = ()


def without_file(settings: Sequence[str]) -> list[str]:
    """Return the settings of a command that names no file, `WITHOUT_FILE` before them.

    >>> without_file(["task.name=synthetic"])
    ['task.name=synthetic']
    """
    if any(setting.partition("=")[0].strip() == _TASK for setting in settings):
        return list(settings)
    return [*(f"{key}={value_text(value)}" for key, value in WITHOUT_FILE.items()), *settings]


_TASK = "task.name"


def load_comparison(path: Path | None = None, said: Said = Said()) -> Comparison:
    """Read a comparison: the file, then what the command line says.

    Args:
        path: A TOML file; None for digits with the default strategies.
        said: The command line.

    Raises:
        ConfigError: The file cannot be read, or a key or value is wrong.
    """
    tree = read_tree(path, said.settings)
    schema = tree.pop("schema_version", SCHEMA_VERSION)
    if schema != SCHEMA_VERSION:
        raise ConfigError(
            f"{path or 'the comparison'} was written in format {schema}, and this version of "
            f"Roundel reads format {SCHEMA_VERSION}; use the version that wrote it"
        )
    grid = read_grid(_section(tree, "grid"), said.grid)
    report = _section(tree, "report")
    tables = tree.pop("arms", [])
    own = leaves({"strategy": _section(tree, "strategy")})
    seeds = parse_seeds(said.seeds if said.seeds is not None else grid.seeds, tree.pop("seed", 0))
    arms = make_arms(said.arms, tables, grid, own)
    comparison = Comparison(
        name=str(tree.pop("name", "comparison")),
        base=tree,
        grid=grid.what,
        arms=arms,
        seeds=seeds,
        report=_report(report, said, arms),
    )
    for problem in comparison.problems:
        for arm in arms:
            comparison.experiment_of(problem, arm, seeds[0])
    return comparison


def read_comparison(directory: Path) -> Comparison:
    """Read what a directory compares.

    Raises:
        RunDirectoryError: It is not that of a comparison, or it is damaged.
    """
    if not (directory / FILE).is_file():
        raise RunDirectoryError(
            f"{directory} is not the directory of a comparison: it has no {FILE}; check the path"
        )
    try:
        return load_comparison(directory / FILE)
    except ConfigError as error:
        raise RunDirectoryError(f"{directory} is damaged: {error}") from error


def dump_comparison(comparison: Comparison) -> str:
    """Return a comparison as TOML that reads back to an equal one."""
    spec = comparison.report
    grid: dict[str, Any] = {"seeds": list(comparison.seeds)}
    for key, values in comparison.grid.items():
        put_list(grid, key, values)
    return tomli_w.dumps(
        {
            "schema_version": SCHEMA_VERSION,
            "name": comparison.name,
            **comparison.base,
            "grid": grid,
            "report": {
                "baseline": spec.baseline,
                "metrics": list(spec.metrics),
                "tail": spec.tail,
                "targets": dict(spec.targets),
            },
            "arms": [arm_table(arm) for arm in comparison.arms],
        }
    )


def command(comparison: Comparison) -> str:
    """Return one line for a shell that makes the same comparison without its file."""
    spec = comparison.report
    words = ["roundel", "compare", *map(arm_text, comparison.arms)]
    first, count = comparison.seeds[0], len(comparison.seeds)
    if comparison.seeds == tuple(range(first, first + count)):
        words += ["--seeds", str(count)]
        words += ["-s", f"seed={first}"] if first else []
    else:
        words += ["--seeds", ",".join(map(str, comparison.seeds))]
    name = {} if comparison.name == "comparison" else {"name": comparison.name}
    for key, value in {**name, **_explicit(leaves(comparison.base))}.items():
        words += ["-s", f"{key}={value_text(value)}"]
    for key, values in comparison.grid.items():
        words += ["--grid", f"{key}={','.join(map(value_text, values))}"]
    if spec.baseline != comparison.arms[0].label:
        words += ["--baseline", spec.baseline]
    if spec.metrics != ReportSpec.metrics:
        words += [word for metric in spec.metrics for word in ("--metric", metric)]
    for metric, target in spec.targets.items():
        words += ["--target", f"{metric}={target!r}"]
    words += ["-s", f"report.tail={spec.tail!r}"] if spec.tail != ReportSpec.tail else []
    return shlex.join(words)


def _explicit(base: dict[str, Any]) -> dict[str, Any]:
    """Return what a base says, and its task where a command would add something if it did not."""
    if _TASK in base or WITHOUT_FILE.keys() <= base.keys():
        return base
    return {_TASK: Experiment().task.name, **base}


def _section(tree: dict[str, Any], key: str) -> dict[str, Any]:
    """Take a table out of a tree."""
    table = tree.pop(key, {})
    if not isinstance(table, dict):
        raise ConfigError(f"{key} = {table!r} is not allowed: it is a table; write [{key}]")
    return table


def _report(table: dict[str, Any], said: Said, arms: Sequence[Arm]) -> ReportSpec:
    known = ("baseline", "metrics", "targets", "tail")
    for key in table.keys() - set(known):
        raise ConfigError(f"report.{key} is not a key; {suggest(key, known)}")
    baseline = said.baseline or table.get("baseline") or arms[0].label
    labels = [arm.label for arm in arms]
    if baseline not in labels:
        raise ConfigError(f"the baseline {baseline!r} is no arm; {suggest(str(baseline), labels)}")
    targets = _targets(said.targets) if said.targets else table.get("targets", {})
    if not isinstance(targets, dict):
        raise ConfigError(f"report.targets = {targets!r} is not a table; write {{accuracy = 0.9}}")
    for metric, target in targets.items():
        if isinstance(target, bool) or not isinstance(target, int | float) or not isfinite(target):
            raise ConfigError(f"the target {metric} = {target!r} is no number; give one")
    metrics = said.metrics or table.get("metrics", ReportSpec.metrics)
    if not isinstance(metrics, list | tuple) or not all(isinstance(key, str) for key in metrics):
        raise ConfigError(f"report.metrics = {metrics!r} is no list of names; give some")
    if not metrics:
        raise ConfigError("report.metrics = [] has no values; name one, such as accuracy")
    tail = table.get("tail", ReportSpec.tail)
    if isinstance(tail, bool) or not isinstance(tail, int | float) or not 0 < tail <= 1:
        raise ConfigError(f"report.tail = {tail!r} is not allowed: it is a share of the rounds")
    return ReportSpec(
        baseline=baseline,
        metrics=tuple(dict.fromkeys([*metrics, *targets])),
        targets={metric: float(target) for metric, target in targets.items()},
        tail=float(tail),
    )


def _targets(said: Sequence[str]) -> dict[str, Any]:
    found = {}
    for text in said:
        metric, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"--target {text!r} is no target; write --target accuracy=0.9")
        found[metric.strip()] = parse_value(value.strip())
    return found
