"""Whole runs in which some clients attack: recorded, resumed, replayed."""

from pathlib import Path
from typing import Any

import pytest

from roundel.core.config import Experiment
from roundel.core.configfile import load_experiment
from roundel.core.errors import ConfigError, DataError
from roundel.core.history import History
from roundel.simulations import resume, simulate
from roundel.simulations.attacks.kinds import ATTACKS
from roundel.simulations.prepare import prepare
from roundel.simulations.replay import replay
from tests.killing import killed_in

TOGETHER = ["alie", "ipm", "min_max", "min_sum"]
ROUNDS = 4


def experiment_of(*settings: str) -> Experiment:
    """Four rounds of 6 of 12 clients of whom 3 attack."""
    return load_experiment(
        None,
        [
            f"rounds={ROUNDS}",
            "partition.clients=12",
            "cohort.size=6",
            "client.steps=2",
            "evaluation.clients=0",
            "checkpoint.every_s=0",
            *settings,
        ],
    )


def without_time(lines: Any) -> list[dict[str, Any]]:
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


def ran(out: Path, *settings: str) -> History:
    return simulate(experiment_of("attack.share=0.25", *settings), out=out)


@pytest.fixture(scope="module")
def clean(tmp_path_factory) -> History:
    return simulate(experiment_of(), out=tmp_path_factory.mktemp("clean") / "run")


@pytest.mark.parametrize("kind", ATTACKS)
def test_each_attack_runs_changes_the_model_and_is_on_record(tmp_path, kind, clean):
    run = ran(tmp_path / "run", f"attack.kind={kind}")
    assert len(run.rounds) == ROUNDS
    assert run.hashes != clean.hashes
    marked = {line["client"] for line in run.clients() if line.get("malicious")}
    adversary = prepare(run.experiment).adversary
    assert adversary is not None
    assert len(adversary.clients) == 3
    met = {line["client"] for line in run.clients()} & adversary.clients
    assert marked == met != set()
    assert all(line["malicious"] is True for line in run.clients() if "malicious" in line)
    assert not any("malicious" in line for line in clean.clients())
    # Both cohorts are the same: who attacks changes nothing about who is asked.
    assert [line["client"] for line in run.clients()] == [
        line["client"] for line in clean.clients()
    ]


def test_the_experiment_of_a_run_says_every_knob_of_its_attack(tmp_path):
    run = ran(tmp_path / "run", "attack.kind=label_flip", "rounds=1")
    assert run.experiment.attack.knobs == {"classes": 10}
    assert run.experiment.attack.share == 0.25


def test_refused_updates_do_not_end_the_run_and_are_named(tmp_path):
    run = ran(tmp_path / "run", "attack.kind=nan")
    attacked = [line for line in run.clients() if line.get("malicious")]
    assert {line["status"] for line in attacked} == {"rejected"}
    assert {line["reason"] for line in attacked} == {
        "its channel 'params' holds values that are not finite"
    }
    others = [line for line in run.clients() if not line.get("malicious")]
    assert {line["status"] for line in others} == {"accepted"}
    assert sum(line["completed"] for line in run.rounds) == len(others)


slow = pytest.mark.slow


# Each attack and each strategy by default, and what else they make together among the slow tests.
@pytest.mark.parametrize(
    ("attack", "strategy"),
    [
        ("alie", "fedadam"),
        ("gaussian", "scaffold"),
        ("label_flip", "fedadam"),
        ("min_max", "scaffold"),
        pytest.param("alie", "scaffold", marks=slow),
        pytest.param("gaussian", "fedadam", marks=slow),
        pytest.param("label_flip", "scaffold", marks=slow),
        pytest.param("min_max", "fedadam", marks=slow),
    ],
)
def test_a_killed_run_goes_on_to_the_same_end(tmp_path, attack, strategy):
    settings = (f"attack.kind={attack}", f"strategy.name={strategy}", "faults.fail=0.1")
    whole = ran(tmp_path / "whole", *settings)
    with killed_in(2) as die:
        simulate(
            experiment_of("attack.share=0.25", *settings), out=tmp_path / "killed", on_round=die
        )
    again = resume(tmp_path / "killed")
    assert again.hashes == whole.hashes
    assert without_time(again.clients()) == without_time(whole.clients())


def replayable(run: History, *, malicious: bool) -> list[tuple[int, int]]:
    return [
        (line["round"], line["client"])
        for line in run.clients()
        if line["status"] == "accepted" and bool(line.get("malicious")) is malicious
    ]


@pytest.mark.parametrize("attack", ["sign_flip", "gaussian", "label_flip"])
def test_a_client_that_attacks_alone_can_be_replayed(tmp_path, attack):
    run = ran(tmp_path / "run", f"attack.kind={attack}", "strategy.name=scaffold")
    for malicious in (True, False):
        for round, client in replayable(run, malicious=malicious)[-3:]:
            assert replay(run.path, round, client).matches is True


def test_a_refused_client_can_be_looked_at_again(tmp_path):
    run = ran(tmp_path / "run", "attack.kind=nan")
    line = next(line for line in run.clients() if line.get("malicious"))
    update = replay(run.path, line["round"], line["client"]).update
    assert bool(update.channels["params"].isnan().all())


@pytest.mark.parametrize("knowledge", ["all", "own"])
def test_honest_clients_can_be_replayed_beside_those_who_collude(tmp_path, knowledge):
    settings = ("attack.kind=alie", f"attack.knowledge={knowledge}", "faults.drop=0.1")
    experiment = experiment_of(*settings).model_copy(update={"checkpoint": Experiment().checkpoint})
    run = simulate(experiment, out=tmp_path / "run")
    for round, client in replayable(run, malicious=False)[-3:]:
        assert replay(run.path, round, client).matches is True


@pytest.mark.parametrize("attack", TOGETHER)
def test_one_who_colludes_cannot_be_replayed_and_the_sentence_says_why(tmp_path, attack):
    run = ran(tmp_path / "run", f"attack.kind={attack}", "rounds=2")
    round, client = replayable(run, malicious=True)[0]
    with pytest.raises(ConfigError) as caught:
        replay(run.path, round, client)
    assert str(caught.value) == (
        f"client {client} was malicious, and what it sent in round {round} ({attack}) was made "
        "from the updates of several clients of that round; replay one of the honest ones"
    )


def test_half_of_the_clients_flipping_signs_undo_what_the_others_learn(tmp_path):
    # Of all 12 clients 6 send the opposite of what they learned, and each counts the same.
    settings = ("cohort.size=12", "strategy.weights=uniform", "attack.share=0.5", "rounds=3")
    clean = ran(tmp_path / "clean", *settings, "attack.kind=sign_flip", "attack.scale=1e-9")
    flipped = ran(tmp_path / "flipped", *settings, "attack.kind=sign_flip")
    assert clean.rounds[-1]["loss"] < flipped.rounds[-1]["loss"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("attack.kind=sign",), "attack.kind = 'sign' is unknown; did you mean 'sign_flip'?"),
        (
            ("attack.kind=ipm", "attack.std=1"),
            "attack.std is not a knob of ipm; choose from epsilon, knowledge",
        ),
        (
            ("attack.kind=ipm", "attack.share=0.01"),
            "attack.share = 0.01 of 12 clients is nobody; raise it, or leave attack.kind out",
        ),
    ],
)
def test_what_cannot_be_is_refused_before_a_run_begins(tmp_path, settings, message):
    with pytest.raises(ConfigError) as caught:
        ran(tmp_path / "run", *settings)
    assert str(caught.value) == message
    assert not (tmp_path / "run").exists()


def test_labels_of_a_task_without_classes_cannot_be_flipped(tmp_path):
    with pytest.raises(DataError) as caught:
        ran(tmp_path / "run", "attack.kind=label_flip", "task.name=linear")
    assert str(caught.value) == (
        "targets of dtype torch.float32 are no class numbers, and attack.kind = 'label_flip' needs "
        "these; choose another attack"
    )


def test_classes_must_be_said_where_clients_bring_their_own_examples(tmp_path):
    settings = ("attack.kind=label_flip", "task.name=synthetic")
    with pytest.raises(ConfigError, match=r"^label_flip cannot .* set attack\.classes$"):
        ran(tmp_path / "run", *settings)
    run = ran(tmp_path / "again", *settings, "attack.classes=10", "attack.share=1")
    assert any(line.get("malicious") for line in run.clients())
