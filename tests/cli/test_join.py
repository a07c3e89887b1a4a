"""`roundel join` hosts clients for a coordinator."""

import json
import signal
import socket
from pathlib import Path

import pytest

from roundel.client import grpc_enrol, grpc_link, grpc_node
from roundel.client.grpc_node import Joining
from roundel.client.journal import NodeDirectory
from roundel.core.history import read_history
from roundel.core.tokens import JoinToken
from tests.cli.test_serve import HERE, SETTINGS, address_of
from tests.commands import call, start
from tests.flowerapps.running import APPS

APP = APPS / "custom-strategy"
PLAIN = "--insecure"


def test_each_node_says_what_it_hosts_and_why_it_left(tmp_path):
    serving = start("serve", *SETTINGS, *HERE, "--out", "run", cwd=tmp_path)
    address = address_of(serving)
    nodes = [
        start("join", address, PLAIN, "--partition", f"{i}/2", "--name", f"shelf-{i}", cwd=tmp_path)
        for i in (1, 2)
    ]
    assert serving.wait().code == 0
    for number, node in enumerate(nodes, start=1):
        ended = node.wait()
        assert (ended.code, ended.err) == (0, "")
        first, *rounds, last = ended.out.splitlines()
        assert first == f"joined {address} as 'shelf-{number}', hosting 2 clients"
        assert all("of my clients took part" in line for line in rounds)
        assert last == "left: the run is over"
    assert [line["completed"] for line in read_history(tmp_path / "run").rounds] == [2, 2]


@pytest.mark.parametrize("share", ["3/2", "0/2", "1", "1/0", "a/b", "1/2/3", "-1/2"])
def test_a_share_that_is_none_is_refused_before_anything_is_dialled(share):
    ended = call("join", "127.0.0.1:1", f"--partition={share}")
    assert ended.code == 2
    assert ended.err.startswith(f"roundel: --partition '{share}' is not a share; write I/N")
    assert ended.err.count("\n") == 1


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        ("localhost", "'localhost' is not an address; write HOST:PORT"),
        ("host:99999", "'host:99999' has the port 99999; ports go from 1 to 65535"),
        ("https://host:8470", "'https://host:8470' is not an address; write HOST:PORT"),
    ],
)
def test_an_odd_address_is_refused_before_anything_is_dialled(address, sentence):
    ended = call("join", address)
    assert ended.code == 2
    assert ended.err.startswith(f"roundel: {sentence}")
    assert ended.err.count("\n") == 1


def test_a_coordinator_that_is_not_there_is_waited_for_and_then_given_up_on(monkeypatch):
    monkeypatch.setattr(grpc_link, "QUIET_S", 0.0)
    ended = call("join", "127.0.0.1:1", PLAIN, "--wait", "0.2")
    assert ended.code == 1
    assert ended.out.startswith("waiting for 127.0.0.1:1 (unavailable: ")
    assert ended.out.count("\n") == 1
    assert ended.err.startswith("roundel: the coordinator at 127.0.0.1:1 cannot be reached")
    assert ended.err.endswith("check that `roundel serve` runs there, and join again\n")
    assert ended.err.count("\n") == 1


def test_a_node_has_a_name_and_a_directory_of_its_own_unless_told_otherwise(monkeypatch, tmp_path):
    seen = []
    monkeypatch.setattr(grpc_node, "run_node", lambda joining, *_rest: seen.append(joining))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setattr(socket, "gethostname", lambda: "edge7")
    assert call("join", "127.0.0.1:8470", PLAIN, "--partition=2/3").code == 0
    assert call("join", "[::1]:8470", PLAIN, "--name=a", "--state=here", "--wait=5").code == 0
    assert seen == [
        Joining(
            address="127.0.0.1:8470",
            name="edge7-2of3",
            state=tmp_path / "roundel" / "127.0.0.1_8470" / "edge7-2of3",
            wait_s=600.0,
        ),
        Joining(address="[::1]:8470", name="a", state=Path("here"), wait_s=5.0),
    ]


def test_a_name_that_leads_elsewhere_is_refused(monkeypatch):
    ended = call("join", "127.0.0.1:1", "--name", "../edge")
    assert ended.code == 2
    assert ended.err.startswith("roundel: '../edge' cannot be the name of a node")


def test_two_nodes_in_one_directory_are_one_sentence_for_the_second(tmp_path):
    with NodeDirectory(tmp_path):
        ended = call("join", "127.0.0.1:1", "--state", tmp_path)
    assert ended.code == 2
    assert ended.err == (
        f"roundel: {tmp_path} is in use by another node; end that one, or join with another --name "
        "or --state\n"
    )


def test_a_node_without_a_certificate_is_told_where_to_get_a_token(tmp_path, monkeypatch):
    monkeypatch.delenv("ROUNDEL_TOKEN", raising=False)
    ended = call("join", "127.0.0.1:1", "--name", "a", "--state", tmp_path / "kept")
    assert ended.code == 2
    assert ended.err == (
        f"roundel: node 'a' has no certificate in {tmp_path}/kept/identity; join with --token, "
        "which the operator gets by `roundel nodes token`, or with --insecure if the coordinator "
        "runs so\n"
    )


def test_a_token_may_stand_in_a_file_or_in_the_environment(tmp_path, monkeypatch):
    (tmp_path / "token").write_text("no token\n")
    refusal = "roundel: this is no join token, for it does not begin with 'roundel-'\n"
    join = ("join", "127.0.0.1:1", "--name", "a", "--state", tmp_path / "kept")
    assert call(*join, "--token", f"@{tmp_path / 'token'}").err == refusal
    monkeypatch.setenv("ROUNDEL_TOKEN", "another")
    assert call(*join).err == refusal
    monkeypatch.setenv("ROUNDEL_TOKEN", f"@{tmp_path / 'missing'}")
    assert call(*join).err == (
        f"roundel: cannot read the join token in {tmp_path}/missing: No such file or directory\n"
    )


def test_enrolling_where_no_coordinator_is_is_waited_for_and_then_given_up_on(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(grpc_enrol, "QUIET_S", 0.0)
    token = JoinToken(port=1, id="00000000", secret=bytes(16), fingerprint=bytes(32)).to_text()
    ended = call(
        *("join", "127.0.0.1:1", "--wait", "0.2", "--state", tmp_path / "kept", "--token", token)
    )
    assert ended.code == 1
    assert ended.out.startswith("waiting for 127.0.0.1:1 (127.0.0.1:1, where nodes enrol, cannot")
    assert ended.out.count("\n") == 1
    assert ended.err.startswith("roundel: 127.0.0.1:1, where nodes enrol, cannot be reached")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_node_that_is_stopped_says_how_to_come_back(tmp_path, number):
    node = start("join", "127.0.0.1:1", PLAIN, "--name", "a", "--state", "kept", cwd=tmp_path)
    node.wait_for("waiting for 127.0.0.1:1")
    node.send(number)
    ended = node.wait()
    assert ended.code == 130
    assert ended.err == (
        "roundel: interrupted; join again with --name a to go on; what is finished is kept in "
        "kept\n"
    )


def test_two_nodes_with_one_share_are_one_sentence_for_the_second(tmp_path):
    serving = start("serve", *SETTINGS, *HERE, "--out", "run", cwd=tmp_path)
    address = address_of(serving)
    first = start("join", address, PLAIN, "--partition", "1/2", "--name", "first", cwd=tmp_path)
    first.wait_for("joined")
    second = start(
        "join", address, PLAIN, "--partition", "1/2", "--name", "second", cwd=tmp_path
    ).wait()
    assert second.code == 2
    assert "client 0 is hosted by node 'first' already" in second.err
    assert second.err.startswith("roundel: ")
    assert second.err.count("\n") == 1
    assert start("join", address, PLAIN, "--partition", "2/2", cwd=tmp_path).wait().code == 0
    assert serving.wait().code == first.wait().code == 0


@pytest.mark.parametrize(
    "experiment",
    [
        {"task": {"name": "birds:task"}},
        {"evaluation": {"metrics": ["birds:task"]}},
    ],
)
def test_code_that_the_coordinator_names_runs_only_if_the_operator_allows_it(
    monkeypatch, experiment
):
    def run_node(_joining, prepare, _say):
        prepare(json.dumps(experiment), None)

    monkeypatch.setattr(grpc_node, "run_node", run_node)
    refused = call("join", "127.0.0.1:1")
    assert refused.code == 2
    assert refused.err == (
        "roundel: the coordinator's experiment names 'birds:task', which would run code here; join "
        "with --allow birds:task if it is yours\n"
    )
    allowed = call("join", "127.0.0.1:1", "--allow", "birds:task")
    assert "there is no module 'birds'" in allowed.err


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--node-config", "a=1"], "--node-config a=1 is for the clients of a Flower app; name"),
        (["--flower", "app", "--data", "x.npz"], "--data is for an experiment, and --flower app"),
        (["--flower", "app", "--allow", "a:b"], "--allow is for an experiment, and --flower app"),
        (["--flower", "nowhere"], "cannot read nowhere/pyproject.toml: No such file or directory"),
        (["--flower", APP, "--node-config", "a"], "--node-config 'a' is not a setting; write"),
    ],
)
def test_options_of_apps_and_experiments_do_not_mix(options, sentence):
    ended = call("join", "127.0.0.1:1", PLAIN, *options)
    assert ended.code in (1, 2)
    assert sentence in ended.err
    assert ended.err.count("\n") == 1


def test_a_node_with_an_app_does_not_fit_an_ordinary_run(tmp_path):
    serving = start("serve", *SETTINGS, *HERE, "--out", "run", cwd=tmp_path)
    address = address_of(serving)
    ended = start("join", address, PLAIN, "--flower", APP, cwd=tmp_path).wait()
    assert ended.code == 2
    assert ended.err == (
        f"roundel: --flower {APP} has no place in this run, which is one of Roundel's own: join "
        f"with `roundel join {address}`\n"
    )
    serving.send(signal.SIGINT)
    serving.wait()
