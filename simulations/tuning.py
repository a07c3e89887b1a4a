"""What tuning asks for, and what comes of its trials: the best of each strategy.

What a configuration is worth is a figure over the clients' validation examples at its end: no test
example has a say. The result is a comparison of the best, with seeds that no trial has seen.
"""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from statistics import mean
from typing import Any, Literal, TypeGuard

from roundel.core.comparison import Arm, Comparison, leaves, put
from roundel.core.config import PartitionConfig
from roundel.core.errors import RunFailed
from roundel.core.goals import goal_of

Search = Literal["random", "grid", "optuna"]

VALIDATION = 0.2
"""Share of each client's examples that decide, unless the experiment holds out another."""

SEEDS = 5
"""Of the comparison that follows."""

_APART = 1_000_003
"""Between the seeds of the comparison and those of the trials."""


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """What is to be tuned.

    Attributes:
        comparison: The strategies. One that stands there with several settings tries these; one
            that stands there once tries what `roundel.simulations.spaces` says.
        trials: How many configurations each strategy tries.
        search: How they are found.
        rounds: Of each trial; None for those of the experiment.
        seeds: How many seeds each trial has.
    """

    comparison: Comparison
    trials: int
    search: Search = "random"
    rounds: int | None = None
    seeds: int = 1

    @property
    def metric(self) -> str:
        """The key of a round's line that decides."""
        first = self.comparison.report.metrics[0]
        return first if first.startswith("clients.") else f"clients.{first}.mean"


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A configuration that was tried.

    Attributes:
        strategy: Title of its strategy.
        arm: It.
        scores: Seed to what it is worth on validation examples; None if it failed or diverged.
        best: Whether it was selected.
    """

    strategy: str
    arm: Arm
    scores: Mapping[int, float | None]
    best: bool = False

    @property
    def score(self) -> float | None:
        """The mean over seeds; None if one of them failed or diverged."""
        values = [score for score in self.scores.values() if score is not None]
        return mean(values) if len(values) == len(self.scores) else None


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """What has come out.

    Attributes:
        tuning: What was asked for.
        trials: All, strategy by strategy.
        comparison: The best of each strategy, with fresh seeds.
        edges: What to search further, in sentences.
    """

    tuning: Tuning
    trials: tuple[Trial, ...]
    comparison: Comparison
    edges: tuple[str, ...]


def comparison_of_trials(tuning: Tuning, arms: Sequence[Arm]) -> Comparison:
    """Return the comparison of all trials: judged on validation examples at their end."""
    given = tuning.comparison
    base = deepcopy(dict(given.base))
    said = leaves(base)
    if tuning.rounds is not None:
        base["rounds"] = tuning.rounds
    put(base, "partition.validation", validation_of(said))
    put(base, "evaluation.split", "validation")
    if said.get("evaluation.clients") == 0:
        put(base, "evaluation.clients", 100)
    seeds = tuple(seed + _APART for seed in range(given.seeds[0], given.seeds[0] + tuning.seeds))
    return replace(
        given,
        name=f"{given.name} (tuning)",
        base=base,
        arms=tuple(arms),
        seeds=seeds,
        report=replace(given.report, baseline=arms[0].label, metrics=(tuning.metric,), targets={}),
    )


def validation_of(said: Mapping[str, Any]) -> float:
    """Return the share of each client's examples that decide.

    Args:
        said: What the experiment says, by dotted keys.
    """
    share = said.get("partition.validation", PartitionConfig().validation)
    return float(share) or VALIDATION


def selected(tuning: Tuning, tried: Sequence[Trial]) -> Tuned:
    """Select the best configuration of each strategy; the first of several.

    Raises:
        RunFailed: A strategy has none that did not fail or diverge.
    """
    better = max if goal_of(tuning.metric) == "max" else min
    trials, arms, edges = [], [], []
    for title in dict.fromkeys(trial.strategy for trial in tried):
        own = [trial for trial in tried if trial.strategy == title]
        worth = {place: score for place, t in enumerate(own) if (score := t.score) is not None}
        if not worth:
            raise RunFailed(
                f"all {len(own)} trials of {title} failed or diverged; give it other values to try"
            )
        best = better(worth, key=worth.__getitem__)
        arms.append(Arm(label=title, settings=own[best].arm.settings, tuned=True))
        edges += _edges(title, own, own[best])
        trials += [replace(trial, best=place == best) for place, trial in enumerate(own)]
    return Tuned(
        tuning=tuning,
        trials=tuple(trials),
        comparison=_comparison_of_the_best(tuning, arms),
        edges=tuple(edges),
    )


def _comparison_of_the_best(tuning: Tuning, arms: Sequence[Arm]) -> Comparison:
    """Return the comparison that follows: as asked for, with the same examples to train on."""
    given = tuning.comparison
    base = deepcopy(dict(given.base))
    put(base, "partition.validation", validation_of(leaves(base)))
    baseline = next(arm.title for arm in given.arms if arm.label == given.report.baseline)
    first = given.seeds[0]
    return replace(
        given,
        base=base,
        arms=tuple(arms),
        seeds=given.seeds if len(given.seeds) >= SEEDS else tuple(range(first, first + SEEDS)),
        report=replace(given.report, baseline=baseline),
    )


def _edges(title: str, tried: Sequence[Trial], best: Trial) -> list[str]:
    """Say where the best value is the smallest or the largest that was tried."""
    said = []
    for key in varied(tried):
        value = best.arm.settings.get(key)
        each = (trial.arm.settings.get(key) for trial in tried)
        values = sorted({other for other in each if _is_number(other)})
        if not _is_number(value) or len(values) < 2:  # noqa: PLR2004 - one value has no edge
            continue
        if value in (values[0], values[-1]):
            which, where = ("smallest", "smaller") if value == values[0] else ("largest", "larger")
            said.append(
                f"{title}: the best {key} = {value:g} is the {which} of those tried; try {where} "
                "ones too"
            )
    return said


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def varied(trials: Sequence[Trial]) -> list[str]:
    """Return the keys in which the configurations of one strategy differ."""
    settings = [trial.arm.settings for trial in trials]
    keys = dict.fromkeys(key for each in settings for key in each)
    return [key for key in keys if len({repr(each.get(key)) for each in settings}) > 1]
