"""`roundel serve` coordinates an experiment over nodes that dial in."""

import json
import shutil
import signal
import socket
import urllib.request

import pytest

from roundel.core.configfile import load_experiment
from roundel.core.errors import ConfigError
from roundel.core.history import read_history
from roundel.simulations.deployed import Serving, serve
from tests.commands import TINY, Command, call, start
from tests.flowerapps.running import APPS

SETTINGS = (*TINY, "-s", "rounds=2", "-s", "engine.executor=loop")
AUDIT = "authority/audit.jsonl"
HERE = ("--listen", "127.0.0.1:0", "--insecure")


def address_of(coordinator: Command) -> str:
    """The address that a coordinator prints once it listens."""
    return coordinator.wait_for(r"listening on (\S+);")[1]


def test_rounds_run_once_every_client_is_hosted_and_end_as_the_simulation_does(tmp_path):
    call("simulate", *SETTINGS, "--out", tmp_path / "simulated")
    serving = start("serve", *SETTINGS, *HERE, "--out", "run", "--json", cwd=tmp_path)
    address = address_of(serving)
    node = start("join", address, "--insecure", cwd=tmp_path)
    ended = serving.wait()
    assert ended.code == node.wait().code == 0
    told = [json.loads(line) for line in ended.out.splitlines()]
    assert [line["round"] for line in told if "event" not in line] == [1, 2]
    assert [line["clients"] for line in told if line.get("event") == "node_joined"] == [4]
    assert f"join with: roundel join {address} --insecure\n" in ended.err
    assert ended.err.endswith("results are in run\n")
    assert read_history(tmp_path / "run").hashes == read_history(tmp_path / "simulated").hashes


def test_nodes_enrol_for_a_token_and_the_rounds_are_those_of_the_simulation(tmp_path):
    call("simulate", *SETTINGS, "--out", tmp_path / "simulated")
    secured = ("--listen", "127.0.0.1:0", "--authority", "authority", "--token-file", "token")
    serving = start("serve", *SETTINGS, *secured, "--out", "run", cwd=tmp_path)
    address = address_of(serving)
    token = ("--token", f"@{tmp_path / 'token'}")
    nodes = [
        start("join", address, f"--partition={i}/2", *token, f"--state=node-{i}", cwd=tmp_path)
        for i in (1, 2)
    ]
    ended = serving.wait()
    assert (ended.code, [node.wait().code for node in nodes]) == (0, [0, 0])
    assert "roundel: making an authority for certificates in authority\n" in ended.err
    assert read_history(tmp_path / "run").hashes == read_history(tmp_path / "simulated").hashes
    told = [json.loads(line)["event"] for line in (tmp_path / AUDIT).read_text().splitlines()]
    assert told[0] == "token issued"
    assert sorted(told[1:-1]) == sorted([*["enrolled", "joined"] * 2, "run started"])
    assert told[-1] == "run ended"
    assert call("audit", "verify", tmp_path / AUDIT).code == 0
    own, moved = tmp_path / "authority", tmp_path / "moved"
    resuming = ("serve", "--resume", tmp_path / "run")
    assert call(*resuming).code == 0  # it is over, and knows whose it was
    own.rename(moved)
    refused = call(*resuming)
    assert refused.code == 2
    assert f"{tmp_path / 'run'} began with the authority in {own}, which is not " in refused.err
    assert not own.exists()
    assert call(*resuming, "--authority", moved).code == 0


def test_without_encryption_a_warning_says_so(tmp_path):
    serving = start("serve", *SETTINGS, *HERE, "--out", "run", cwd=tmp_path)
    assert serving.wait_for("roundel: --insecure: nothing is encrypted, and whoever reaches this")
    serving.send(signal.SIGINT)
    serving.wait()


@pytest.mark.parametrize("listen", ["0.0.0.0:8470", "192.0.2.1:8470"])
def test_without_encryption_only_loopback_addresses_are_listened_on_unless_it_is_meant(
    listen, tmp_path
):
    serving = Serving(listen=listen, on_round=lambda _line: None, say=lambda _line: None)
    with pytest.raises(ConfigError, match=f"--listen {listen} is not a loopback address"):
        serve(load_experiment(None, ["rounds=1"]), tmp_path / "run", serving)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("address", ["192.0.2.1:8470", "localhost", "8470"])
def test_an_address_that_cannot_be_listened_on_is_one_sentence(address, tmp_path):
    ended = call("serve", *SETTINGS, "--listen", address, "--insecure", "--out", tmp_path / "run")
    assert ended.code == 2
    assert ended.err.endswith(
        f"roundel: cannot listen on {address}: choose a free address with --listen\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_an_address_that_is_taken_is_one_sentence_and_leaves_no_run(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        serving = start(
            *("serve", *SETTINGS, "--listen", address, "--insecure", "--out", "run"), cwd=tmp_path
        )
        ended = serving.wait()
    assert ended.code == 2
    assert ended.err.endswith(
        f"roundel: cannot listen on {address}: choose a free address with --listen\n"
    )
    assert not (tmp_path / "run").exists()


def test_whoever_watches_from_outside_gets_figures_all_the_while(tmp_path):
    serving = start(
        *("serve", *SETTINGS, *HERE, "--out", "run", "--metrics", "0"),
        cwd=tmp_path,
    )
    place = serving.wait_for(r"figures for Prometheus are at (\S+)\n")[1]
    address_of(serving)
    while not (text := urllib.request.urlopen(place, timeout=10.0).read().decode()):
        assert serving.poll() is None
    assert "\nroundel_clients 4\n" in text
    serving.send(signal.SIGINT)
    ended = serving.wait()
    assert ended.code == 130
    assert ended.err.endswith("roundel: interrupted; go on with `roundel serve --resume run`\n")


def test_a_coordinator_that_was_killed_goes_on_with_the_nodes_that_stayed(tmp_path):
    sets = (*SETTINGS, "-s", "rounds=60", "-s", "strategy.name=scaffold", "-s", "cohort.quorum=2")
    call("simulate", *sets, "--out", tmp_path / "simulated")
    serving = start("serve", *sets, *HERE, "--out", "run", cwd=tmp_path)
    address = address_of(serving)
    node = start("join", address, "--insecure", "--state", "node", cwd=tmp_path)
    serving.wait_for(r"round 5/60")
    serving.send(signal.SIGKILL)
    serving.wait()
    refused = call("resume", tmp_path / "run")
    assert refused.code == 2
    assert refused.err == (
        f"roundel: {tmp_path / 'run'} was run over nodes that dial in; go on with it by `roundel "
        f"serve --resume {tmp_path / 'run'}`\n"
    )
    again = start("serve", "--resume", "run", "--listen", address, "--insecure", cwd=tmp_path)
    assert (again.wait().code, node.wait().code) == (0, 0)
    assert read_history(tmp_path / "run").hashes == read_history(tmp_path / "simulated").hashes
    finished = call("serve", "--resume", tmp_path / "run", *HERE)
    assert finished.code == 0


def test_a_run_that_was_simulated_is_not_served(tmp_path):
    call("simulate", *SETTINGS, "--out", tmp_path / "run")
    ended = call("serve", "--resume", tmp_path / "run", *HERE)
    assert ended.code == 2
    assert ended.err.endswith(
        f"{tmp_path / 'run'} was not served; go on with it by `roundel resume {tmp_path / 'run'}`\n"
    )


APP = APPS / "custom-strategy"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--clients", "3"], "--clients is for a Flower app; name its directory with --flower"),
        (["--patience", "3"], "--patience is for a Flower app; name its directory with --flower"),
        (["--flower", APP, "file.toml"], "runs an app, and FILE.toml and --tensorboard are for"),
        (["--flower", APP, "--tensorboard"], "runs an app, and FILE.toml and --tensorboard are"),
        (["--flower", APP, "-s", "lr=1"], "-s 'lr=1': 'lr' is not a setting of the app; "),
        (["--flower", "nowhere"], "cannot read nowhere/pyproject.toml: No such file or directory"),
        (["--resume", "run", "--seed", "2"], "leave out FILE.toml, -s and --out, and --seed"),
        (["--resume", "run", "--flower", APP], "FILE.toml, -s and --out, and --flower"),
    ],
)
def test_options_that_do_not_go_together_are_one_sentence(options, sentence):
    ended = call("serve", *HERE, *options)
    assert ended.code in (1, 2)
    assert sentence in ended.err
    assert ended.err.count("\n") == 1


def test_an_app_that_nodes_would_refuse_is_one_sentence_and_leaves_no_run_behind(tmp_path):
    ended = call("serve", *HERE, "--flower", APP, "--seed", 1 << 70, "--out", tmp_path / "run")
    assert ended.code == 2
    assert "cannot be served with seed = 1180591620717411303424: " in ended.err
    assert ended.err.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_an_app_that_is_served_may_be_interrupted_and_nodes_that_do_not_fit_are_told(tmp_path):
    command = ("serve", "--flower", APP, "--clients", 4, "--out", "run", "--json", *HERE)
    serving = start(*command, cwd=tmp_path)
    address = address_of(serving)
    bare = start("join", address, "--insecure", cwd=tmp_path)
    copy = shutil.copytree(APP, tmp_path / "copy")
    about = (copy / "pyproject.toml").read_text().replace("custom-strategy", "of-another-name", 1)
    (copy / "pyproject.toml").write_text(about)
    another = ("--name", "other", "--flower", copy)
    other = start("join", address, "--insecure", *another, cwd=tmp_path)
    refused = [node.wait() for node in (bare, other)]
    assert [ended.code for ended in refused] == [2, 2]
    assert refused[0].err == (
        "roundel: this run is one of the Flower app 'custom-strategy', of which each node has a "
        f"copy: join with `roundel join {address} --flower DIRECTORY`\n"
    )
    differs = "differs in the task (the Flower app 'of-another-name' at the node"
    assert f"does not fit the run; it {differs}" in refused[1].err
    serving.send(signal.SIGINT)
    ended = serving.wait()
    assert ended.code == 130
    assert ended.err.endswith("roundel: interrupted; go on with `roundel serve --resume run`\n")
