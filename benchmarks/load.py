"""A coordinator under load: a thousand nodes, each with a connection of its own.

    python benchmarks/load.py
    python benchmarks/load.py --nodes 200 --rounds 5 --json

`roundel serve` runs in a process of its own. Its nodes are light: a few processes hold them all,
and instead of training each sends the same update back, as soon as it has read the broadcast. All
of them send heartbeats; one more node, in a process of its own, does nothing else, all the time,
and measures how long they wait for their answers. What else is measured: seconds a round, and
whether the coordinator's memory grows from round to round.
"""

import argparse
import asyncio
import json
import multiprocessing
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

import grpc
from federation import Failed, Processes, free_port, processes
from grpc import aio

from roundel.client.node import Node
from roundel.core.configfile import load_experiment
from roundel.core.messages import ClientUpdate, Ticket, TrainRequest
from roundel.core.wire import roundel_pb2 as pb
from roundel.core.wire import roundel_pb2_grpc as pb_grpc
from roundel.core.wire.convert import update_to_wire
from roundel.core.wire.limits import MESSAGE_LIMITS
from roundel.core.wire.payload import Packed, pack
from roundel.core.wire.versions import OURS
from roundel.simulations.deployed import share_of
from roundel.simulations.prepare import prepare

PROBE_EVERY_S = 0.02
BYTES = 4
LIMIT_S = 1_800.0
TASK = "contenders.payload:task"


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What every node sends back.

    Attributes:
        header: Without session and ticket.
        payload: The tensors.
        fingerprint: Of the experiment, as nodes report it.
    """

    header: bytes
    payload: bytes
    fingerprint: str


def answer_to(settings: Sequence[str]) -> Answer:
    """Train one client for real; what it sends is what all will send."""
    experiment = load_experiment(None, list(settings))
    simulation = prepare(experiment, load_test=False)
    hosted = share_of(simulation, 1, 1)
    learner = hosted.learner
    request = TrainRequest(
        ticket=Ticket(run="", round=1, client_id=0),
        base_version=0,
        params=learner.initial,
        integers=learner.initial_integers,
        channels={},
    )
    update, _ = Node(hosted).train(request)
    if not isinstance(update, ClientUpdate):
        raise Failed(f"the client that is to be copied failed: {update.error}")
    packed = pack(update.channels)
    described = pb.Payload(size=len(packed.data), digest=packed.digest)
    header = update_to_wire(replace(update, seconds=0.0), "", described)
    return Answer(
        header=header.SerializeToString(),
        payload=bytes(packed.data),
        fingerprint=hosted.fingerprint,
    )


class LightNode:
    """One node that sends what it is told to."""

    def __init__(self, address: str, client_id: int, population: int, answer: Answer) -> None:
        self._address = address
        self._client_id = client_id
        self._population = population
        self._answer = answer

    async def run(self) -> None:
        """Join, and work until the run is over."""
        options = [*MESSAGE_LIMITS, ("grpc.use_local_subchannel_pool", 1)]
        async with aio.insecure_channel(self._address, options=options) as channel:
            stub = pb_grpc.FederationStub(channel)
            joined = await stub.Join(
                pb.JoinRequest(
                    protocol=OURS.major, minor=OURS.minor, node=f"light-{self._client_id}"
                ),
                wait_for_ready=True,
            )
            hosting = await stub.Host(
                pb.HostRequest(
                    session=joined.session,
                    client_ids=[self._client_id],
                    population=self._population,
                    fingerprint=self._answer.fingerprint,
                )
            )
            beats = asyncio.create_task(self._beat(stub, joined.session, hosting.heartbeat_s))
            try:
                await self._work(stub, joined.session)
            finally:
                beats.cancel()

    async def _work(self, stub: pb_grpc.FederationStub, session: str) -> None:
        taken = 0
        while True:
            work = await stub.Poll(pb.PollRequest(session=session, taken=taken))
            taken = max(taken, work.number)
            match work.WhichOneof("kind"):
                case "train":
                    await self._train(stub, session, work.train)
                case "over":
                    return
                case _:
                    pass

    async def _train(self, stub: pb_grpc.FederationStub, session: str, work: pb.Train) -> None:
        request = pb.DownloadRequest(session=session, digest=work.payload.digest)
        received = 0
        async for chunk in stub.Download(request):
            received += len(chunk.data)
        if received != work.payload.size:
            raise Failed(f"{received} of {work.payload.size} bytes of a broadcast came")
        header = pb.UpdateHeader.FromString(self._answer.header)
        header.session = session
        header.ticket.CopyFrom(work.ticket)
        header.base_version = work.base_version
        verdict = await stub.Upload(_parts(header, self._answer.payload))
        if not verdict.accepted:
            raise Failed(f"an update was refused: {verdict.reason}")

    async def _beat(self, stub: pb_grpc.FederationStub, session: str, every_s: float) -> None:
        await asyncio.sleep(every_s * (self._client_id % 97) / 97)
        with suppress(grpc.RpcError):
            while True:
                await stub.Beat(pb.BeatRequest(session=session))
                await asyncio.sleep(every_s)


def _parts(header: pb.UpdateHeader, payload: bytes) -> Iterator[pb.UploadPart]:
    yield pb.UploadPart(header=header)
    for chunk in Packed((memoryview(payload),), b"").chunks():
        yield pb.UploadPart(data=chunk)


def _light_nodes(address: str, clients: Sequence[int], population: int, answer: Answer) -> None:
    """Run some of the nodes in this process."""

    async def run_all() -> None:
        nodes = [LightNode(address, client, population, answer) for client in clients]
        async with asyncio.TaskGroup() as group:
            for node in nodes:
                group.create_task(node.run())

    asyncio.run(run_all())


def _probe(address: str, waits_s: "Connection[list[float], None]") -> None:
    """Send heartbeats until the run is over; hand over how long each waited for its answer."""
    waited_s: list[float] = []
    with grpc.insecure_channel(address) as channel, suppress(grpc.RpcError):
        stub = pb_grpc.FederationStub(channel)
        joined = stub.Join(
            pb.JoinRequest(protocol=OURS.major, minor=OURS.minor, node="probe"),
            wait_for_ready=True,
        )
        while True:
            began_s = time.perf_counter()
            stub.Beat(pb.BeatRequest(session=joined.session))
            waited_s.append(time.perf_counter() - began_s)
            time.sleep(PROBE_EVERY_S)
    waits_s.send(waited_s)


def measure(nodes: int, rounds: int, numbers: int, light: int) -> dict[str, Any]:
    """Run one coordinator with so many nodes; return what was measured.

    Args:
        nodes: How many.
        rounds: How many.
        numbers: Parameters of the model.
        light: Processes that hold the nodes.
    """
    settings = [
        f"task.name={TASK}",
        f"task.numbers={numbers}",
        f"rounds={rounds}",
        f"partition.clients={nodes}",
        f"cohort.size={nodes}",
        f"cohort.quorum={nodes}",
        "evaluation.clients=0",
    ]
    answer = answer_to(settings)
    with processes() as (folder, running):
        address = f"127.0.0.1:{free_port()}"
        coordinator = running.start(
            "coordinator",
            *(sys.executable, "-m", "roundel.cli", "serve", "--insecure"),
            *(f"-s{setting}" for setting in settings),
            *(f"--listen={address}", "--out", folder / "run"),
        )
        spawning = multiprocessing.get_context("spawn")
        for first in range(light):
            share = (address, range(first, nodes, light), nodes, answer)
            spawning.Process(target=_light_nodes, args=share, daemon=True).start()
        waits_s, told = spawning.Pipe(duplex=False)
        spawning.Process(target=_probe, args=(address, told), daemon=True).start()
        memory_mb = _watch(running, coordinator.pid, folder / "run" / "metrics.jsonl", rounds)
        lines = (folder / "run" / "metrics.jsonl").read_text().splitlines()
        seconds = [json.loads(line)["seconds"] for line in lines]
        waited_s = sorted(waits_s.recv())
    early = min(5, rounds)
    return {
        "nodes": nodes,
        "model_kb": round(numbers * BYTES / 1e3, 1),
        "rounds": len(seconds),
        "seconds_per_round": round(median(seconds), 3),
        "slowest_round_s": round(max(seconds), 3),
        "heartbeats": len(waited_s),
        "heartbeat_p50_ms": round(1e3 * waited_s[len(waited_s) // 2], 1),
        "heartbeat_p99_ms": round(1e3 * waited_s[int(len(waited_s) * 0.99)], 1),
        "coordinator_rss_mb_early": round(memory_mb[early - 1], 1),
        "coordinator_rss_mb_end": round(memory_mb[-1], 1),
    }


def _watch(running: Processes, pid: int, metrics: Path, rounds: int) -> list[float]:
    """Return the coordinator's resident memory in megabytes at the end of each round."""
    memory_mb: list[float] = []
    limit_s = time.monotonic() + LIMIT_S
    while len(memory_mb) < rounds:
        running.check()
        done = metrics.read_bytes().count(b"\n") if metrics.is_file() else 0
        memory_mb += [_resident_mb(pid)] * (done - len(memory_mb))
        if time.monotonic() > limit_s:
            raise Failed(f"{done} rounds in {LIMIT_S:g} s: {running.last_words()}")
        time.sleep(0.05)
    return memory_mb


def _resident_mb(pid: int) -> float:
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024 / 1e6
    return 0.0


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--nodes", type=int, default=1_000)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--kilobytes", type=float, default=100.0, help="size of the model")
    parser.add_argument("--processes", type=int, default=2, help="that hold the nodes")
    parser.add_argument("--json", action="store_true", help="print one object")
    said = parser.parse_args()
    numbers = max(1, round(said.kilobytes * 1e3 / BYTES))
    try:
        row = measure(said.nodes, said.rounds, numbers, said.processes)
    except Failed as failed:
        sys.exit(str(failed))
    print(json.dumps(row) if said.json else "\n".join(f"{k:<26}{v:>10}" for k, v in row.items()))


if __name__ == "__main__":
    main()
