"""Where a simulation computes; there is no GPU here, so torch is made to say that there is."""

import json

import pytest
import torch

from roundel.core.configfile import load_experiment
from roundel.core.errors import ConfigError, RunDirectoryError
from roundel.simulations import resume, simulate
from roundel.simulations.devices import (
    check_can_fork,
    check_present,
    device_of,
    repeatable,
    settled,
)
from roundel.simulations.engine import choose
from roundel.simulations.prepare import prepare
from roundel.simulations.replay import replay

TINY = ("rounds=1", "partition.clients=4", "cohort.size=2", "evaluation.clients=0")


@pytest.fixture
def two_gpus(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"Model {device.index}")


def engine_of(*settings: str):
    return choose(prepare(load_experiment(None, [*TINY, *settings])))


def test_auto_is_a_gpu_where_there_is_one(two_gpus):
    assert [settled(asked) for asked in ("auto", "cuda", "cpu")] == ["cuda", "cuda", "cpu"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")
def test_without_a_gpu_auto_is_the_cpu_and_to_ask_for_one_is_an_error():
    assert settled("auto") == settled("cpu") == "cpu"
    with pytest.raises(ConfigError, match=r"needs a GPU .* set engine.device to 'auto' or 'cpu'"):
        engine_of("engine.device=cuda")


def test_the_engine_says_which_gpu_and_that_one_process_computes_there(two_gpus):
    engine = engine_of("engine.device=auto")
    assert (engine.device, engine.gpu, engine.workers) == ("cuda", "Model 0", 1)
    assert engine.line()["gpu"] == "Model 0"


def test_an_experiment_is_computed_on_the_cpu_unless_it_says_something_else(two_gpus):
    engine = engine_of()
    assert engine.device == "cpu"
    assert "gpu" not in engine.line()


def test_clients_that_stand_around_no_server_are_computed_on_the_cpu(two_gpus):
    assert engine_of("topology.kind=gossip", "cohort.size=4", "engine.device=auto").device == "cpu"
    with pytest.raises(ConfigError, match=r"'gossip' is computed on the CPU; set engine.device"):
        engine_of("topology.kind=gossip", "cohort.size=4", "engine.device=cuda")


def test_processes_of_one_machine_take_its_gpus_in_turn(two_gpus, monkeypatch):
    assert device_of("cpu") == torch.device("cpu")
    assert device_of("cuda") == torch.device("cuda", 0)
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert device_of("cuda") == torch.device("cuda", 1)


def test_several_workers_on_a_gpu_are_refused_with_the_way_to_use_several():
    check_can_fork("cpu", 2)
    check_can_fork("cuda", 1)
    with pytest.raises(ConfigError, match=r"engine.workers = 2 .* `torchrun --nproc-per-node 2 "):
        check_can_fork("cuda", 2)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")
def test_a_run_that_began_on_a_gpu_goes_on_and_is_replayed_only_where_there_is_one(tmp_path):
    run = tmp_path / "run"
    simulate(settings=TINY, out=run)
    environment = json.loads((run / "environment.json").read_text())
    assert environment["engine"]["device"] == "cpu"
    environment["engine"]["device"] = "cuda"
    (run / "environment.json").write_text(json.dumps(environment))
    assert len(resume(run).rounds) == 1  # it is finished: there is nothing to compute
    (run / "model.safetensors").unlink()
    refused = r"was computed on a GPU, .* go on where there is one"
    with pytest.raises(RunDirectoryError, match=refused):
        resume(run)
    with pytest.raises(RunDirectoryError, match=refused):
        replay(run, 1, 1)


def test_a_run_on_the_cpu_may_go_on_anywhere(two_gpus, tmp_path):
    check_present("cpu", tmp_path)
    check_present("cuda", tmp_path)


def test_the_cpu_needs_nothing_to_be_repeatable():
    before = torch.are_deterministic_algorithms_enabled()
    with repeatable(torch.device("cpu")):
        assert torch.are_deterministic_algorithms_enabled() == before


def test_a_simulation_on_the_cpu_is_the_one_that_was_prepared():
    simulation = prepare(load_experiment(None, list(TINY)))
    assert simulation.on(torch.device("cpu")) is simulation
