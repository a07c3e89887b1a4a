"""The best of each strategy, from what its trials are worth."""

import pytest

from roundel.core.comparison import Arm
from roundel.core.comparisonfile import Said, dump_comparison, load_comparison
from roundel.core.errors import RunFailed
from roundel.simulations.tuning import Trial, Tuning, comparison_of_trials, selected, varied


def tuning(*settings, **how):
    said = Said(arms=["fedavg", "fedprox"], settings=list(settings))
    return Tuning(comparison=load_comparison(None, said), trials=3, **how)


def trial(lr, *scores, title="fedavg", **more):
    settings = {"strategy.name": title, "client.lr": lr, **more}
    return Trial(
        strategy=title,
        arm=Arm(label=f"{title} {lr}", settings=settings),
        scores=dict(enumerate(scores)),
    )


def test_the_best_mean_over_seeds_is_selected_and_marked():
    tried = [trial(0.1, 0.5, 0.9), trial(0.2, 0.8, 0.8), trial(0.3, 0.1, 0.2)]
    tuned = selected(tuning(), tried)
    assert [t.best for t in tuned.trials] == [False, True, False]
    (arm,) = tuned.comparison.arms
    assert arm.label == "fedavg"
    assert arm.settings["client.lr"] == 0.2
    assert arm.tuned


def test_of_a_loss_the_smallest_is_selected():
    how = tuning("report.metrics=['loss']")
    assert how.metric == "clients.loss.mean"
    tuned = selected(how, [trial(0.1, 0.5), trial(0.2, 0.4), trial(0.3, 0.6)])
    assert tuned.comparison.arms[0].settings["client.lr"] == 0.2


def test_a_trial_of_which_a_seed_failed_cannot_win():
    tuned = selected(tuning(), [trial(0.1, 0.5, 0.5), trial(0.2, 0.9, None)])
    assert tuned.comparison.arms[0].settings["client.lr"] == 0.1
    assert tuned.trials[1].score is None


def test_a_strategy_all_of_whose_trials_failed_is_said():
    with pytest.raises(RunFailed, match="all 2 trials of fedprox failed or diverged"):
        selected(tuning(), [trial(0.1, None, title="fedprox"), trial(0.2, None, title="fedprox")])


@pytest.mark.parametrize(
    ("best", "said"),
    [
        (0, ["fedavg: the best client.lr = 0.1 is the smallest of those tried; try smaller ones"]),
        (1, []),
        (2, ["fedavg: the best client.lr = 0.3 is the largest of those tried; try larger ones"]),
    ],
)
def test_an_optimum_at_the_edge_is_pointed_out(best, said):
    scores = [1.0 if place == best else 0.5 for place in range(3)]
    tried = [trial(lr, score) for lr, score in zip((0.1, 0.2, 0.3), scores, strict=True)]
    assert [edge.removesuffix(" too") for edge in selected(tuning(), tried).edges] == said


def test_what_does_not_vary_or_is_no_number_has_no_edge():
    tried = [
        trial(0.1, 0.5, **{"client.optimizer": "sgd"}),
        trial(0.1, 0.9, **{"client.optimizer": "adam"}),
    ]
    assert varied(tried) == ["client.optimizer"]
    assert selected(tuning(), tried).edges == ()


def test_trials_are_judged_on_validation_examples_with_seeds_of_their_own():
    how = tuning("rounds=50", "evaluation.clients=0", rounds=7, seeds=2)
    trials = comparison_of_trials(how, how.comparison.arms)
    assert set(trials.seeds).isdisjoint(range(1000))
    assert len(trials.seeds) == 2
    experiment = trials.experiment(next(trials.cells()))
    assert experiment.evaluation.split == "validation"
    assert experiment.partition.validation == 0.2
    assert experiment.evaluation.clients == 100
    assert experiment.rounds == 7
    assert trials.report.metrics == ("clients.accuracy.mean",)


def test_what_follows_has_fresh_seeds_its_own_rounds_and_the_same_examples_to_train_on():
    how = tuning("rounds=50", "partition.validation=0.3", rounds=7)
    tuned = selected(how, [trial(0.1, 0.5), trial(0.4, 0.5, title="fedprox")])
    after = tuned.comparison
    assert after.seeds == (0, 1, 2, 3, 4)
    assert set(after.seeds).isdisjoint(comparison_of_trials(how, after.arms).seeds)
    experiment = after.experiment(next(after.cells()))
    assert (experiment.rounds, experiment.partition.validation) == (50, 0.3)
    assert experiment.evaluation.split == "test"
    assert after.report.baseline == "fedavg"
    assert "tuned = true" in dump_comparison(after)


def test_of_equals_the_first_is_selected():
    tuned = selected(tuning(), [trial(0.1, 0.5), trial(0.2, 0.5), trial(0.3, None)])
    assert tuned.comparison.arms[0].settings["client.lr"] == 0.1
