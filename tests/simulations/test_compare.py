"""Comparisons: checked first, fair, begun once, continued, divided over machines."""

import json
from collections import defaultdict
from dataclasses import replace
from importlib import import_module

import pytest

from roundel.core.comparison import Comparison
from roundel.core.comparisonfile import FILE, Said, load_comparison, read_comparison
from roundel.core.errors import CompositionError, ConfigError, RunDirectoryError
from roundel.core.history import read_history
from roundel.core.runfiles import MODEL
from roundel.simulations.cells import RoundDone, RunEnded
from roundel.simulations.compare import Shard, compare, planned, still_to_run

module = import_module("roundel.simulations.compare")

TINY = [
    *("partition.clients=6", "cohort.size=3", "client.steps=2"),
    *("evaluation.clients=0", "rounds=2", "partition.alpha=0.5"),
]
ARMS = ["fedavg", "fedprox mu=0.1", "scaffold"]


def tiny(*arms: str, settings=(), **said) -> Comparison:
    said = {"seeds": "2"} | said
    return load_comparison(None, Said(arms=arms or ARMS, settings=[*TINY, *settings], **said))


def hashes(path) -> dict[str, list[str]]:
    """The hashes of the rounds of each run that a comparison has."""
    return {
        str(cell.path): read_history(path / cell.path).hashes
        for cell in read_comparison(path).cells()
        if (path / cell.path / MODEL).exists()
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return compare(tiny(), out=tmp_path_factory.mktemp("whole") / "it", workers=1)


def test_every_arm_runs_with_every_seed(whole):
    runs = sorted(str(run.relative_to(whole)) for run in whole.glob("cells/*/seed-*"))
    names = ["fedavg", "fedprox-mu=0.1", "scaffold"]
    assert runs == [f"cells/{name}/seed-{seed}" for name in names for seed in (0, 1)]
    assert read_comparison(whole) == tiny()
    assert still_to_run(whole) == 0


def test_runs_are_those_that_simulate_gives(whole, tmp_path):
    from roundel.simulations.simulate import simulate

    settings = [*TINY, "strategy.name=fedprox", "strategy.mu=0.1", "seed=1"]
    alone = simulate(settings=settings, out=tmp_path / "alone")
    assert hashes(whole)["cells/fedprox-mu=0.1/seed-1"] == alone.hashes


def test_with_one_seed_all_arms_share_partition_model_cohorts_and_work(whole):
    shared = defaultdict(set)
    for cell in read_comparison(whole).cells():
        run = read_history(whole / cell.path)
        cohorts = [
            (c["round"], c["client"], c["num_steps"], c["num_examples"]) for c in run.clients()
        ]
        partition = json.loads((run.path / "partition.json").read_text())["sha256"]
        shared[cell.seed].add((partition, run.environment["model_blake3"], tuple(cohorts)))
    assert {seed: len(values) for seed, values in shared.items()} == {0: 1, 1: 1}
    assert shared[0].isdisjoint(shared[1])


def test_several_workers_give_the_same_bits(whole, tmp_path):
    assert hashes(compare(tiny(), out=tmp_path / "it", workers=2)) == hashes(whole)


def test_what_was_interrupted_goes_on_and_ends_as_if_it_had_not_been(whole, tmp_path):
    events = []

    def interrupt(event):
        events.append(event)
        if len(events) == 5:  # in the middle of the second run
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compare(tiny(), out=tmp_path / "it", workers=1, on_event=interrupt)
    assert still_to_run(tmp_path / "it") == 5
    plans = []
    compare(tiny(), out=tmp_path / "it", workers=1, on_plan=plans.append)
    assert plans[0].finished == {0}
    assert hashes(tmp_path / "it") == hashes(whole)


def test_shards_together_are_the_whole(whole, tmp_path):
    for number in (1, 2):
        ends = []
        shard = Shard(number=number, of=2)
        compare(tiny(), out=tmp_path / "it", workers=1, shard=shard, on_event=ends.append)
        assert sum(isinstance(event, RunEnded) for event in ends) == 3
        assert still_to_run(tmp_path / "it") == (3 if number == 1 else 0)
    assert hashes(tmp_path / "it") == hashes(whole)
    assert (tmp_path / "it" / FILE).read_bytes() == (whole / FILE).read_bytes()


def test_a_shard_beyond_the_last_is_refused():
    with pytest.raises(ConfigError, match="no shard 4 of 3"):
        Shard(number=4, of=3)


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"seeds": "3"}, r"seeds is \[0, 1\] there and \[0, 1, 2\] here"),
        ({"settings": ["rounds=3"]}, "rounds is 2 there and 3 here"),
        ({"baseline": "scaffold"}, "report.baseline is fedavg there and scaffold here"),
        ({"grid": ["partition.alpha=1.0"]}, r"grid.partition.alpha is not set there and \[1.0\]"),
    ],
)
def test_the_directory_of_another_comparison_is_refused_with_the_difference(whole, other, said):
    before = (whole / FILE).read_bytes()
    with pytest.raises(RunDirectoryError, match=said):
        compare(tiny(**other), out=whole)
    assert (whole / FILE).read_bytes() == before


def test_another_value_of_an_arm_is_another_comparison(whole):
    with pytest.raises(RunDirectoryError, match=r"arms is .*mu=0.1.* there and .*mu=0.2.* here"):
        compare(tiny("fedavg", "fedprox mu=0.2", "scaffold"), out=whole)


def test_a_directory_with_something_else_in_it_is_refused(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(RunDirectoryError, match="is not an empty directory"):
        compare(tiny(), out=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(
    ("arms", "settings", "said"),
    [
        (["fedavg", "fedpox"], [], "'fedpox' is unknown; did you mean 'fedprox'"),
        (["fedavg nu=0.1"], [], r"strategy\.nu is not a knob of fedavg"),
        (["fedprox mu=-1"], [], "mu = -1"),
        (["fedavg", "krum"], ["cohort.size=2"], "krum"),
        (["fedavg"], ["task.name=dogits"], "dogits"),
        (["fedavg"], ["partition.kind=own"], r"partition\.kind = 'own'"),
        (["fedavg"], ["report.metrics=['f1']"], "the metric 'f1' is not among"),
        (["fedavg"], ["report.targets={acuracy = 0.9}"], "the metric 'acuracy' is not among"),
    ],
)
def test_what_is_wrong_is_found_before_anything_is_run(tmp_path, arms, settings, said):
    with pytest.raises((ConfigError, CompositionError), match=said):
        compare(tiny(*arms, settings=settings), out=tmp_path / "it")
    assert list(tmp_path.iterdir()) == []


def test_the_plan_shows_how_examples_lie_for_each_problem(tmp_path):
    said = tiny("fedavg", grid=["partition.alpha=0.1,10"])
    plan = planned(said, tmp_path / "it", 1, Shard())
    assert list(plan.divisions) == ["alpha=0.1", "alpha=10"]
    near, far = (report.distance for report in plan.divisions.values())
    assert near is not None
    assert far is not None
    assert near["mean"] > far["mean"]
    assert len(plan.jobs) == 4


def test_runs_beside_each_other_leave_the_cores_to_each_other(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "available_cores", lambda: 8)

    def plan(*settings):
        return planned(tiny("fedavg", settings=settings, seeds="20"), tmp_path / "a", None, Shard())

    eight = plan()
    assert eight.workers == 8
    assert {job.experiment.engine.workers for job in eight.jobs} == {1}
    monkeypatch.setattr(module, "_check_same", lambda *_args: None)
    two = plan("engine.workers=2", "engine.threads=2")
    assert two.workers == 2
    assert {job.experiment.engine.workers for job in two.jobs} == {2}
    assert plan("engine.device=auto").workers == 1
    alone = planned(tiny("fedavg"), tmp_path / "a", 1, Shard())
    assert {job.experiment.engine.workers for job in alone.jobs} == {"auto"}


def test_torchrun_is_told_to_leave_it_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "is_launched", lambda: True)
    with pytest.raises(ConfigError, match="start it without torchrun"):
        compare(tiny(), out=tmp_path / "it")


def test_a_strategy_under_another_name_runs_the_same(tmp_path):
    one = tiny("fedavg", "fedavg label=again", seeds="1")
    found = hashes(compare(one, out=tmp_path / "it", workers=1))
    assert found["cells/fedavg/seed-0"] == found["cells/again/seed-0"]


def test_rounds_are_told_as_they_are_done(tmp_path):
    events = []
    compare(tiny("fedavg", seeds="1"), out=tmp_path / "it", workers=2, on_event=events.append)
    assert [type(event) for event in events] == [RoundDone, RoundDone, RunEnded]


def test_other_arms_may_stand_around_no_server(tmp_path):
    said = tiny("fedavg", "fedavg topology.kind=local label=alone", seeds="1")
    ends = []
    compare(said, out=tmp_path / "it", workers=2, on_event=ends.append)
    assert [e.status for e in ends if isinstance(e, RunEnded)] == ["finished", "finished"]


def test_a_comparison_can_be_changed_in_python(tmp_path):
    said = replace(tiny("fedavg", seeds="1"), seeds=(5,))
    path = compare(said, out=tmp_path / "it", workers=1)
    assert (path / "cells" / "fedavg" / "seed-5" / MODEL).exists()
