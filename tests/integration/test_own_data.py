"""Nodes that bring their own examples end where a simulation of the same clients ends."""

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from roundel.core.config import PartitionConfig
from roundel.core.history import History, read_history
from roundel.core.wire import roundel_pb2 as pb
from roundel.server import grpc_coordinator
from roundel.server.arrivals import Terms
from roundel.server.grpc_coordinator import Coordinator
from roundel.server.store import Store
from roundel.simulations import simulate
from roundel.simulations.partitions import own_partition
from roundel.simulations.partitions.archive import save_partition
from roundel.simulations.partitions.labels import targets_sha256
from roundel.simulations.tasks.tabular import tabular
from tests.cli.test_serve import address_of
from tests.commands import Command, Ended, start
from tests.server.fake_node import TIMEOUT_S, FakeNode, dialling, refusal
from tests.server.toys import FakeClock

SIZES = {"north": 40, "south": 23, "west": 31}
RUN = (
    "rounds=3",
    "strategy.name=scaffold",
    "cohort.size=2",
    "client.epochs=1",
    "client.batch_size=8",
    "evaluation.clients_every=1",
    "evaluation.min_examples=1",
    "engine.executor=loop",
)
TABLE = (
    "task.name=tabular",
    'task.features=["x0", "x1"]',
    "task.classes=[0, 1]",
    "task.standardize=false",
)
OWN = (*RUN, *TABLE, "partition.kind=own", "partition.clients=3", "partition.test=0.2")


TERMS = Terms(
    run="r", experiment="{}", population=2, fingerprint="f", update_limit=1000, own_data=True
)


def saved(here: Path) -> list[Path]:
    """Each node's file."""
    generator = np.random.default_rng(0)
    paths = [here / f"{name}.npz" for name in SIZES]
    for path, rows in zip(paths, SIZES.values(), strict=True):
        x = generator.normal(size=(rows, 2))
        np.savez(path, x=x, y=(x.sum(axis=1) > 0).astype(int))
    return paths


def simulated(here: Path, files: Sequence[Path]) -> History:
    """The same clients in one pool."""
    parts = [np.load(file) for file in files]
    pool, division = here / "pool.npz", here / "division.npz"
    x, y = (np.concatenate([part[key] for part in parts]) for key in ("x", "y"))
    np.savez(pool, x=x, y=y)
    examples = tabular(path=pool, standardize=False, test=0).load
    assert examples is not None
    partition = own_partition(list(SIZES.values()), PartitionConfig(test=0.2), seed=0)
    save_partition(partition, targets_sha256(examples(pool).targets), division)
    there = (f"task.path={pool}", "task.test=0", "partition.kind=file")
    return simulate(
        settings=(*RUN, *TABLE, *there, f"partition.path={division}"), out=here / "simulated"
    )


def serving(here: Path, *settings: str) -> tuple[Command, str]:
    said = [part for setting in settings for part in ("-s", setting)]
    listen = ("--listen", "127.0.0.1:0", "--insecure")
    coordinator = start("serve", *said, *listen, "--out", "run", cwd=here)
    return coordinator, address_of(coordinator)


def joining(here: Path, address: str, name: str, *options: object) -> Command:
    how = ("--insecure", "--name", name, "--state", here / name)
    return start("join", address, *how, *options, cwd=here)


def refused(node: Command) -> str:
    """The one sentence that a node ends with."""
    ended: Ended = node.wait()
    assert ended.code == 2
    assert ended.err.count("\n") == 1
    return ended.err.removeprefix("roundel: ").rstrip()


def test_a_federation_of_nodes_with_their_own_examples_equals_its_simulation(tmp_path):
    files = saved(tmp_path)
    coordinator, address = serving(tmp_path, *OWN)
    nodes = []
    for file in files:  # one after the other, so that their numbers are known
        nodes.append(joining(tmp_path, address, file.stem, "--data", file))
        nodes[-1].wait_for("joined")
    assert coordinator.wait().code == 0
    for node in nodes:
        ended = node.wait()
        assert (ended.code, ended.err) == (0, "")
    run, alone = read_history(tmp_path / "run"), simulated(tmp_path, files)
    assert run.hashes == alone.hashes
    assert len(set(run.hashes)) == 3
    for round, same in zip(run.rounds, alone.rounds, strict=True):
        assert round["clients"] == same["clients"]
        assert round["train_loss"] == same["train_loss"]
    assert not (tmp_path / "run" / "partition.npz").exists()


def test_a_node_that_cannot_take_part_is_told_why_in_one_sentence(tmp_path):
    north, *_ = saved(tmp_path)
    coordinator, address = serving(tmp_path, *OWN[:-2], "partition.clients=2")
    np.savez(tmp_path / "other.npz", x=np.zeros((9, 2)), y=np.arange(9))
    first = joining(tmp_path, address, "north", "--data", north)
    first.wait_for("joined")
    without = joining(tmp_path, address, "without")
    strange = joining(tmp_path, address, "strange", "--data", tmp_path / "other.npz")
    assert refused(without) == (
        "in this run every node brings its own examples (partition.kind = 'own'); join with "
        "--data PATH"
    )
    assert "has the class '2', which is not in task.classes" in refused(strange)
    assert joining(tmp_path, address, "south", "--data", tmp_path / "south.npz").wait().code == 0
    assert coordinator.wait().code == first.wait().code == 0


def test_a_run_that_divides_its_examples_takes_none_from_nodes(tmp_path):
    saved(tmp_path)
    coordinator, address = serving(tmp_path, "rounds=1", "evaluation.clients=0", "client.steps=1")
    node = joining(tmp_path, address, "north", "--data", tmp_path / "north.npz")
    assert refused(node).startswith(f"--data {tmp_path}/north.npz has no place in this run, whose ")
    assert joining(tmp_path, address, "all").wait().code == 0
    assert coordinator.wait().code == 0


# ---- numbers of nodes


@contextmanager
def coordinating(here: Path) -> Iterator[str]:
    """A coordinator's address; what it was told is there for the next one."""
    store = Store.open(here, 1000)
    with closing(store), Coordinator(TERMS, "127.0.0.1:0", FakeClock(), store=store) as running:
        yield running.address


def request_of(node: FakeNode, **how: Any) -> pb.HostRequest:
    return pb.HostRequest(
        **{"session": node.session, "population": 2, "fingerprint": "f", "own_data": True, **how}
    )


def number_of(address: str, name: str) -> int:
    """The client that a node of this name is told to be."""
    with dialling(address) as node:
        node.join(name)
        reply: pb.HostReply = node.stub.Host(request_of(node), timeout=TIMEOUT_S)
        return reply.client_id


def test_a_name_keeps_its_number_after_both_sides_were_started_anew(tmp_path, monkeypatch):
    monkeypatch.setattr(grpc_coordinator, "FAREWELL_S", 0.0)
    with coordinating(tmp_path) as address:
        assert [number_of(address, name) for name in ("north", "south", "north")] == [0, 1, 0]
    with coordinating(tmp_path) as address:
        assert [number_of(address, name) for name in ("south", "north")] == [1, 0]
        code, said = refusal(lambda: number_of(address, "west"))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert said.startswith("node 'west' brings examples of its own, and each of the 2 clients has ")


def test_a_node_cannot_choose_its_number(tmp_path, monkeypatch):
    monkeypatch.setattr(grpc_coordinator, "FAREWELL_S", 0.0)
    with coordinating(tmp_path) as address, dialling(address) as node:
        node.join("north")
        wanted = request_of(node, own_data=False, client_ids=[1])
        code, said = refusal(lambda: node.stub.Host(wanted, timeout=TIMEOUT_S))
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert said.endswith("in this run every node brings its own examples; join with --data")
        both = request_of(node, client_ids=[1])
        assert node.stub.Host(both, timeout=TIMEOUT_S).client_id == 0
