"""One experiment, simulated and deployed: node processes and real gRPC give the same bits."""

import os
import shutil
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from queue import Queue
from types import SimpleNamespace
from typing import Any

import pytest
from safetensors.torch import load_file

from roundel.core.config import Experiment
from roundel.core.configfile import load_experiment
from roundel.core.errors import ConfigError, RunFailed
from roundel.core.history import History
from roundel.core.records import RoundReport
from roundel.server import grpc_coordinator
from roundel.server.arrivals import Terms
from roundel.server.grpc_coordinator import LEASE_S, Coordinator
from roundel.simulations import deployed, serving
from roundel.simulations.deployed import Serving, resume_as_deployed, serve, simulate_as_deployed
from roundel.simulations.replay import replay
from roundel.simulations.simulate import simulate
from tests import commands
from tests.killing import killed_in
from tests.server.toys import FakeClock

STATELESS, STATEFUL = "fedadam", "scaffold"
STRATEGIES = ["fedavg", STATELESS, STATEFUL]
TIMEOUT_S = 60.0

BROKEN_TASK = """\
import os
import sys
from dataclasses import replace

import torch
from torch.nn.functional import cross_entropy

from roundel.core.task import Task
from roundel.core.training import TrainingResult
from roundel.simulations.tasks.digits import digits


def loss(outputs, targets):
    if (targets == 3).all():
        raise ValueError(f"{len(targets)} times a three")
    return cross_entropy(outputs, targets)


def deadly(outputs, targets):
    if sys.argv[1:2] == ["join"] and torch.is_grad_enabled():
        os._exit(7)
    return cross_entropy(outputs, targets)


def train(model, examples, context):
    turns = context.state.get("turns", torch.zeros(())) + 1
    parameters = list(model.parameters())
    loss = cross_entropy(model(examples.inputs), examples.targets)
    for parameter, slope in zip(parameters, torch.autograd.grad(loss, parameters)):
        noise = 0.01 * torch.randn_like(slope)
        parameter.data.sub_(context.config.client.lr / turns * (slope + noise))
    return TrainingResult(steps=1, loss=loss.item(), state={"turns": turns})


def own_training():
    return replace(digits(), train=train)


def untested():
    return replace(digits(), load_test=None)


def task():
    return changed(loss)


def dying():
    return changed(deadly)


def changed(loss):
    plain = digits()
    return Task(
        name="broken",
        model=plain.model,
        loss=loss,
        metrics=plain.metrics,
        load=plain.load,
        load_test=plain.load_test,
    )
"""


def experiment_of(strategy: str, *settings: str) -> Experiment:
    """Four rounds of 5 of 12 clients with very unequal shares, evaluated in two of them."""
    return load_experiment(
        None,
        [
            f"strategy.name={strategy}",
            "rounds=4",
            "partition.clients=12",
            "partition.alpha=0.3",
            "cohort.size=5",
            "client.epochs=1",
            "client.lr=0.05",
            "evaluation.clients=8",
            "evaluation.clients_every=2",
            "engine.executor=loop",
            *settings,
        ],
    )


def silent(_report: RoundReport) -> None:
    """Say nothing."""


@dataclass
class Machine:
    """Where node processes are forked instead of started; it remembers them."""

    path: Path
    processes: list[Any]

    def deploy(
        self,
        experiment: Experiment,
        name: str = "deployed",
        *,
        nodes: int = 2,
        on_round: Callable[[RoundReport], None] = silent,
    ) -> History:
        return simulate_as_deployed(
            experiment, nodes=nodes, out=self.path / name, on_round=on_round
        )

    def exit_codes(self) -> list[int | None]:
        return [process.poll() for process in self.processes]


@pytest.fixture
def machine(monkeypatch, workplace) -> Machine:
    (workplace / "broken_task.py").write_text(BROKEN_TASK)
    commands.nodes_from_the_zygote(monkeypatch, deployed, workplace)
    made = Machine(workplace, [])
    start = deployed.subprocess.Popen

    def remember(*args: Any, **how: Any) -> Any:
        made.processes.append(start(*args, **how))
        return made.processes[-1]

    monkeypatch.setattr(deployed.subprocess, "Popen", remember)
    return made


def without_time(lines: Any) -> list[dict[str, Any]]:
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


def agree(one: History, other: History) -> None:
    """Everything but time is the same: hashes, figures, bytes, statuses, models."""
    assert one.hashes == other.hashes
    assert without_time(one.rounds) == without_time(other.rounds)
    assert without_time(one.clients()) == without_time(other.clients())
    models = [load_file(history.path / "model.safetensors") for history in (one, other)]
    assert models[0].keys() == models[1].keys()
    assert all(models[0][name].equal(models[1][name]) for name in models[0])


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_node_processes_give_what_a_simulation_gives(machine, strategy):
    experiment = experiment_of(strategy)
    simulated = simulate(experiment, out=machine.path / "simulated")
    run = machine.deploy(experiment)
    agree(run, simulated)
    assert len(set(run.hashes)) == len(run.hashes) == 4
    assert [line["completed"] for line in run.rounds] == [5] * 4
    assert [line["clients"]["answered"] for line in run.rounds if "clients" in line]
    sizes = {line["client"]: line["num_examples"] for line in run.clients()}
    assert max(sizes.values()) > 2 * min(sizes.values())


def test_neither_the_number_of_nodes_nor_who_hosts_whom_matters(machine):
    experiment = experiment_of(STATEFUL, "rounds=2")
    simulated = simulate(experiment, out=machine.path / "simulated")
    for nodes in (1, 5):
        agree(machine.deploy(experiment, f"over-{nodes}", nodes=nodes), simulated)


def test_all_node_processes_hear_the_end_and_leave_by_themselves(machine):
    machine.deploy(experiment_of("fedavg", "rounds=1"), nodes=3)
    assert machine.exit_codes() == [0, 0, 0]
    logs = sorted((machine.path / "deployed" / "nodes").glob("*.log"))
    last_lines = [log.read_text().splitlines()[-1] for log in logs]
    assert last_lines == ["left: the run is over"] * 3


def test_more_nodes_than_clients_are_refused(machine):
    with pytest.raises(ConfigError) as caught:
        machine.deploy(experiment_of("fedavg"), nodes=13)
    assert str(caught.value) == "--nodes 13 is more than the 12 clients to host; lower it"
    assert machine.processes == []


def replayed(run: History, every: int) -> list[bool | None]:
    """Replay every so many clients of a run; return whether each gave what is recorded."""
    rows = [row for row in run.clients() if "stage" not in row][::every]
    return [replay(run.path, row["round"], row["client"]).matches for row in rows]


def test_clients_that_drop_out_or_fail_on_purpose_are_the_same_ones(machine):
    faults = ("faults.drop=0.3", "faults.fail=0.2", "rounds=3")
    experiment = experiment_of(STATEFUL, *faults)
    simulated = simulate(experiment, out=machine.path / "simulated")
    run = machine.deploy(experiment)
    agree(run, simulated)
    assert {row["status"] for row in run.clients()} == {"accepted", "lost", "failed"}
    statuses = [row["status"] for row in run.clients()]
    matches = replayed(run, every=1)
    assert [m is True for m in matches] == [status == "accepted" for status in statuses]


def test_if_all_drop_out_the_run_ends_as_in_a_simulation(machine):
    experiment = experiment_of("fedavg", "faults.drop=1")
    with pytest.raises(RunFailed) as simulated:
        simulate(experiment, out=machine.path / "simulated")
    with pytest.raises(RunFailed) as caught:
        machine.deploy(experiment)
    assert str(caught.value) == str(simulated.value)
    assert str(caught.value).endswith(": it dropped out on purpose (faults.drop)")
    assert machine.exit_codes() == [0, 0]


def test_training_of_ones_own_gives_the_same_too_with_its_state(machine):
    experiment = experiment_of("fedadam", "task.name='broken_task:own_training'")
    simulated = simulate(experiment, out=machine.path / "simulated")
    run = machine.deploy(experiment)
    agree(run, simulated)
    assert replayed(run, every=4) == [True] * 5


def test_a_run_that_is_judged_by_its_clients_stops_where_a_simulation_does(machine):
    experiment = experiment_of(
        "fedavg",
        "task.name='broken_task:untested'",
        "rounds=9",
        "evaluation.clients_every=1",
        "stop.metric=loss",
        "stop.target=2.2",
    )
    simulated = simulate(experiment, out=machine.path / "simulated")
    run = machine.deploy(experiment)
    agree(run, simulated)
    assert 1 < len(run.rounds) < 9
    assert run.rounds[-1]["stopped"].endswith("reached the target of 2.2")
    assert len(run.rounds[-1]["confusion"]) == 10


@pytest.mark.parametrize("attack", ["sign_flip", "gaussian", "label_flip"])
def test_clients_that_attack_alone_do_the_same_on_nodes(machine, attack):
    settings = ("rounds=2", f"attack.kind={attack}", "attack.share=0.5")
    experiment = experiment_of(STATEFUL, *settings)
    simulated = simulate(experiment, out=machine.path / "simulated")
    run = machine.deploy(experiment)
    agree(run, simulated)
    assert {line.get("malicious") for line in run.clients()} == {None, True}


def test_updates_that_are_not_finite_are_refused_on_the_way_from_nodes_too(machine):
    experiment = experiment_of("fedavg", "rounds=2", "attack.kind=nan", "attack.share=0.5")
    simulated = simulate(experiment, out=machine.path / "simulated")
    run = machine.deploy(experiment)
    agree(run, simulated)
    assert {"accepted", "rejected"} == {line["status"] for line in run.clients()}


@pytest.mark.parametrize("strategy", ["power_of_choice", "by_size", "over_selection"])
def test_selectors_choose_the_same_clients(machine, strategy):
    experiment = experiment_of(strategy, "rounds=2")
    simulated = simulate(experiment, out=machine.path / "simulated")
    run = machine.deploy(experiment)
    if strategy == "over_selection":  # whose update comes first is up to the nodes
        asked = [[line["client"] for line in history.clients()] for history in (run, simulated)]
        assert asked[0] == asked[1]
        assert [line["completed"] for line in run.rounds] == [5, 5]
    else:
        agree(run, simulated)


def test_rounds_without_clients_pass_in_every_engine(machine):
    # Each of 12 clients takes part with probability 1/12: a third of the rounds are empty.
    experiment = experiment_of("poisson", "cohort.size=1", "rounds=6")
    simulated = simulate(experiment, out=machine.path / "simulated")
    run = machine.deploy(experiment)
    agree(run, simulated)
    empty = [line for line in run.rounds if line["cohort"] == 0]
    assert empty
    assert {line["train_loss"] for line in empty} == {None}
    assert {line["completed"] for line in run.rounds} > {0}


# ---- what goes wrong


@pytest.mark.parametrize("way", ["as deployed", "served"])
def test_an_attack_that_no_node_can_make_is_refused_at_the_start(machine, way):
    experiment, out = experiment_of("fedavg", "attack.kind=alie"), machine.path / "deployed"
    serving = Serving(listen="127.0.0.1:0", on_round=silent, say=lambda _line: None)
    ways = {
        "served": lambda: serve(experiment, out, serving),
        "as deployed": lambda: simulate_as_deployed(experiment, nodes=2, out=out, on_round=silent),
    }
    with pytest.raises(ConfigError) as caught:
        ways[way]()
    assert str(caught.value) == (
        "attack.kind = 'alie' is made from the updates of several clients, which no node sees; "
        "simulate it in one process, or choose an attack that each client does by itself, such as "
        "sign_flip"
    )
    assert machine.processes == []
    assert not (machine.path / "deployed").exists()


def test_a_client_that_fails_in_user_code_is_reported_as_in_a_simulation(machine):
    experiment = experiment_of(
        "fedavg", "task.name='broken_task:task'", "client.batch_size=1", "rounds=2"
    )
    simulated = simulate(experiment, out=machine.path / "simulated")
    run = machine.deploy(experiment)
    agree(run, simulated)
    failed = [line for line in run.clients() if line["status"] == "failed"]
    assert failed
    for line in failed:
        assert line["reason"] == "ValueError: 1 times a three"
        assert line["location"] == f"{machine.path}/broken_task.py:15"
    tracebacks = [
        {file.name: file.read_text() for file in (history.path / "failures").iterdir()}
        for history in (run, simulated)
    ]
    assert tracebacks[0] == tracebacks[1]
    assert len(tracebacks[0]) == len(failed)


def test_a_run_whose_clients_all_fail_ends_as_in_a_simulation(machine):
    settings = ("task.name='broken_task:task'", "client.batch_size=1", "client.epochs=5")
    experiment = experiment_of("fedavg", *settings, "cohort.quorum=5")
    with pytest.raises(RunFailed) as simulated:
        simulate(experiment, out=machine.path / "simulated")
    with pytest.raises(RunFailed) as caught:
        machine.deploy(experiment)
    assert str(caught.value) == str(simulated.value)
    user_line = f"ValueError: 1 times a three ({machine.path}/broken_task.py:15)"
    assert user_line in str(caught.value)
    assert machine.exit_codes() == [0, 0]


def test_a_node_process_that_dies_ends_the_run_with_code_1_and_one_sentence(machine, monkeypatch):
    monkeypatch.setattr(grpc_coordinator, "FAREWELL_S", 0.1)  # nobody is left to hear it
    ended = commands.call(
        *("simulate", "--as-deployed", "--nodes", 2, "--out", machine.path / "run"),
        *commands.settings(task__name="broken_task:dying", evaluation__clients=0),
        *commands.settings(partition__clients=12, cohort__size=5, rounds=2),
    )
    assert ended.code == 1
    (sentence,) = ended.err.splitlines()
    assert sentence.startswith("roundel: node process ")
    assert " ended with code 7: joined 127.0.0.1:" in sentence
    assert None not in machine.exit_codes()


def test_a_node_process_that_is_killed_ends_the_run_and_the_other_nodes(machine):
    def kill(_report: RoundReport) -> None:
        os.kill(machine.processes[0]._command.pid, signal.SIGKILL)

    with pytest.raises(RunFailed, match=r"^node process 1 ended with code -9: ") as caught:
        machine.deploy(experiment_of("fedavg"), on_round=kill)
    assert caught.value.exit_code == 1
    assert "\n" not in str(caught.value)
    assert machine.exit_codes() == [-9, 0]
    assert not (machine.path / "deployed" / "model.safetensors").exists()


def test_a_node_process_that_cannot_even_join_ends_the_run_at_once(machine, monkeypatch):
    class Stillborn:
        returncode = 3

        def __init__(self, _command: list[str], stdout: Any, stderr: Any) -> None:
            stdout.write(b"loading ...\nroundel: there is no disk\n")
            stdout.flush()

        def poll(self) -> int:
            return self.returncode

        def wait(self, timeout: float | None = None) -> int:
            return self.returncode

    monkeypatch.setattr(deployed, "subprocess", SimpleNamespace(Popen=Stillborn))
    with pytest.raises(RunFailed) as caught:
        machine.deploy(experiment_of("fedavg"))
    assert str(caught.value) == "node process 1 ended with code 3: roundel: there is no disk"


# ---- going on


@pytest.mark.parametrize("strategy", [STATELESS, STATEFUL])
def test_a_resumed_run_ends_as_one_that_was_never_interrupted(machine, strategy):
    experiment = experiment_of(strategy, "checkpoint.every_s=3600")
    simulated = simulate(experiment, out=machine.path / "simulated")
    shown: list[RoundReport] = []

    with killed_in(3) as die:
        machine.deploy(experiment, on_round=die)
    assert machine.exit_codes() == [0, 0]
    resumed = resume_as_deployed(machine.path / "deployed", nodes=2, on_round=shown.append)
    agree(resumed, simulated)
    rounds = [(report.record.round, report.recomputed) for report in shown]
    assert rounds == [(3, True), (4, False)]  # a checkpoint follows each round


WITH_STATE = {
    "fedavgm": [],
    "fedexp": [],
    "fednova": [],
    "feddyn": [],
    "moon": [],
    "centred_clipping": [],
    "fedbn": ["task.model=mlp-norm"],
    "fedrep": ["strategy.head_epochs=1"],
    "ditto": [],
    "pfedme": [],
    "topk": [],
    "fedit": [],
    "dp_adaptive": ["strategy.noise=seeded"],
}
"""Strategies that keep something, at the server or at clients, and what they need besides."""


@pytest.mark.slow
@pytest.mark.parametrize("strategy", WITH_STATE)
def test_whatever_has_state_goes_on_over_node_processes_as_if_nothing_had_happened(
    machine, strategy
):
    experiment = experiment_of(strategy, "checkpoint.every_s=0", *WITH_STATE[strategy])
    simulated = simulate(experiment, out=machine.path / "simulated")

    with killed_in(3) as die:
        machine.deploy(experiment, on_round=die)
    resumed = resume_as_deployed(machine.path / "deployed", nodes=2, on_round=silent)
    agree(resumed, simulated)


def test_a_finished_run_is_left_as_it_is(machine):
    run = machine.deploy(experiment_of("fedavg", "rounds=1"))
    again = resume_as_deployed(run.path, nodes=2, on_round=silent)
    assert len(machine.processes) == 2
    assert again.rounds == run.rounds


# ---- nodes that dial in


def test_a_served_run_is_that_of_a_simulation_whenever_its_nodes_join(machine):
    experiment = experiment_of(STATEFUL)
    simulated = simulate(experiment, out=machine.path / "simulated")
    said: Queue[str] = Queue()
    served: list[History] = []

    def coordinate() -> None:
        serving = Serving(listen="127.0.0.1:0", on_round=silent, say=said.put)
        served.append(serve(experiment, machine.path / "served", serving))

    thread = threading.Thread(target=coordinate, daemon=True)
    thread.start()
    address = said.get(timeout=TIMEOUT_S).split()[2].rstrip(";")
    plain = "--insecure"
    first = commands.start("join", address, plain, "--partition", "2/2", cwd=machine.path)
    while said.get(timeout=TIMEOUT_S) != "waiting for nodes: 6 of 12 clients are hosted":
        pass
    second = commands.start("join", address, plain, "--partition", "1/2", cwd=machine.path)
    thread.join(TIMEOUT_S)
    assert [node.wait().code for node in (first, second)] == [0, 0]
    agree(served[0], simulated)


def test_a_node_that_leaves_before_the_start_makes_room_for_another(monkeypatch):
    terms = Terms(run="r", experiment="{}", population=2, fingerprint="f", update_limit=1000)
    monkeypatch.setattr(grpc_coordinator, "FAREWELL_S", 0.0)
    clock = FakeClock()
    said: list[str] = []
    with Coordinator(terms, "127.0.0.1:0", clock) as running:
        running.nodes.host(running.nodes.join("gone"), [0])
        clock.now_s += LEASE_S * 2

        def join_once_there_is_room() -> None:
            if said:
                running.nodes.host(running.nodes.join("new"), [0, 1])

        patience = serving.Patience(say=said.append, watch=join_once_there_is_room)
        serving.wait_for_nodes(running, 2, patience)
    assert said[0] == "waiting for nodes: 0 of 2 clients are hosted"


def test_nobody_waits_for_node_processes_that_never_come():
    terms = Terms(run="r", experiment="{}", population=2, fingerprint="f", update_limit=1000)
    with (
        Coordinator(terms, "127.0.0.1:0", FakeClock()) as running,
        pytest.raises(RunFailed, match=r"^only 0 of 2 clients were hosted after 0\.1 s$"),
    ):
        serving.wait_for_nodes(running, 2, serving.Patience(say=lambda _line: None, timeout_s=0.1))


@pytest.mark.parametrize("listen", ["0.0.0.0:8470", "example.org:80", "8470", "[::]:0"])
def test_only_loopback_addresses_are_served(machine, listen):
    serving = Serving(listen=listen, on_round=silent, say=lambda _line: None)
    with pytest.raises(ConfigError, match="is not a loopback address, and the wire is not encr"):
        serve(experiment_of("fedavg"), machine.path / "served", serving)
    assert not (machine.path / "served").exists()


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["dp_fedavg", "dp_adaptive", "local_dp"])
def test_seeded_noise_over_node_processes_is_that_of_a_simulation(machine, strategy):
    experiment = experiment_of(strategy, "strategy.noise=seeded")
    simulated = simulate(experiment, out=machine.path / "simulated")
    agree(machine.deploy(experiment), simulated)


@pytest.mark.slow
def test_a_private_run_over_node_processes_goes_on_with_its_own_noise(machine):
    experiment = experiment_of("dp_adaptive", "checkpoint.every_s=0")
    before: list[RoundReport] = []

    with killed_in(3) as die:

        def watch(report: RoundReport) -> None:
            before.append(report)
            die(report)

        machine.deploy(experiment, on_round=watch)
    shutil.rmtree(machine.path / "deployed" / "checkpoints")
    (machine.path / "deployed" / "checkpoints").mkdir()
    resumed = resume_as_deployed(machine.path / "deployed", nodes=2, on_round=silent)
    assert resumed.hashes[:3] == [report.record.params_sha256 for report in before]
    assert len(resumed.rounds) == 4


@pytest.fixture
def noisy(machine) -> History:
    """A run whose clients added noise, and of which all rounds must be computed again."""
    run = machine.deploy(experiment_of("local_dp", "rounds=2"))
    assert not (run.path / "secrets.jsonl").exists()
    (run.path / "model.safetensors").unlink()
    shutil.rmtree(run.path / "checkpoints")
    (run.path / "checkpoints").mkdir()
    return run


@pytest.mark.slow
def test_nodes_that_come_back_add_the_noise_that_they_had_added(noisy):
    assert resume_as_deployed(noisy.path, nodes=2, on_round=silent).hashes == noisy.hashes


@pytest.mark.slow
def test_noise_of_nodes_that_are_gone_cannot_be_had_again(noisy):
    shutil.rmtree(noisy.path / "nodes")
    with pytest.raises(RunFailed, match="round 1 was recomputed and gave the parameter hash"):
        resume_as_deployed(noisy.path, nodes=2, on_round=silent)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_processes_that_start_from_nothing_give_it_too(tmp_path, strategy):
    experiment = experiment_of(strategy)
    simulated = simulate(experiment, out=tmp_path / "simulated")
    run = simulate_as_deployed(experiment, nodes=2, out=tmp_path / "deployed", on_round=silent)
    agree(run, simulated)
