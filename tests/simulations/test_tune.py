"""Trials: equal budgets, validation examples alone, and runs that can go on."""

from collections import Counter
from importlib import import_module

import pytest

from roundel.core.comparisonfile import FILE, Said, load_comparison
from roundel.core.errors import ConfigError
from roundel.core.history import read_history
from roundel.simulations.cells import RunEnded
from roundel.simulations.compare import compare
from roundel.simulations.tune import configured, tune
from roundel.simulations.tuning import Tuning

TINY = ["partition.clients=6", "cohort.size=3", "client.steps=1", "rounds=2", "partition.alpha=5"]


def tuning(*arms, trials=3, settings=(), grid=(), **how):
    said = Said(arms=arms, settings=[*TINY, *settings], grid=list(grid))
    return Tuning(comparison=load_comparison(None, said), trials=trials, **how)


@pytest.mark.parametrize("search", ["random", "grid"])
def test_each_strategy_tries_as_many_configurations_with_as_many_rounds(search):
    found = configured(tuning("fedavg", "fedprox", "fedadam", trials=4, search=search))
    assert {title: len(arms) for title, arms in found.items()} == {
        "fedavg": 4,
        "fedprox": 4,
        "fedadam": 4,
    }
    for arms in found.values():
        assert len({arm.label for arm in arms}) == 4


def test_a_random_search_begins_with_what_the_experiment_says():
    found = configured(tuning("fedavg", "fedprox", settings=["client.lr=0.05"]))
    assert found["fedavg"][0].label == "fedavg lr=0.05"
    assert found["fedprox"][0].label == "fedprox lr=0.05 mu=0.01"


def test_no_configuration_is_tried_twice_though_drawn_values_may_meet(monkeypatch):
    module = import_module("roundel.simulations.tune")
    draws = {0: [0.2, 0.3], 1: [0.3, 0.3], 2: [0.3, 0.4]}

    def drawn(_space, _count, seed):
        return [{"client.lr": lr} for lr in draws[seed]]

    monkeypatch.setattr(module, "random_points", drawn)
    found = configured(tuning("fedavg", settings=["client.lr=0.2"]))
    assert [arm.settings["client.lr"] for arm in found["fedavg"]] == [0.2, 0.3, 0.4]


def test_values_that_are_given_are_tried_and_settings_that_are_given_stay():
    found = configured(tuning("fedprox mu=0.1,0.2,0.3", "scaffold server_lr=0.5"))
    assert [arm.settings["strategy.mu"] for arm in found["fedprox"]] == [0.1, 0.2, 0.3]
    assert {arm.settings["strategy.server_lr"] for arm in found["scaffold"]} == {0.5}
    assert len({arm.settings["client.lr"] for arm in found["scaffold"]}) == 3


def test_of_more_values_than_trials_some_are_drawn():
    found = configured(tuning("fedprox mu=0.1,0.2,0.3,0.4,0.5", trials=3))
    assert len(found["fedprox"]) == 3


@pytest.mark.parametrize(
    ("arms", "how", "said"),
    [
        (["fedprox mu=0.1,0.2", "fedavg"], {}, "fedprox has 2 configurations to try, and each"),
        (["fedavg client.lr=0.1"], {}, "nothing of fedavg is left to tune"),
        (["fedavg", "fedprox"], {"search": "grid"}, "3 trials are no grid over 2 knobs"),
    ],
)
def test_budgets_that_would_differ_are_refused(arms, how, said):
    with pytest.raises(ConfigError, match=said):
        configured(tuning(*arms, **how))


def test_several_problems_are_refused(tmp_path):
    how = tuning("fedavg", grid=["partition.alpha=0.1,1.0"])
    with pytest.raises(ConfigError, match=r"several problems \(alpha=0.1; alpha=1.0\)"):
        tune(how, out=tmp_path / "it")
    assert list(tmp_path.iterdir()) == []


def test_trials_are_runs_that_are_judged_by_their_validation_examples_and_go_on(tmp_path):
    how = tuning("fedavg client.lr=0.01,0.5", "fedprox mu=0.1,0.2", trials=2)
    events = []

    def interrupt(event):
        events.append(event)
        if len(events) == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tune(how, out=tmp_path / "it", workers=1, on_event=interrupt)
    ends = []
    tuned = tune(how, out=tmp_path / "it", workers=1, on_event=ends.append)
    assert sum(isinstance(event, RunEnded) for event in ends) == 3
    assert (tmp_path / "it" / FILE).exists()
    for trial in tuned.trials:
        (seed,) = trial.scores
        slug = trial.arm.label.replace(" ", "-")
        run = read_history(tmp_path / "it" / "cells" / slug / f"seed-{seed}")
        assert run.experiment.evaluation.split == "validation"
        assert trial.score == run.rounds[-1]["clients"]["accuracy"]["mean"]
    assert Counter(trial.strategy for trial in tuned.trials if trial.best) == {
        "fedavg": 1,
        "fedprox": 1,
    }


def test_the_test_set_has_no_say(tmp_path, monkeypatch):
    from dataclasses import replace

    from roundel.core.data import Examples
    from roundel.simulations import prepare

    how = tuning("fedavg client.lr=0.01,0.5", trials=2)
    scores = [t.score for t in tune(how, out=tmp_path / "a", workers=1).trials]
    made = prepare._test_set

    def other(experiment, task):
        test = made(experiment, task)
        assert test is not None
        return Examples(test.inputs, (test.targets + 1) % 10)

    monkeypatch.setattr(prepare, "_test_set", other)
    again = tune(replace(how), out=tmp_path / "b", workers=1)
    assert [t.score for t in again.trials] == scores


def test_what_was_tuned_can_be_compared(tmp_path):
    tuned = tune(tuning("fedavg", trials=2, rounds=1), out=tmp_path / "it", workers=1)
    path = compare(tuned.comparison, out=tmp_path / "after", workers=1)
    assert len(list(path.glob("cells/fedavg/seed-*"))) == 5


def test_optuna_goes_from_trial_to_trial(tmp_path):
    pytest.importorskip("optuna")
    how = tuning("fedavg", "fedprox", trials=3, search="optuna")
    tuned = tune(how, out=tmp_path / "it", workers=1)
    again = tune(how, out=tmp_path / "again", workers=1)
    assert [t.arm for t in tuned.trials] == [t.arm for t in again.trials]
    assert Counter(trial.strategy for trial in tuned.trials) == {"fedavg": 3, "fedprox": 3}


def test_without_optuna_the_search_is_refused(tmp_path, monkeypatch):
    from roundel.simulations import suggesting

    monkeypatch.setattr(suggesting, "find_spec", lambda _name: None)
    with pytest.raises(ConfigError, match="--search optuna needs the package optuna"):
        tune(tuning("fedavg", search="optuna"), out=tmp_path / "it")
