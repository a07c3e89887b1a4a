"""Exported apps run on our engine for Flower apps, and end as the experiment does."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from roundel.client import flower as at_client
from roundel.core.configfile import load_experiment
from roundel.core.errors import ConfigError, RoundAborted
from roundel.simulations import simulate
from roundel.simulations.flowerapps import flower_exported
from roundel.simulations.flowerapps.export import export_app, prepared
from roundel.simulations.flowerapps.flower_exported import (
    Keeping,
    client_app,
    configured,
    run_on,
)
from tests.commands import call
from tests.flowerapps.grids import PlainGrid
from tests.flowerapps.running import arrays, run
from tests.simulations.flowerapps.test_on_flower import flower

SMALL = (
    "rounds=2",
    "client.steps=2",
    "partition.clients=5",
    "cohort.size=3",
    "engine.executor=loop",
)


def app_of(folder, *settings):
    export_app(load_experiment(None, [*SMALL, *settings]), folder / "app")
    return folder / "app"


def own_model(folder, *settings):
    simulate(settings=[*SMALL, *settings], out=folder / "own")
    return load_file(folder / "own" / "model.safetensors")


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array)


@pytest.mark.parametrize("clients", [2, 5])
def test_an_app_ends_on_our_engine_with_the_model_of_the_experiment(clients, tmp_path):
    root = app_of(tmp_path, "strategy.name=scaffold")
    run(root, tmp_path / "run", clients=clients)
    assert_same(arrays(tmp_path / "run"), own_model(tmp_path, "strategy.name=scaffold"))


def test_the_app_s_settings_are_the_experiment_s(tmp_path):
    root = app_of(tmp_path)
    run(root, tmp_path / "run", ["num-server-rounds=1", "client.lr=0.5", "seed=3"])
    settings = ("rounds=1", "client.lr=0.5", "seed=3")
    assert_same(arrays(tmp_path / "run"), own_model(tmp_path, *settings))


def test_any_key_of_the_experiment_may_be_a_setting(tmp_path):
    file = tmp_path / "experiment.toml"
    file.write_text("rounds = 5\n")
    config = {"out": "x", "wait-s": 1.0, "num-server-rounds": 2, "strategy.name": "fedadam"}
    experiment = configured(file, config)
    assert (experiment.rounds, experiment.strategy.name) == (2, "fedadam")
    with pytest.raises(ConfigError, match=r"client\.speed is not a key"):
        configured(file, {"client.speed": 1})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("task.name", "torch.utils.collect_env:run"),
        ("strategy.name", "torch.utils.collect_env:run"),
        ("strategy.name", "flower:FedAdam"),
        ("task.path", "/etc"),
        ("task.initial", "/etc/passwd"),
        ("partition.path", "/etc/passwd"),
    ],
)
def test_settings_name_no_code_and_no_files_that_the_experiment_does_not(key, value, tmp_path):
    file = tmp_path / "experiment.toml"
    file.write_text("rounds = 5\n")
    with pytest.raises(ConfigError) as caught:
        configured(file, {key: value})
    assert str(caught.value) == (
        f"the app's settings say {key} = {value!r}, which would run code or read files here and "
        f"does not stand in {file}; write it there if it is yours"
    )
    section, _, name = key.partition(".")
    file.write_text(f'{section}.{name} = "{value}"\n')
    assert configured(file, {"rounds": 2, key: value}).rounds == 2


def test_code_is_named_by_no_other_key_than_the_experiment_s(tmp_path):
    file = tmp_path / "experiment.toml"
    file.write_text('task.name = "mine:birds"\nstrategy.parts = [{name = "mine:part"}]\n')
    assert configured(file, {"rounds": 2}).rounds == 2
    with pytest.raises(ConfigError, match=r"strategy\.name = 'mine:birds', which"):
        configured(file, {"strategy.name": "mine:birds"})


def test_asked_for_it_leaves_a_run_directory_like_any_other(tmp_path):
    experiment = load_experiment(None, [*SMALL, "strategy.name=scaffold"])
    root = app_of(tmp_path, "strategy.name=scaffold")
    app = client_app(root / "app" / "experiment.toml")
    out = tmp_path / "run"
    run_on(PlainGrid(app, 2), prepared(experiment), Keeping(run="r", out=str(out)))
    expected = own_model(tmp_path, "strategy.name=scaffold")
    assert_same(load_file(out / "model.safetensors"), expected)
    for name in ("config.toml", "clients.jsonl", "partition.json"):
        assert (out / name).exists()
    ours, theirs = (
        (tmp_path / folder / "metrics.jsonl").read_text().splitlines() for folder in ("own", "run")
    )
    assert [hashes(line) for line in theirs] == [hashes(line) for line in ours]
    refused = call("resume", out)
    assert refused.code == 2
    assert f"start it there again, or run the same rounds here by `roundel simulate {out}" in (
        " ".join(refused.err.split())
    )


def hashes(line):
    return line.partition('"params_sha256": ')[2][:66]


def test_keys_of_noise_need_no_run_directory(tmp_path):
    root = app_of(tmp_path, "strategy.name=local_dp", "strategy.noise_multiplier=1", "rounds=1")
    run(root, tmp_path / "run", clients=2)
    assert arrays(tmp_path / "run")


def test_a_round_that_nobody_survives_ends_the_command_with_the_reason(tmp_path):
    root = app_of(tmp_path, "faults.fail=1")
    with pytest.raises(RoundAborted, match=r"round 1 has 0 accepted of 3 updates and needs 1"):
        run(root, tmp_path / "run", clients=2)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_on_flower_s_simulation_it_ends_with_the_model_of_the_experiment(tmp_path):
    root = app_of(tmp_path, "strategy.name=scaffold")
    found = flower(root, 5, tmp_path)
    assert_same(found, own_model(tmp_path, "strategy.name=scaffold"))


def test_a_client_app_holds_a_path_and_names_so_that_ray_can_send_it_to_its_actors(monkeypatch):
    monkeypatch.setattr(at_client, "client_app", lambda prepare: prepare)
    prepare: Any = client_app(Path("experiment.toml"))
    assert [cell.cell_contents for cell in prepare.__closure__] == [Path("experiment.toml")]
    [cached] = [name for name in prepare.__code__.co_names if name.startswith("_")]
    assert vars(flower_exported)[cached].__qualname__ == cached
