"""From the experiment's client section to a round's local training."""

from math import cos, pi

import pytest

from roundel.core.config import ClientConfig
from roundel.core.errors import ConfigError
from roundel.core.job import Phase
from roundel.core.optimizers import OptimizerSpec
from roundel.core.schedule import local_phases, lr_factor


def phase(client: ClientConfig, round: int = 1, rounds: int = 10) -> Phase:
    (only,) = local_phases(client, round, rounds)
    return only


def test_a_constant_schedule_never_changes_the_learning_rate() -> None:
    assert [lr_factor(ClientConfig(), r, 10) for r in (1, 5, 10)] == [1.0, 1.0, 1.0]


def test_a_step_schedule_multiplies_after_every_so_many_rounds() -> None:
    client = ClientConfig(schedule="step", gamma=0.5, gamma_every=2)
    assert [lr_factor(client, r, 10) for r in range(1, 7)] == [1.0, 1.0, 0.5, 0.5, 0.25, 0.25]


def test_a_cosine_schedule_starts_at_one_and_does_not_reach_zero() -> None:
    client = ClientConfig(schedule="cosine")
    factors = [lr_factor(client, r, 4) for r in (1, 2, 3, 4)]
    assert factors == pytest.approx([1.0, (1 + cos(pi / 4)) / 2, 0.5, (1 - cos(pi / 4)) / 2])


def test_the_learning_rate_of_a_round_follows_the_schedule() -> None:
    client = ClientConfig(lr=0.4, schedule="step", gamma=0.5)
    assert phase(client, round=3).optimizer.lr == 0.1


def test_five_epochs_are_trained_unless_the_file_says_how_long() -> None:
    assert (phase(ClientConfig()).epochs, phase(ClientConfig()).steps) == (5, None)


def test_epochs_and_steps_are_taken_over() -> None:
    by_epochs = phase(ClientConfig(epochs=2))
    by_steps = phase(ClientConfig(steps=7))
    assert (by_epochs.epochs, by_epochs.steps) == (2, None)
    assert (by_steps.epochs, by_steps.steps) == (None, 7)


def test_a_full_batch_has_no_batch_size() -> None:
    assert phase(ClientConfig(batch_size="full")).batch_size is None
    assert phase(ClientConfig(batch_size=16)).batch_size == 16


def test_every_knob_of_local_training_is_taken_over() -> None:
    client = ClientConfig(
        optimizer="sgd",
        lr=0.2,
        momentum=0.9,
        nesterov=True,
        weight_decay=1e-4,
        options={"maximize": False},
        clip_norm=3.0,
    )
    assert phase(client) == Phase(
        optimizer=OptimizerSpec(
            name="sgd",
            lr=0.2,
            momentum=0.9,
            nesterov=True,
            weight_decay=1e-4,
            options={"maximize": False},
        ),
        epochs=5,
        batch_size=10,
        clip_norm=3.0,
    )


def test_an_unknown_optimizer_is_refused_before_anything_runs() -> None:
    with pytest.raises(ConfigError, match="did you mean 'sgd'"):
        local_phases(ClientConfig(optimizer="sdg"), 1, 1)
