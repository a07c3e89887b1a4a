"""Runs whose clients keep something of their own: how they are judged, resumed and replayed."""

import pytest
import torch

from roundel.core.errors import ConfigError
from roundel.simulations import load_model, resume, simulate
from roundel.simulations.replay import replay
from tests.killing import killed_in

SETTINGS = [
    "task.name=digits",
    "task.model=mlp-norm",
    "partition.kind=dirichlet",
    "partition.alpha=0.2",
    "partition.clients=5",
    "cohort.size=3",
    "rounds=3",
    "client.steps=3",
    "client.lr=0.1",
    "evaluation.clients=5",
    "evaluation.every=3",
    "evaluation.min_examples=1",
    "checkpoint.every_s=0",
]

slow = pytest.mark.slow
# By default one of each kind: a layer found by its type, a head, and a model beside the shared one.
PERSONAL = [
    "fedbn",
    "fedrep",
    "ditto",
    *(pytest.param(name, marks=slow) for name in ("fedper", "lg_fedavg", "pfedme", "fine_tune")),
]


def settings(name: str) -> list[str]:
    knobs = ["strategy.head_epochs=1"] if name == "fedrep" else []
    return [*SETTINGS, f"strategy.name={name}", *knobs]


@pytest.mark.parametrize("name", PERSONAL)
def test_a_run_judges_clients_by_their_own_goes_on_and_is_replayed_with_the_same_bits(
    name, tmp_path
):
    run = simulate(settings=settings(name), out=tmp_path / "whole")
    last = run.rounds[-1]
    assert last["clients"]["answered"] == 5
    # Clients of skewed classes do better with what is theirs than the server's model does on all.
    assert last["clients"]["loss"]["mean"] < last["loss"]

    with killed_in(2) as die:
        simulate(settings=settings(name), out=tmp_path / "run", on_round=die)
    again = resume(tmp_path / "run")
    assert again.hashes == run.hashes
    assert again.rounds[-1]["clients"] == last["clients"]
    client = next(line["client"] for line in run.clients() if line["round"] == 3)
    assert replay(run.path, 3, client).matches
    assert load_model(run.path)(torch.zeros(2, 64)).shape == (2, 10)


def test_personal_parts_go_together_and_with_server_optimizers(tmp_path):
    parts = [
        "strategy.name=fedadam",
        'strategy.parts=["fedbn", {name = "ditto", lam = 0.5}, "fine_tune"]',
    ]
    run = simulate(settings=[*SETTINGS, *parts, "rounds=2"], out=tmp_path / "run")
    assert run.rounds[-1]["completed"] == 3


def test_names_of_layers_are_knobs_of_the_experiment_file(tmp_path):
    for said in ('"2"', '["2", "3"]'):
        with pytest.raises(ConfigError, match=r"strategy\.heads is not a knob of fedper"):
            simulate(settings=[*settings("fedper"), f"strategy.heads={said}"], out=tmp_path / "no")
    names = [name for name, _ in load(tmp_path).named_children()]
    chosen = [*settings("fedper"), f'strategy.head=["{names[-1]}"]', "rounds=1"]
    default = [*settings("fedper"), "rounds=1"]
    one, other = (
        simulate(settings=each, out=tmp_path / out)
        for each, out in ((chosen, "named"), (default, "default"))
    )
    assert one.hashes == other.hashes


def load(tmp_path) -> torch.nn.Module:
    quick = [*SETTINGS, "rounds=1", "evaluation.clients=0"]
    return load_model(simulate(settings=quick, out=tmp_path / "plain").path)
