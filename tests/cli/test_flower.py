"""`roundel flower run` runs a Flower app and says what came of it."""

import json

import pytest

from roundel.core import flowerversion
from tests.commands import call
from tests.flowerapps.running import APPS, CLIENT, write_app


def test_it_prints_a_line_a_round_and_where_the_results_lie(tmp_path):
    out = tmp_path / "run"
    ended = call("flower", "run", APPS / "custom-strategy", "--clients", "4", "--out", out)
    *rounds, place, model = ended.out.splitlines()
    assert ended.code == 0
    assert [line.split("  ")[0] for line in rounds] == [f"round {r}" for r in (1, 2, 3, 4)]
    assert "train: 4 of 4 replied  rounds 1" in rounds[0]
    assert "evaluate: 4 of 4 replied  eval_loss " in rounds[0]
    assert place == f"{out}: 4 rounds"
    assert model == "model.safetensors holds the result of the strategy"
    assert json.loads((out / "environment.json").read_text())["engine"]["clients"] == 4


def test_settings_clients_and_workers_are_the_users(tmp_path):
    out = tmp_path / "run"
    ended = call(
        *("flower", "run", APPS / "legacy-numpy", "-s", "num-server-rounds=1"),
        *("--workers", "9", "--seed", "3", "--out", out),
    )
    assert ended.code == 0
    said = (out / "flower.toml").read_text()
    assert "num-server-rounds = 1" in said
    assert "clients = 4" in said  # as its pyproject.toml says
    assert json.loads((out / "environment.json").read_text())["engine"]["workers"] == 4


def test_a_broken_app_is_one_sentence_with_its_line_and_exit_code_1(tmp_path):
    root = write_app(
        tmp_path / "app", client=CLIENT.replace("def train", "import nowhere\ndef train")
    )
    ended = call("flower", "run", root, "--out", tmp_path / "run")
    assert ended.code == 1
    assert ended.err.startswith(
        "roundel: clientapp = 'client_app:app': importing client_app failed: ModuleNotFoundError: "
        f"No module named 'nowhere' ({root}/client_app.py:5)\n\nTraceback"
    )
    assert not (tmp_path / "run").exists()


def test_a_setting_that_the_app_has_not_is_refused():
    ended = call("flower", "run", APPS / "dp-mods", "-s", "noise=1")
    assert ended.code == 2
    assert ended.err == (
        "roundel: -s 'noise=1': 'noise' is not a setting of the app; choose from "
        "num-server-rounds, num-clients, noise-multiplier, clipping-norm, adaptive\n"
    )


@pytest.mark.parametrize("found", [None, "1.99.0"])
def test_without_a_flower_that_works_it_says_which_does(found, monkeypatch):
    monkeypatch.setattr(flowerversion, "installed", lambda: found)
    ended = call("flower", "run", APPS / "dp-mods")
    assert ended.code == 2
    assert "1.41.*" in ended.err
    assert "pip install 'roundel[flower]'" in ended.err


def test_an_experiment_is_exported_and_the_app_runs(tmp_path):
    (tmp_path / "e.toml").write_text("rounds = 1\n[partition]\nclients = 3\n[cohort]\nsize = 2\n")
    app = tmp_path / "app"
    ended = call("flower", "export", tmp_path / "e.toml", app, "-s", "strategy.name=fedadam")
    assert ended.code == 0
    assert ended.out.splitlines()[0] == f"{app}/pyproject.toml"
    assert 'name = "fedadam"' in (app / "app" / "experiment.toml").read_text()
    ended = call("flower", "run", app, "--clients", "2", "--workers", "1", "--out", tmp_path / "r")
    assert ended.code == 0
    assert "train: 2 of 2 replied  loss " in ended.out
    again = call("flower", "export", tmp_path / "e.toml", app)
    assert again.code == 2
    assert "is not an empty directory" in again.err
