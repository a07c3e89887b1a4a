"""Tune strategies with equal budgets, on validation examples alone.

Each strategy tries the same number of configurations, each for the same number of rounds with the
same seeds. `roundel.simulations.tuning` says what decides.
"""

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from math import isfinite
from pathlib import Path
from typing import Any

from roundel.core.comparison import Arm, Comparison, settings_text
from roundel.core.config import Experiment
from roundel.core.errors import ConfigError
from roundel.core.goals import goal_of
from roundel.core.history import read_history
from roundel.core.runfiles import MODEL
from roundel.core.seeds import derive
from roundel.simulations.cells import OnEvent
from roundel.simulations.compare import OnPlan, compare
from roundel.simulations.figures import figure_of
from roundel.simulations.spaces import Space, grid_points, random_points, space_of
from roundel.simulations.suggesting import check_optuna, suggestion
from roundel.simulations.tuning import Trial, Tuned, Tuning, comparison_of_trials, selected
from roundel.strategies.registry import settled

_ATTEMPTS = 100
"""How often configurations are drawn again because two of them are the same."""


def tune(
    tuning: Tuning,
    *,
    out: Path,
    workers: int | None = None,
    on_plan: OnPlan | None = None,
    on_event: OnEvent | None = None,
) -> Tuned:
    """Run all trials, and select the best of each strategy.

    The trials are a comparison: what was interrupted goes on, and `roundel.reports` can show it.

    Args:
        tuning: What is to be tuned.
        out: The directory.
        workers: As for `roundel.simulations.compare`.
        on_plan: Likewise.
        on_event: Likewise.

    Raises:
        ConfigError: A key or value is wrong, or budgets would differ; nothing was run.
        RunFailed: All trials of a strategy have failed or diverged.
    """
    check_one_problem(tuning.comparison)
    if tuning.search == "optuna":
        return selected(tuning, _one_after_another(tuning, out, workers, on_plan, on_event))
    tried = _tried(tuning, configured(tuning), out, workers, on_plan, on_event)
    return selected(tuning, tried)


def _tried(
    tuning: Tuning,
    configurations: Mapping[str, Sequence[Arm]],
    out: Path,
    workers: int | None,
    on_plan: OnPlan | None,
    on_event: OnEvent | None,
) -> list[Trial]:
    """Run configurations of each strategy; return what they are worth."""
    arms = [arm for own in configurations.values() for arm in own]
    trials = comparison_of_trials(tuning, arms)
    compare(trials, out=out, workers=workers, on_plan=on_plan, on_event=on_event)
    scores = _scores(trials, out, tuning.metric)
    return [
        Trial(strategy=title, arm=arm, scores=scores[arm.label])
        for title, own in configurations.items()
        for arm in own
    ]


def _one_after_another(
    tuning: Tuning,
    out: Path,
    workers: int | None,
    on_plan: OnPlan | None,
    on_event: OnEvent | None,
) -> list[Trial]:
    """Let each strategy's next configuration depend on what those before it were worth.

    Each step is a comparison in a directory of its own, with one arm for each strategy.
    """
    check_optuna()
    tried: list[Trial] = []
    for step in range(1, tuning.trials + 1):
        configurations = {
            title: [_suggested(tuning, title, arms, tried)] for title, arms in by_title(tuning)
        }
        place = out / f"trial-{step:03d}"
        tried += _tried(tuning, configurations, place, workers, on_plan, on_event)
        on_plan = on_plan and _without_divisions(on_plan)
    return tried


def _without_divisions(on_plan: OnPlan) -> OnPlan:
    """Show plans that differ from one shown before in their arms alone."""
    return lambda plan: on_plan(replace(plan, divisions={}))


def _suggested(tuning: Tuning, title: str, written: Sequence[Arm], tried: Sequence[Trial]) -> Arm:
    if len(written) > 1:
        raise ConfigError(
            f"{title} has a list of configurations to try, and --search optuna finds its own; "
            "leave the list out, or take --search random"
        )
    only = written[0]
    usual, space = _space(tuning, title, only)
    own = [trial for trial in tried if trial.strategy == title]
    if not own:
        return _arm(title, only, _usual(usual, space))
    point = suggestion(
        space,
        [({key: trial.arm.settings[key] for key in space}, trial.score) for trial in own],
        trials=tuning.trials,
        goal=goal_of(tuning.metric),
        seed=derive(usual.seed, f"tuning {title}"),
    )
    return _arm(title, only, point)


def check_one_problem(comparison: Comparison) -> None:
    """Refuse to tune on several problems at once.

    Raises:
        ConfigError: There are several.
    """
    if len(comparison.problems) > 1:
        labels = "; ".join(problem.label for problem in comparison.problems)
        raise ConfigError(
            f"there are several problems ({labels}), and the best settings of one are not those of "
            "another; tune on one at a time"
        )


def by_title(tuning: Tuning) -> Iterable[tuple[str, list[Arm]]]:
    """Return the arms of each strategy."""
    written: dict[str, list[Arm]] = {}
    for arm in tuning.comparison.arms:
        written.setdefault(arm.title, []).append(arm)
    return written.items()


def configured(tuning: Tuning) -> dict[str, list[Arm]]:
    """Return what each strategy tries: as many configurations as the others.

    Raises:
        ConfigError: A strategy has too few configurations, or nothing of it can be tuned.
    """
    return {title: _configurations(tuning, title, arms) for title, arms in by_title(tuning)}


def _configurations(tuning: Tuning, title: str, written: Sequence[Arm]) -> list[Arm]:
    count, seed = tuning.trials, tuning.comparison.seeds[0]
    if len(written) > 1:
        if len(written) < count:
            raise ConfigError(
                f"{title} has {len(written)} configurations to try, and each strategy is to try "
                f"{count}; give it more values, or lower --trials"
            )
        chosen = random.Random(derive(seed, f"tuning {title}")).sample(range(len(written)), count)  # noqa: S311 - no secret
        return [written[place] for place in sorted(chosen)]
    only = written[0]
    usual, space = _space(tuning, title, only)
    if tuning.search == "grid":
        points = grid_points(space, count)
    else:
        points = _spread(_usual(usual, space), space, count, seed)
    return [_arm(title, only, point) for point in points]


def _spread(first: dict[str, Any], space: Space, count: int, seed: int) -> list[dict[str, Any]]:
    """Return a configuration and random ones, all different: rounded values may meet by chance."""
    for attempt in range(_ATTEMPTS):
        points = [first, *random_points(space, count - 1, seed + attempt)]
        if not any(point in points[:place] for place, point in enumerate(points)):
            return points
    raise ConfigError(
        f"{count} trials are more than {', '.join(space)} has values worth telling apart; lower "
        "--trials"
    )


def _space(tuning: Tuning, title: str, arm: Arm) -> tuple[Experiment, Space]:
    """Return the experiment of a strategy, and what of it is tuned."""
    comparison = tuning.comparison
    usual = comparison.experiment_of(comparison.problems[0], arm, comparison.seeds[0])
    space = {
        key: span
        for key, span in space_of(usual.strategy.name, usual.client.lr).items()
        if key not in arm.settings
    }
    if not space:
        raise ConfigError(
            f"nothing of {title} is left to tune, as its settings are given; give lists, as in "
            f"'{title} client.lr=0.05,0.1,0.2'"
        )
    return usual, space


def _usual(experiment: Experiment, space: Space) -> dict[str, Any]:
    """Return what an experiment says of what is tuned, defaults included."""
    knobs = settled(experiment.strategy).knobs
    every = {"client.lr": experiment.client.lr}
    every |= {f"strategy.{knob}": value for knob, value in knobs.items()}
    return {key: every[key] for key in space}


def _arm(title: str, written: Arm, point: Mapping[str, Any]) -> Arm:
    settings = {**written.settings, **point}
    return Arm(label=f"{title} {settings_text(point)}", settings=settings)


def _scores(trials: Comparison, directory: Path, metric: str) -> dict[str, dict[int, float | None]]:
    """Return what each arm is worth by seed."""
    found: dict[str, dict[int, float | None]] = {}
    for cell in trials.cells():
        found.setdefault(cell.arm.label, {})[cell.seed] = _score(directory / cell.path, metric)
    return found


def _score(run: Path, metric: str) -> float | None:
    """Return the last value of a figure in a run that has finished, if it is a number."""
    if not (run / MODEL).exists():
        return None
    value = figure_of(read_history(run).rounds[-1], metric)
    return value if value is not None and isfinite(value) else None
