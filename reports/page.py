"""Pages that are one file each: they load nothing, and nothing runs in them but our own script.

What a user has written, labels and reasons and settings, is escaped wherever it stands, and a
policy in the page forbids to load anything or to run anything else. Pictures are embedded as
images, in which no browser runs a script.
"""

from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from roundel.core.comparison import Comparison, leaves
from roundel.core.comparisonfile import dump_comparison
from roundel.reports.comparison import ComparisonReport
from roundel.reports.comparison_tables import every_seed, failed_runs, results, spreads, to_targets
from roundel.reports.pictures import ComparisonPictures, RunPictures
from roundel.reports.run_report import RunReport
from roundel.reports.run_tables import by_class, lost_updates, overview, own_examples
from roundel.reports.text import figure, literal

NAME = "comparison"
"""What a comparison is called that nobody has named."""

_MOST_NAMED = 5
_TEMPLATES = Path(__file__).with_name("templates")


def comparison_page(report: ComparisonReport, pictures: ComparisonPictures) -> str:
    """Return the page of a comparison."""
    comparison, spec = report.comparison, report.comparison.report
    labels = [problem.label for problem in comparison.problems]
    rows = {label: [row for row in report.rows if row.problem == label] for label in labels}
    shown = {
        "title": _title(comparison),
        "subtitle": _standing(report),
        "compared": _compared(report),
        "findings": report.findings,
        "notes": report.notes,
        "reading": _reading(report),
        "tables": [results(rows[p], spec, _titled(p, "Every arm")) for p in labels],
        "target_tables": [
            found
            for p in labels
            if (found := to_targets(rows[p], _titled(p, "Until the target, in the median seed")))
        ],
        "curves": pictures.curves,
        "differences": pictures.differences,
        "spreads": pictures.spreads,
        "spread_tables": [
            found
            for p in labels
            if (found := spreads(rows[p], _titled(p, "Accuracy over clients at the end")))
        ],
        "seed_tables": [
            every_seed(rows[p], metric, comparison.seeds, _titled(p, f"Final {metric}"))
            for p in labels
            for metric in spec.metrics
        ],
        "failed": failed_runs(report.rows),
        "partitions": pictures.partitions,
        "command": report.command,
        "config": dump_comparison(comparison),
        "environment": _facts(report.environment),
    }
    return _page("comparison.html", shown)


def run_page(runs: Sequence[RunReport], pictures: RunPictures) -> str:
    """Return the page of one run or several."""
    several = len(runs) > 1
    shown = {
        "title": f"{len(runs)} runs" if several else str(runs[0].found["name"]),
        "subtitle": ", ".join(run.label for run in runs),
        "sentences": [_said_of(run, several=several) for run in runs],
        "overview": overview(runs),
        "curves": pictures.curves,
        "runs": [
            {
                "label": run.label,
                "heat": heat,
                "clients": own_examples(run.found["clients"]),
                "failures": lost_updates(run.found["failures"]),
                "classes": by_class(run.found["classes"]),
                "partition": partition,
                "command": run.command,
                "settings": _facts(run.found["settings"], write=literal),
                "environment": _facts(run.found["environment"]),
            }
            for run, heat, partition in zip(runs, pictures.heats, pictures.partitions, strict=True)
        ],
    }
    return _page("runs.html", shown)


def _title(comparison: Comparison) -> str:
    labels = [arm.label for arm in comparison.arms]
    arms = ", ".join(labels) if len(labels) <= _MOST_NAMED else f"{len(labels)} arms"
    task = comparison.experiment(next(comparison.cells())).task.name
    named = f"{comparison.name}: " if comparison.name != NAME else ""
    return f"{named}{arms} on {task}"


def _standing(report: ComparisonReport) -> str:
    done = f"{report.finished} of {report.cells} runs have finished"
    return f"A comparison of federated learning strategies; {done}."


def _compared(report: ComparisonReport) -> str:
    comparison = report.comparison
    arms, titles = len(comparison.arms), len({arm.title for arm in comparison.arms})
    who = _count(titles, "strategy", "strategies")
    who = who if arms == titles else f"{_count(arms, 'arm')} of {who}"
    problems = comparison.problems
    on = f" on {len(problems)} problems" if len(problems) > 1 else ""
    first, seed = comparison.arms[0], comparison.seeds[0]
    rounds = {comparison.experiment_of(p, first, seed).rounds for p in problems}
    length = f" of {_count(rounds.pop(), 'round')}" if len(rounds) == 1 else ""
    others = f" The others are compared with {comparison.report.baseline}." if arms > 1 else ""
    return (
        f"{who}{on} with {_count(len(comparison.seeds), 'seed')}: "
        f"{_count(report.cells, 'run')}{length}.{others}"
    )


def _count(count: int, word: str, plural: str = "") -> str:
    """Say how many.

    >>> _count(1, "seed"), _count(2, "seed")
    ('1 seed', '2 seeds')
    """
    return f"{count} {word if count == 1 else plural or word + 's'}"


def _reading(report: ComparisonReport) -> str:
    spec = report.comparison.report
    words = (
        f"A figure is the mean over the last {100 * spec.tail:g} % of a run's rounds, and then "
        "over seeds. Below it is a range that holds the true mean in 95 of 100 "
        "such comparisons (Student's t, over seeds)."
    )
    if len(report.comparison.arms) > 1:
        words += (
            f" \N{LEFT DOUBLE QUOTATION MARK}minus {spec.baseline}\N{RIGHT DOUBLE QUOTATION MARK}"
            " is the difference seed by seed: where its range holds 0, no winner can be named."
        )
    return f"{words} Columns with * are times, which differ from run to run."


def _said_of(run: RunReport, *, several: bool) -> str:
    found = run.found
    done, of = found["rounds"]["done"], found["rounds"]["of"]
    strategy, task = found["strategy"]["name"], found["task"]["name"]
    said = [f"{strategy} on {task}, {found['state']}, {done} of {of} rounds"]
    if curve := found["curve"]:
        best = curve["best"]
        said.append(
            f"the best {curve['metric']} was {figure(best['value'])}, in round {best['round']}"
        )
    said += [found["problem"]] if found["problem"] else []
    said += [f"it stopped early: {found['stopped']}"] if found["stopped"] else []
    said += [f"{_count(run.lost, 'client update')} did not count"] if run.lost else []
    return (f"{run.label}: " if several else "") + "; ".join(said)


def _titled(problem: str, what: str) -> str:
    return f"{problem}: {what[0].lower()}{what[1:]}" if problem else what


def _facts(
    tree: Mapping[str, Any], write: Callable[[object], str] = figure
) -> list[tuple[str, str]]:
    return [(key, write(value)) for key, value in leaves(tree).items()]


def _page(template: str, shown: Mapping[str, Any]) -> str:
    style, script = (_file(name) for name in ("page.css", "page.js"))
    policy = (
        f"default-src 'none'; img-src data:; style-src {_hashed(style)}; "
        f"script-src {_hashed(script)}; base-uri 'none'; form-action 'none'"
    )
    own = {"policy": policy, "style": Markup(style), "script": Markup(script)}  # noqa: S704 - ours
    return _templates().get_template(template).render(**shown, **own)


@cache
def _templates() -> Environment:
    return Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def _file(name: str) -> str:
    return (_TEMPLATES / name).read_text(encoding="utf-8")


def _hashed(text: str) -> str:
    """Return the source of a policy that allows exactly this text."""
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"
