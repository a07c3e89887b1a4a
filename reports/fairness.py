"""What a reader has to know before believing a comparison: checks of its files, in sentences."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from math import isclose
from statistics import mean

from roundel.core.comparison import Comparison
from roundel.reports.arms import Row
from roundel.reports.cells import CellRun, Shared
from roundel.reports.statistics import SEEDS_FOR_P
from roundel.reports.text import short

_PER_SEED: Mapping[str, Callable[[Shared], object]] = {
    "partition": lambda shared: shared.partition,
    "first model": lambda shared: shared.model,
}
_PER_ROUND: Mapping[str, Callable[[Shared], Sequence[str]]] = {
    "cohorts": lambda shared: shared.cohorts,
    "dropouts": lambda shared: shared.answered,
    "local steps": lambda shared: shared.steps,
}

_OTHER = {
    "partition": ("another partition", ", so that it learned another problem"),
    "first model": ("another first model", ", so that a difference may be one of where it began"),
    "cohorts": ("other cohorts", ": what chooses the clients is a part of what is compared"),
    "dropouts": ("other dropouts", ", although the same clients were asked"),
    "local steps": ("other local steps", ", although the same clients answered"),
}
"""What may differ, how it is called then, and what follows."""

_COMPUTED_BY = ("roundel", "python", "torch", "numpy", "machine", "cpu_capability")
"""Keys of the environment that bits may depend on."""


def notes(comparison: Comparison, runs: Sequence[CellRun], rows: Sequence[Row]) -> tuple[str, ...]:
    """Return what is to note about a comparison.

    Args:
        comparison: What was to be run.
        runs: What became of every cell.
        rows: What came of it.
    """
    done = [run for run in runs if run.state == "finished"]
    said = [
        *_incomplete(runs),
        *_failed(rows),
        *_diverged(rows),
        *_shared(comparison, done),
        *_unequal_tuning(comparison),
        *_few_seeds(comparison, rows),
        *_not_measured(comparison, rows),
        *_no_spread(done, rows),
        *_other_computers(done),
    ]
    return tuple(dict.fromkeys(said))


def _incomplete(runs: Sequence[CellRun]) -> Iterator[str]:
    missing = sum(run.state == "unfinished" for run in runs)
    if missing:
        yield (
            f"{missing} of {len(runs)} runs have not finished; all figures are of those that have, "
            "and nothing is tested where a seed is missing"
        )


def _failed(rows: Sequence[Row]) -> Iterator[str]:
    for row in rows:
        if row.failed:
            seeds = [str(seed) for seed in row.failed]
            yield (
                f"{_name(row)} failed with {_seeds(seeds)} and has no figure there: "
                + next(iter(row.failed.values()))
            )


def _diverged(rows: Sequence[Row]) -> Iterator[str]:
    for row in rows:
        if row.diverged:
            yield (
                f"{_name(row)} diverged with {_seeds([str(seed) for seed in row.diverged])} of "
                f"{row.seeds}: a loss was not finite at the end; figures that are finite count "
                "nevertheless"
            )


def _shared(comparison: Comparison, done: Sequence[CellRun]) -> Iterator[str]:
    """Say what arms with the same seed had in common, and what not."""
    pairs = list(_pairs(comparison, done))
    verdicts = [_verdicts(first.shared, other.shared) for first, other in pairs]
    same = [what for what in _OTHER if pairs and all(each.get(what) for each in verdicts)]
    if same:
        finished = {run.cell.arm.label for run in done}
        who = "all arms" if len(finished) == len(comparison.arms) else "the arms that finished"
        yield f"with the same seed {who} had the same {_listed(same)}, as their files show"
    for what, (other_one, consequence) in _OTHER.items():
        arms = dict.fromkeys(
            (other.cell.arm.label, first.cell.arm.label)
            for (first, other), each in zip(pairs, verdicts, strict=True)
            if each.get(what) is False
        )
        for arm, first in arms:
            yield f"{arm} had {other_one} than {first} with the same seed{consequence}"
    if "local steps" not in same:
        yield from _unequal_work(done)
    yield from _unequal_rounds(pairs)


def _pairs(comparison: Comparison, done: Sequence[CellRun]) -> Iterator[tuple[CellRun, CellRun]]:
    """Yield each run with the baseline's on the same problem with the same seed, or another's."""
    groups: dict[tuple[str, int], list[CellRun]] = {}
    for run in done:
        groups.setdefault((run.cell.problem.label, run.cell.seed), []).append(run)
    for runs in groups.values():
        first, *others = sorted(
            runs, key=lambda run: run.cell.arm.label != comparison.report.baseline
        )
        yield from ((first, other) for other in others)


def _verdicts(one: Shared, other: Shared) -> dict[str, bool]:
    """Return whether they have the same of each thing, as far as that can be told.

    Rounds count that both have. Where cohorts differ, what they did differs for that reason.
    """
    found = {
        what: of(one) == of(other)
        for what, of in _PER_SEED.items()
        if of(one) is not None and of(other) is not None
    }
    for what, rounds in _PER_ROUND.items():
        together = list(zip(rounds(one), rounds(other), strict=False))
        if not together:
            break
        found[what] = all(a == b for a, b in together)
        if not found[what]:
            break
    return found


def _unequal_work(done: Sequence[CellRun]) -> Iterator[str]:
    """Say how many steps updates took, over the problems and seeds that all arms have.

    A seed has clients of its own, so that where one is missing the work is another, too.
    """
    steps: dict[str, dict[tuple[str, int], float]] = {}
    for run in done:
        if run.shared.work is not None:
            where = run.cell.problem.label, run.cell.seed
            steps.setdefault(run.cell.arm.label, {})[where] = run.shared.work
    first, *others = steps.values() if steps else [{}]
    common = [where for where in first if all(where in other for other in others)]
    if not common:
        return
    means = {arm: mean(each[where] for where in common) for arm, each in steps.items()}
    if not isclose(min(means.values()), max(means.values()), rel_tol=0.01):
        told = ", ".join(f"{arm} {short(round(count, 1))}" for arm, count in means.items())
        yield (
            f"local work is not equal: an update took so many steps in the mean: {told}; "
            "a difference may be one of work"
        )


def _unequal_rounds(pairs: Sequence[tuple[CellRun, CellRun]]) -> Iterator[str]:
    if all(len(first.rounds) == len(other.rounds) for first, other in pairs):
        return
    counts: dict[str, list[int]] = {}
    for run in (run for pair in pairs for run in pair):
        counts.setdefault(run.cell.arm.label, []).append(len(run.rounds))
    told = ", ".join(f"{arm} {_range(each)}" for arm, each in counts.items())
    yield (
        f"runs with the same seed ended after different numbers of rounds: {told}; a difference "
        "may be one of how long they learned"
    )


def _range(counts: Sequence[int]) -> str:
    low, high = min(counts), max(counts)
    return f"{low}" if low == high else f"{low} to {high}"


def _unequal_tuning(comparison: Comparison) -> Iterator[str]:
    tuned = [arm.label for arm in comparison.arms if arm.tuned]
    untuned = [arm.label for arm in comparison.arms if not arm.tuned]
    if tuned and untuned:
        yield (
            f"{_listed(tuned)} {_is(tuned)} tuned and {_listed(untuned)} {_is(untuned)} not, so "
            "that a difference may be one of tuning; `roundel tune` gives each strategy the same "
            "number of trials"
        )


def _few_seeds(comparison: Comparison, rows: Sequence[Row]) -> Iterator[str]:
    count = len(comparison.seeds)
    if len(rows) < 2 or count >= SEEDS_FOR_P:  # noqa: PLR2004 - nothing to compare with
        return
    if count == 1:
        yield (
            "one seed cannot show how figures vary, so that no difference means anything; "
            f"--seeds {SEEDS_FOR_P} runs {SEEDS_FOR_P}"
        )
        return
    yield (
        f"{count} seeds cannot carry p-values: a t test takes differences to be normal, which "
        f"fewer than {SEEDS_FOR_P} cannot show; the intervals take it on trust, and each holds for "
        f"one difference alone (--seeds {SEEDS_FOR_P} runs {SEEDS_FOR_P})"
    )


def _not_measured(comparison: Comparison, rows: Sequence[Row]) -> Iterator[str]:
    for metric in comparison.report.metrics:
        for row in rows:
            finals = row.finals[metric]
            missing = [seed for seed, value in finals.items() if value is None]
            if finals and len(missing) == len(finals):
                yield f"{_name(row)} has no finite {metric} with any seed"
            elif missing:
                yield (
                    f"{_name(row)} has no finite {metric} with {len(missing)} of {len(finals)} "
                    "seeds; its mean is over the others, which flatters it"
                )


def _no_spread(done: Sequence[CellRun], rows: Sequence[Row]) -> Iterator[str]:
    if any(run.small for run in done) and not any(row.spread for row in rows):
        least = next(run.experiment.evaluation.min_examples for run in done if run.experiment)
        yield (
            "nothing is said of how accuracies lie over clients, since none holds out "
            f"evaluation.min_examples = {least} examples; larger shares (partition.test) or fewer "
            "clients would give them figures of their own"
        )


def _other_computers(done: Sequence[CellRun]) -> Iterator[str]:
    for key in _COMPUTED_BY:
        values = sorted({str(run.environment[key]) for run in done if key in run.environment})
        if len(values) > 1:
            yield (
                f"runs were computed with different {key} ({', '.join(values)}): figures may "
                "differ for that reason"
            )


def _name(row: Row) -> str:
    return f"{row.arm} ({row.problem})" if row.problem else row.arm


def _listed(words: Sequence[str]) -> str:
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last


def _seeds(seeds: Sequence[str]) -> str:
    return f"seed{'s' if len(seeds) > 1 else ''} {_listed(seeds)}"


def _is(words: Sequence[str]) -> str:
    return "is" if len(words) == 1 else "are"
