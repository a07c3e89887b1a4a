"""`roundel join` hosts clients for a coordinator."""

import pytest

from roundel.client import grpc_node
from roundel.core.configfile import parse_experiment
from roundel.core.history import read_history
from tests.cli.test_serve import SETTINGS, address_of
from tests.commands import call, start


def test_each_node_says_what_it_hosts_and_why_it_left(tmp_path):
    serving = start("serve", *SETTINGS, "--listen", "127.0.0.1:0", "--out", "run", cwd=tmp_path)
    address = address_of(serving)
    nodes = [
        start("join", address, "--partition", f"{i}/2", "--name", f"shelf-{i}", cwd=tmp_path)
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


def test_a_coordinator_that_is_not_there_is_given_up_on(monkeypatch):
    monkeypatch.setattr(grpc_node, "JOIN_TIMEOUT_S", 0.3)
    ended = call("join", "127.0.0.1:1")
    assert ended.code == 1
    assert ended.err.startswith("roundel: the coordinator at 127.0.0.1:1 cannot be reached")
    assert ended.err.count("\n") == 1


def test_two_nodes_with_one_share_are_one_sentence_for_the_second(tmp_path):
    serving = start("serve", *SETTINGS, "--listen", "127.0.0.1:0", "--out", "run", cwd=tmp_path)
    address = address_of(serving)
    first = start("join", address, "--partition", "1/2", "--name", "first", cwd=tmp_path)
    first.wait_for("joined")
    second = start("join", address, "--partition", "1/2", "--name", "second", cwd=tmp_path).wait()
    assert second.code == 2
    assert "client 0 is hosted by node 'first' already" in second.err
    assert second.err.startswith("roundel: ")
    assert second.err.count("\n") == 1
    assert start("join", address, "--partition", "2/2", cwd=tmp_path).wait().code == 0
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
    def run_node(_address, _name, prepare, _say):
        prepare(parse_experiment(experiment))

    monkeypatch.setattr(grpc_node, "run_node", run_node)
    refused = call("join", "127.0.0.1:1")
    assert refused.code == 2
    assert refused.err == (
        "roundel: the coordinator's experiment names 'birds:task', which would run code here; join "
        "with --allow birds:task if it is yours\n"
    )
    allowed = call("join", "127.0.0.1:1", "--allow", "birds:task")
    assert "there is no module 'birds'" in allowed.err
