"""Names say whether small values are good."""

import pytest

from roundel.core.goals import goal_of, lower_is_better


@pytest.mark.parametrize("name", ["loss", "train_loss", "perplexity", "word_error", "mae", "rmse"])
def test_losses_and_errors_are_better_when_small(name: str) -> None:
    assert lower_is_better(name)


@pytest.mark.parametrize("name", ["accuracy", "f1", "precision", "mse_skill", "lossless"])
def test_other_figures_are_better_when_large(name: str) -> None:
    assert not lower_is_better(name)


@pytest.mark.parametrize("key", ["loss", "clients.loss.p10", "clients.accuracy.variance"])
def test_a_key_that_leads_to_a_loss_or_a_variance_should_be_small(key: str) -> None:
    assert goal_of(key) == "min"


@pytest.mark.parametrize("key", ["accuracy", "clients.accuracy.worst_tenth"])
def test_other_keys_should_be_large(key: str) -> None:
    assert goal_of(key) == "max"
