"""Our strategies under Flower's loop end each round as our own engine does."""

import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord

from roundel.core.configfile import dump_experiment, load_experiment
from roundel.core.errors import ConfigError, ParameterError, RoundAborted, RunFailed
from roundel.core.flower import model_arrays, model_tensors
from roundel.server.flower import RoundelStrategy
from roundel.simulations import simulate
from roundel.simulations.flowerapps.export import prepared
from roundel.simulations.flowerapps.flower_exported import Keeping, client_app, run_on
from roundel.simulations.population import PartitionedPopulation
from roundel.simulations.prepare import prepare
from tests.flowerapps.grids import PlainGrid

SMALL = (
    "rounds=3",
    "partition.clients=6",
    "cohort.size=4",
    "evaluation.clients=3",
    "evaluation.clients_every=2",
    "engine.executor=loop",
)
STRATEGIES = {
    "fedavg": (),
    "scaffold": (),
    "fedadam": (),
    "fedbn": ("task.model=mlp-norm",),
    "krum": ("strategy.f=1", "cohort.size=5"),
    "topk": ("strategy.share=0.1",),
    "power_of_choice": (),
}
WITH_STATE = {
    "fedavgm": (),
    "fedexp": (),
    "fednova": (),
    "feddyn": (),
    "moon": (),
    "centred_clipping": (),
    "fedrep": ("strategy.head_epochs=1", "client.epochs=1"),
    "ditto": (),
    "pfedme": (),
    "fedit": (),
    "dp_fedavg": ("strategy.noise=seeded",),
    "dp_adaptive": ("strategy.noise=seeded",),
}


@pytest.fixture
def scene(tmp_path):
    """Return a function that makes an experiment, a Grid and what runs the one on the other."""

    def make(*settings, nodes=2, shares=None):
        file = tmp_path / "experiment.toml"
        duration = () if "client.epochs=1" in settings else ("client.steps=2",)
        experiment = load_experiment(None, [*SMALL, *duration, *settings])
        file.write_text(dump_experiment(experiment))
        return Scene(experiment, PlainGrid(client_app(file), nodes, shares=shares), tmp_path)

    return make


class Scene:
    """An experiment on a Grid."""

    def __init__(self, experiment, grid, folder):
        self.experiment, self.grid, self.folder = experiment, grid, folder

    def run(self, **more):
        """Run it by Flower's loop."""
        return run_on(self.grid, prepared(self.experiment), Keeping(run="run", **more))

    def strategy(self, **more):
        """Return a strategy that has not begun."""
        simulation = prepared(self.experiment)
        return RoundelStrategy(simulation.server("run"), simulation.population.size, **more)

    def own(self):
        """Run it by our engine; return its lines."""
        return simulate(self.experiment, out=self.folder / "own").rounds


def said(line):
    """Return a round's line without what differs from run to run."""
    return {key: value for key, value in line.items() if key != "seconds"}


def lines(strategy):
    return [said(report.record.line()) for report in strategy.reports]


@pytest.mark.parametrize("name", STRATEGIES)
def test_each_round_is_that_of_our_own_engine(name, scene):
    it = scene(f"strategy.name={name}", *STRATEGIES[name])
    strategy, _ = it.run()
    assert lines(strategy) == [said(line) for line in it.own()]


@pytest.mark.slow
@pytest.mark.parametrize("name", WITH_STATE)
def test_so_it_is_for_whatever_keeps_something_at_the_server_or_at_clients(name, scene):
    it = scene(f"strategy.name={name}", *WITH_STATE[name])
    strategy, _ = it.run()
    assert lines(strategy) == [said(line) for line in it.own()]


@pytest.mark.parametrize("nodes", [1, 6, 9])
def test_how_many_nodes_share_the_clients_changes_nothing(nodes, scene):
    it = scene("strategy.name=scaffold", nodes=nodes)
    strategy, _ = it.run()
    assert lines(strategy) == [said(line) for line in it.own()]
    assert len({m.metadata.dst_node_id for m in it.grid.sent}) == nodes


def test_faults_attacks_and_a_selection_beyond_the_target_come_out_the_same(scene):
    it = scene("faults.drop=0.3", "faults.fail=0.2", "attack.kind=sign_flip", "rounds=4")
    strategy, _ = it.run()
    assert lines(strategy) == [said(line) for line in it.own()]
    assert any(line["failures"] for line in lines(strategy))


def test_a_run_stops_where_it_is_to_stop_and_asks_nobody_any_more(scene):
    it = scene("stop.metric=clients.accuracy.mean", "stop.target=0.05", "evaluation.every=2")
    strategy, result = it.run()
    assert lines(strategy) == [said(line) for line in it.own()]
    assert (len(strategy.reports), len(result.train_metrics_clientapp)) == (2, 2)


def test_a_run_without_global_test_examples_is_judged_by_clients(scene):
    it = scene("evaluation.every=2")
    strategy, result = it.run()
    assert lines(strategy) == [said(line) for line in it.own()]
    assert sorted(result.evaluate_metrics_clientapp) == [2, 3]
    assert sorted(result.evaluate_metrics_serverapp) == [2, 3]


def test_the_result_is_the_model_by_its_own_names(scene):
    it = scene("strategy.name=fedbn", "task.model=mlp-norm")
    strategy, result = it.run()
    model = strategy.server.plan.task.new_model(0)
    model.load_state_dict(model_tensors(result.arrays))
    loss = result.train_metrics_clientapp[3]["train_loss"]
    assert loss == strategy.reports[2].record.train_loss
    accuracy = result.evaluate_metrics_serverapp[3]["accuracy"]
    assert accuracy == strategy.reports[2].record.metrics["accuracy"]


def test_it_begins_with_the_arrays_that_it_is_given(scene):
    it = scene("rounds=1", "client.lr=1e-30")
    strategy = it.strategy()
    own = model_tensors(strategy.initial_arrays)
    given = {name: torch.full_like(tensor, 0.5) for name, tensor in own.items()}
    result = strategy.start(it.grid, model_arrays(given), num_rounds=1)
    for tensor in model_tensors(result.arrays).values():
        assert torch.allclose(tensor, torch.tensor(0.5))


def test_arrays_of_another_model_are_refused(scene):
    it = scene()
    strategy = it.strategy()
    with pytest.raises(ParameterError, match="initial_arrays does not fit the model: it lacks"):
        strategy.configure_train(1, ArrayRecord(), ConfigRecord(), it.grid)


@pytest.mark.parametrize("kind", ["running_var", "weight"])
def test_arrays_whose_personal_tensors_nodes_would_not_have_are_refused(kind, scene):
    it = scene("strategy.name=fedbn", "task.model=mlp-norm")
    strategy = it.strategy()
    tensors = model_tensors(strategy.initial_arrays)
    entries = strategy.server.learner.spec.entries
    name = next(e.name for e in entries if e.personal and e.name.endswith(kind))
    shared = next(e.name for e in entries if not e.personal)
    tensors |= {changed: tensors[changed] + 1 for changed in (name, shared)}
    with pytest.raises(
        ParameterError, match=rf"tensors \(1, such as '{name}'\), .* task\.initial,"
    ):
        strategy.configure_train(1, model_arrays(tensors), ConfigRecord(), it.grid)


def test_a_strategy_goes_through_its_rounds_once(scene):
    it = scene("rounds=2")
    strategy = it.strategy()
    strategy.start(it.grid, strategy.initial_arrays, num_rounds=1)
    with pytest.raises(RunFailed, match="round 1 was asked for after 1 rounds"):
        strategy.start(it.grid, strategy.initial_arrays, num_rounds=1)


def test_more_rounds_than_the_experiment_has_ask_nobody(scene):
    it = scene("rounds=1")
    strategy = it.strategy()
    result = strategy.start(it.grid, strategy.initial_arrays, num_rounds=3)
    assert sorted(result.train_metrics_clientapp) == [1]


def test_messages_say_the_round_and_what_the_user_gave(scene):
    it = scene("rounds=1")
    strategy = it.strategy()
    config = ConfigRecord({"lr": 0.5})
    messages = list(strategy.configure_train(1, strategy.initial_arrays, config, it.grid))
    assert {m.metadata.group_id for m in messages} == {"1"}
    assert messages[0].content["config"] == {"lr": 0.5, "server-round": 1}
    assert config == {"lr": 0.5}


# ---- what goes wrong


def test_a_client_whose_node_does_not_reply_is_lost(scene):
    it = scene("rounds=1", "cohort.size=6", nodes=3)
    strategy = it.strategy()
    strategy._roster.meet(it.grid)
    it.grid.silent = {101}
    strategy.start(it.grid, strategy.initial_arrays, num_rounds=1)
    lost = {c.client: c.reason for c in strategy.reports[0].clients if c.status == "lost"}
    assert lost == dict.fromkeys((1, 4), "no reply came from its node in time")


def test_a_client_whose_node_is_gone_is_lost_and_so_is_its_evaluation(scene):
    it = scene("rounds=2", "cohort.size=6", "evaluation.clients=6", nodes=3)
    strategy = it.strategy()
    seen = []

    def leave(reply):
        seen.append(reply)
        if len(seen) == 6:  # three said hello, and three have trained
            it.grid.gone = {100}
        return reply

    it.grid.change = leave
    strategy.start(it.grid, strategy.initial_arrays, num_rounds=2)
    second = strategy.reports[1]
    assert {c.client: c.reason for c in second.clients if c.status == "lost"} == dict.fromkeys(
        (0, 3), "no node plays it"
    )
    assert {(c.client, c.stage) for c in second.clients if c.stage} == {
        (0, "evaluate"),
        (3, "evaluate"),
    }


def test_a_failure_keeps_the_line_and_the_traceback_of_the_user_s_code(scene, monkeypatch):
    def broken(self, client_id):
        raise KeyError("no such file")

    it = scene("rounds=1")
    strategy = it.strategy()
    strategy._roster.meet(it.grid)
    monkeypatch.setattr(PartitionedPopulation, "client", broken)
    with pytest.raises(RoundAborted, match="KeyError: 'no such file'") as caught:
        strategy.start(it.grid, strategy.initial_arrays, num_rounds=1)
    assert "no such file" in caught.value.failures[caught.value.clients[0].client]


def test_an_update_that_the_gate_refuses_is_named_and_the_round_goes_on(scene):
    it = scene("rounds=1", "cohort.size=6", nodes=6)

    def bend(reply):
        for name, record in reply.content.items():
            if name == "roundel.answer.2":
                record["num_examples"] = -1
        return reply

    it.grid.change = bend
    strategy, _ = it.run()
    refused = [c for c in strategy.reports[0].clients if c.status == "rejected"]
    assert [c.client for c in refused] == [2]


def test_a_node_cannot_answer_for_the_clients_of_another(scene):
    it = scene("rounds=1", "cohort.size=6", "evaluation.clients=0", nodes=6)

    def rename(reply):
        if "roundel.answer.2" in reply.content:
            reply.content["roundel.answer.2"]["client_id"] = 3
        return reply

    it.grid.change = rename
    strategy, _ = it.run()
    status = {c.client: c.status for c in strategy.reports[0].clients}
    assert status == {**dict.fromkeys(range(6), "accepted"), 2: "lost"}


def test_an_answer_to_another_round_is_none(scene):
    it = scene("rounds=1", "cohort.size=6", "evaluation.clients=0", nodes=6)

    def age(reply):
        if "roundel.answer.2" in reply.content:
            reply.content["roundel.answer.2"]["round"] = 7
        return reply

    it.grid.change = age
    strategy, _ = it.run()
    reasons = {c.client: c.reason for c in strategy.reports[0].clients if c.reason}
    assert reasons == {2: "its node answered something else"}


def test_a_reply_that_cannot_be_read_and_an_error_are_told_apart(scene):
    it = scene("rounds=1", "cohort.size=6", "evaluation.clients=0", nodes=6)

    def spoil(reply):
        if "roundel.answer.2" in reply.content:
            reply.content["roundel.answer.2"]["round"] = "7"
        if "roundel.answer.3" in reply.content:
            raise MemoryError("too much")
        return reply

    it.grid.change = spoil
    strategy, _ = it.run()
    assert {c.client: c.reason for c in strategy.reports[0].clients if c.reason} == {
        2: "the reply of its node cannot be read: round = '7' is not of the type int",
        3: "its node replied with an error: MemoryError: too much",
    }


def test_a_deadline_is_how_long_flower_waits(scene):
    assert scene("cohort.deadline_s=5").strategy().timeout_s == 5.0
    assert scene().strategy().timeout_s == 3600.0


def test_a_state_that_a_node_has_lost_is_that_client_s_failure(scene):
    it = scene("rounds=2", "cohort.size=6", "strategy.name=scaffold", nodes=6)
    strategy = it.strategy()
    seen = []

    def forget(reply):
        seen.append(reply)
        if len(seen) == 12:  # six said hello, and six have trained
            for name in list(it.grid.contexts[104].state):
                del it.grid.contexts[104].state[name]
        return reply

    it.grid.change = forget
    strategy.start(it.grid, strategy.initial_arrays, num_rounds=2)
    failed = {c.client: c.reason for c in strategy.reports[1].clients if c.status == "failed"}
    assert failed == {
        4: "this node has lost the state that client 4 had after round 1; start the run again"
    }


def test_what_flower_s_loop_cannot_do_is_refused_when_it_is_made():
    simulation = prepare(load_experiment(None, ["cohort.deadline_factor=2"]))
    with pytest.raises(ConfigError, match="goes by when each update comes"):
        RoundelStrategy(simulation.server("run"), simulation.population.size)
