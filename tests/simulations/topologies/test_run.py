"""Every kind leaves an ordinary run directory, and goes on where it was killed."""

import json

import pytest
from safetensors.torch import load_file

from roundel.core.configfile import load_experiment
from roundel.simulations import load_model, resume, simulate
from tests.commands import call
from tests.killing import killed_in
from tests.simulations.topologies.runs import TINY, everybody

KINDS = ["hierarchical", "local", "centralised", "gossip", "split"]
ALL = [*KINDS, "all-reduce"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """One run of each kind, the star among them."""
    out = tmp_path_factory.mktemp("runs")
    return {kind: everybody(out / kind, kind=kind, **extra(kind)) for kind in ["star", *ALL]}


def extra(kind):
    return {"edges": 2, "edge_rounds": 2} if kind == "hierarchical" else {}


@pytest.mark.parametrize("kind", ALL)
def test_its_lines_have_the_keys_of_a_federation(kind, runs):
    for line, usual in zip(runs[kind].rounds, runs["star"].rounds, strict=True):
        assert usual.keys() <= line.keys()
        assert line.keys() - usual.keys() <= {"topology"}
        assert line["accuracy"] > 0
        assert line["seconds"] > 0
        assert len(line["params_sha256"]) == 64
    assert runs[kind].rounds[-1]["clients"]["asked"] == 3


@pytest.mark.parametrize("kind", ALL)
def test_its_clients_have_the_same_examples_as_in_a_federation(kind, runs):
    paths = [runs[name].path / "partition.json" for name in (kind, "star")]
    assert paths[0].read_bytes() == paths[1].read_bytes()


@pytest.mark.parametrize("kind", ALL)
def test_its_model_is_like_that_of_a_federation(kind, runs):
    one, other = (load_file(runs[name].path / "model.safetensors") for name in (kind, "star"))
    assert {n: t.shape for n, t in one.items()} == {n: t.shape for n, t in other.items()}
    load_model(runs[kind].path)


@pytest.mark.parametrize("kind", ALL)
def test_its_config_makes_the_run_again(kind, runs):
    experiment = load_experiment(runs[kind].path / "config.toml")
    assert experiment.topology.kind == kind
    assert experiment.cohort.size == 6


@pytest.mark.parametrize("kind", ALL)
def test_it_is_shown_listed_and_compared(kind, runs):
    path = runs[kind].path
    assert "accuracy" in call("show", path).out
    assert kind in call("runs", path.parent).out
    told = call("diff", path, runs["star"].path)
    assert told.code == 1  # they differ
    assert "topology.kind" in told.out


@pytest.mark.parametrize("kind", KINDS)
def test_a_killed_run_goes_on_to_the_same_end(kind, runs, tmp_path):
    keys = [f"topology.{key}={value}" for key, value in {"kind": kind, **extra(kind)}.items()]
    with killed_in(2) as die:
        simulate(settings=[*TINY, "cohort.size=6", *keys], out=tmp_path / "run", on_round=die)
    run = resume(tmp_path / "run")
    assert run.hashes == runs[kind].hashes
    without_time = [
        [{k: v for k, v in line.items() if k != "seconds"} for line in each.rounds]
        for each in (run, runs[kind])
    ]
    assert without_time[0] == without_time[1]


@pytest.mark.parametrize("kind", ["local", "gossip"])
def test_what_single_clients_have_survives_without_a_checkpoint_too(kind, runs, tmp_path):
    settings = [*TINY, "cohort.size=6", f"topology.kind={kind}", "checkpoint.every_s=1000"]
    with killed_in(2) as die:
        simulate(settings=settings, out=tmp_path / "run", on_round=die)
    assert resume(tmp_path / "run").hashes == runs[kind].hashes


def test_a_finished_run_is_left_as_it_is(runs):
    before = (runs["gossip"].path / "metrics.jsonl").read_bytes()
    resume(runs["gossip"].path)
    assert (runs["gossip"].path / "metrics.jsonl").read_bytes() == before


@pytest.mark.parametrize("kind", ["local", "gossip", "centralised", "split"])
def test_a_run_stops_when_its_target_is_reached(kind, tmp_path):
    run = everybody(tmp_path / "run", "stop.metric=loss", "stop.target=100", kind=kind)
    assert len(run.rounds) == 1
    assert run.rounds[0]["stopped"]


@pytest.mark.parametrize("kind", ["local", "gossip", "centralised", "split"])
def test_rounds_that_are_not_evaluated_say_so(kind, tmp_path):
    run = everybody(tmp_path / "run", "evaluation.every=2", kind=kind)
    assert [line["accuracy"] is None for line in run.rounds] == [True, False, False]


def test_everybody_takes_part_in_gossip_unless_the_experiment_says_otherwise(tmp_path):
    settings = [setting for setting in TINY if not setting.startswith("cohort")]
    run = simulate(settings=[*settings, "topology.kind=gossip"], out=tmp_path / "run")
    assert run.experiment.cohort.size == 6
    assert [line["completed"] for line in run.rounds] == [6, 6, 6]
    json.loads((tmp_path / "run" / "environment.json").read_text())
