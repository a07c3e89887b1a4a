"""`roundel serve` coordinates an experiment over nodes that dial in."""

import json
import socket

import pytest

from roundel.core.history import read_history
from tests.commands import TINY, Command, call, start

SETTINGS = (*TINY, "-s", "rounds=2", "-s", "engine.executor=loop")


def address_of(coordinator: Command) -> str:
    """The address that a coordinator prints once it listens."""
    return coordinator.wait_for(r"listening on (\S+);")[1]


def test_rounds_run_once_every_client_is_hosted_and_end_as_the_simulation_does(tmp_path):
    call("simulate", *SETTINGS, "--out", tmp_path / "simulated")
    serving = start(
        "serve", *SETTINGS, "--listen", "127.0.0.1:0", "--out", "run", "--json", cwd=tmp_path
    )
    address = address_of(serving)
    node = start("join", address, cwd=tmp_path)
    ended = serving.wait()
    assert ended.code == node.wait().code == 0
    assert [json.loads(line)["round"] for line in ended.out.splitlines()] == [1, 2]
    assert f"join with: roundel join {address}" in ended.err
    assert ended.err.endswith("results are in run\n")
    assert read_history(tmp_path / "run").hashes == read_history(tmp_path / "simulated").hashes


@pytest.mark.parametrize("address", ["0.0.0.0:8470", "192.0.2.1:8470", "localhost", "8470"])
def test_only_loopback_addresses_are_listened_on(address, tmp_path):
    ended = call("serve", *SETTINGS, "--listen", address, "--out", tmp_path / "run")
    assert ended.code == 2
    assert ended.err.startswith(f"roundel: --listen {address} is not a loopback address")
    assert ended.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_an_address_that_is_taken_is_one_sentence_and_leaves_no_run(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        serving = start("serve", *SETTINGS, "--listen", address, "--out", "run", cwd=tmp_path)
        ended = serving.wait()
    assert ended.code == 2
    assert ended.err.endswith(
        f"roundel: cannot listen on {address}: choose a free address with --listen\n"
    )
    assert not (tmp_path / "run").exists()
