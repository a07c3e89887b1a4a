"""What a topology cannot honour is an error before anything is trained or written."""

from dataclasses import replace

import pytest

from roundel.core.config import Experiment
from roundel.core.errors import ConfigError, RoundelError
from roundel.simulations import Pieces, simulate
from roundel.simulations.deployed import simulate_as_deployed
from roundel.simulations.replay import replay
from roundel.simulations.tasks.digits import digits
from roundel.simulations.topologies.checks import check_star
from roundel.strategies.fedavg import fedavg
from tests.simulations.topologies.runs import TINY, everybody, tiny

PEERS = ["local", "centralised", "gossip", "all-reduce", "split"]


@pytest.mark.parametrize("kind", PEERS)
def test_a_strategy_has_nowhere_to_work_without_a_server(kind, tmp_path):
    with pytest.raises(ConfigError, match=r"is about what a server does, and .* has none") as said:
        everybody(tmp_path / "run", "strategy.name=scaffold", kind=kind)
    assert repr(kind) in str(said.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        ("strategy.name=scaffold", r"strategy.name = 'scaffold' is about what a server does"),
        ("strategy.server_lr=0.5", r"strategy.server_lr = 0.5 is about what a server does"),
        ("strategy.weights=examples", r"strategy.weights = 'examples' is about what a server does"),
        ('strategy.parts=["scaffold"]', r"strategy.parts = .* is about what a server does"),
        ("faults.drop=0.1", r"faults.drop = 0.1 is about clients that answer a server"),
        ("faults.fail=0.1", r"faults.fail = 0.1 is about clients that answer a server"),
        ("cohort.quorum=2", r"cohort.quorum = 2 is about clients that answer a server"),
        ("cohort.deadline_s=2", r"cohort.deadline_s = 2.0 is about clients that answer"),
        ("attack.kind=sign_flip", r"attack.kind = 'sign_flip' is about updates that reach one"),
    ],
)
def test_settings_of_a_server_are_refused(setting, reason, tmp_path):
    with pytest.raises(ConfigError, match=reason) as refused:
        everybody(tmp_path / "run", setting, kind="gossip")
    assert "'gossip'" in str(refused.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("kind", "weights", "other"),
    [
        ("gossip", "uniform", "examples"),
        ("local", "uniform", "examples"),
        ("split", "examples", "uniform"),
        ("centralised", "examples", "uniform"),
    ],
)
def test_weights_may_be_said_where_they_are_what_they_are(kind, weights, other, tmp_path):
    short = ("rounds=1", "client.steps=1", "evaluation.clients=0")
    said = everybody(tmp_path / "said", *short, f"strategy.weights={weights}", kind=kind)
    assert said.hashes == everybody(tmp_path / "unsaid", *short, kind=kind).hashes
    with pytest.raises(ConfigError, match=f"strategy.weights = '{other}' is about what a server"):
        everybody(tmp_path / "other", *short, f"strategy.weights={other}", kind=kind)


@pytest.mark.parametrize(
    ("topology", "reason"),
    [
        ({"edges": 3}, r"topology.edges = 3 has no effect with topology.kind = 'star'"),
        ({"kind": "gossip", "ranks": 3}, r"ranks = 3 .* set topology.kind = 'all-reduce'"),
        ({"kind": "gossip", "probability": 0.5}, r"with topology.graph = 'ring'"),
        ({"kind": "all-reduce", "warmup_rounds": 2}, r"topology.scale_lr is false; set it"),
        ({"kind": "split", "graph": "torus"}, r"graph = 'torus' .* topology.kind = 'gossip'"),
        ({"kind": "split", "cut": 7}, r"topology.cut = 7 is no place in the model"),
        ({"kind": "gossip", "graph": "torus"}, None),
    ],
)
def test_keys_of_another_kind_are_refused(topology, reason, tmp_path):
    if reason is None:
        assert everybody(tmp_path / "run", "rounds=1", **topology).rounds
        return
    with pytest.raises(ConfigError, match=reason):
        everybody(tmp_path / "run", **topology)


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        ("client.clip_norm=1", r"client.clip_norm = 1 is about the norm of a whole gradient"),
        ("client.optimizer=LBFGS", r"client.optimizer = 'LBFGS' evaluates the loss several times"),
    ],
)
def test_what_two_halves_cannot_do_is_refused(setting, reason, tmp_path):
    with pytest.raises(ConfigError, match=reason):
        tiny(tmp_path / "run", setting, kind="split")


def test_objects_cannot_reach_the_processes_of_all_reduce(tmp_path):
    with pytest.raises(ConfigError, match="the task is given as an object"):
        simulate(
            settings=[*TINY, "topology.kind=all-reduce"],
            pieces=Pieces(task=digits()),
            out=tmp_path / "run",
        )


def test_a_strategy_that_is_given_as_an_object_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="no server for a strategy to work at"):
        simulate(
            settings=[*TINY, "topology.kind=local"],
            pieces=Pieces(strategy=fedavg()),
            out=tmp_path / "run",
        )


@pytest.mark.parametrize("kind", ["centralised", "split"])
def test_training_of_ones_own_is_refused_where_steps_are_taken_one_by_one(kind, tmp_path):
    task = replace(digits(), train=lambda *_: None)
    with pytest.raises(ConfigError, match="brings a training function of its own"):
        simulate(
            settings=[*TINY, f"topology.kind={kind}"],
            pieces=Pieces(task=task),
            out=tmp_path / "run",
        )


@pytest.mark.parametrize("kind", ["local", "gossip", "centralised", "split"])
def test_layers_that_stay_with_clients_are_refused(kind, tmp_path):
    task = replace(digits(), personal=lambda name: name.startswith("2."))
    with pytest.raises(ConfigError, match="has no personal layers"):
        simulate(
            settings=[*TINY, "cohort.size=6", f"topology.kind={kind}"],
            pieces=Pieces(task=task),
            out=tmp_path / "run",
        )


def test_nodes_know_only_a_server_and_its_clients(tmp_path):
    experiment = Experiment.model_validate({"topology": {"kind": "gossip"}})
    with pytest.raises(ConfigError, match=r"'gossip' is simulated in one piece"):
        simulate_as_deployed(
            experiment, nodes=2, out=tmp_path / "run", on_round=lambda _report: None
        )
    check_star(Experiment(), "anything")


def test_a_replay_knows_only_a_server_and_its_clients(tmp_path):
    run = tiny(tmp_path / "run", "rounds=1", kind="local")
    client = next(iter(run.clients()))["client"]
    with pytest.raises(RoundelError, match="a replay knows only a server and its clients"):
        replay(run.path, 1, client)


def test_without_another_kind_nothing_changes():
    assert Experiment().topology.kind == "star"
