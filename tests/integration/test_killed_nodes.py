"""Nodes and coordinators may be killed at any moment: a run ends with the same bits."""

import signal
import time
from pathlib import Path

import pytest

from roundel.core.history import read_history
from tests.cli.test_serve import HERE, address_of
from tests.commands import Command, call, start

SETTINGS = [
    part
    for setting in (
        "rounds=6",
        "partition.clients=6",
        "cohort.size=4",
        "cohort.quorum=4",
        "client.epochs=1",
        "evaluation.clients=3",
        "evaluation.clients_every=2",
        "engine.executor=loop",
    )
    for part in ("-s", setting)
]

MOMENTS = {
    "a state is written, its update is not": "runs/*/client-*.pending",
    "an update is written, and on its way": "runs/*/client-*.update",
    "a state is committed": "runs/*/client-*-[2-9].state",
    "a state is being written": "runs/*/.client-*.pending.*.partial",
}


class Seen(Exception):
    """The coordinator has ended before what was waited for came."""


def wait_for_file(directory: Path, pattern: str, serving: Command) -> None:
    looks = 0
    while not next(directory.glob(pattern), None):
        looks += 1
        if looks % 100 == 0 and serving.poll() is not None:
            raise Seen
        time.sleep(0.0002)


@pytest.mark.parametrize("strategy", ["fedavg", "scaffold"])
def test_killing_a_node_changes_no_bit_and_loses_no_state(tmp_path, strategy):
    settings = [*SETTINGS, "-s", f"strategy.name={strategy}"]
    call("simulate", *settings, "--out", tmp_path / "simulated")
    listen = ("--listen", "127.0.0.1:0", "--insecure")
    serving = start("serve", *settings, *listen, "--out", "run", cwd=tmp_path)
    address = address_of(serving)

    def node(share: int) -> Command:
        state = tmp_path / f"node-{share}"
        how = ("--insecure", "--name", f"node-{share}", "--state", state)
        return start("join", address, "--partition", f"{share}/2", *how, cwd=tmp_path)

    staying, killed, kills = node(1), node(2), 0
    for moment in MOMENTS.values():
        if strategy == "fedavg" and "update" not in moment:
            continue
        try:
            wait_for_file(tmp_path / "node-2", moment, serving)
        except Seen:
            break
        killed.send(signal.SIGKILL)
        killed.wait()
        kills += 1
        killed = node(2)
    assert serving.wait().code == 0
    assert staying.wait().code == killed.wait().code == 0
    assert kills >= (1 if strategy == "fedavg" else 2)
    assert read_history(tmp_path / "run").hashes == read_history(tmp_path / "simulated").hashes


def test_nodes_stay_while_their_coordinator_is_killed_and_started_again(tmp_path):
    settings = [*SETTINGS, "-s", "strategy.name=scaffold"]
    call("simulate", *settings, "--out", tmp_path / "simulated")
    serving = start("serve", *settings, *HERE, "--out", "run", cwd=tmp_path)
    address = address_of(serving)
    nodes = [
        start("join", address, "--insecure", "--partition", f"{i}/2", cwd=tmp_path) for i in (1, 2)
    ]
    for number in (2, 4):
        nodes[0].wait_for(f"round {number}: ")
        serving.send(signal.SIGKILL)
        serving.wait()
        again = ("--resume", "run", "--listen", address, "--insecure")
        serving = start("serve", *again, cwd=tmp_path)
    assert serving.wait().code == 0
    ended = [node.wait() for node in nodes]
    assert [node.code for node in ended] == [0, 0]
    for node in ended:
        assert node.out.count("does not know this node, or no longer: joining again") == 2
    assert read_history(tmp_path / "run").hashes == read_history(tmp_path / "simulated").hashes
