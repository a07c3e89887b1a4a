"""Connections that break are no trouble: a run ends with the bits of one whose did not."""

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from roundel.core.configfile import load_experiment
from roundel.simulations import deployed, simulate
from roundel.simulations.deployed import simulate_as_deployed
from tests import commands
from tests.proxy import CuttingProxy, cutting

NODES = 2
UPDATE = 19_240
"""About how many bytes one update has, and one broadcast."""


@pytest.fixture
def cut(monkeypatch, workplace) -> Callable[[Sequence[int]], list[CuttingProxy]]:
    """Return what puts a proxy with these budgets between the nodes and the coordinator."""
    commands.nodes_from_the_zygote(monkeypatch, deployed, workplace)
    start = deployed._node_processes

    def through(budgets: Sequence[int]) -> list[CuttingProxy]:
        proxies: list[CuttingProxy] = []

        @contextmanager
        def started(address: str, *rest: Any) -> Iterator[Callable[[], None]]:
            with cutting(address, budgets) as proxy:
                proxies.append(proxy)
                with start(proxy.address, *rest) as watch:
                    yield watch

        monkeypatch.setattr(deployed, "_node_processes", started)
        return proxies

    return through


@pytest.mark.parametrize(("strategy", "seed"), [("fedavg", 0), ("scaffold", 1)])
def test_cut_connections_change_no_bit_and_lose_no_state(
    tmp_path: Path, cut: Callable[[Sequence[int]], list[CuttingProxy]], strategy: str, seed: int
) -> None:
    experiment = load_experiment(
        None,
        [
            f"strategy.name={strategy}",
            "rounds=4",
            "partition.clients=8",
            "cohort.size=6",
            "client.epochs=1",
            "evaluation.clients=4",
            "evaluation.clients_every=2",
            "engine.executor=loop",
        ],
    )
    simulated = simulate(experiment, out=tmp_path / "simulated")
    dice = random.Random(seed)
    # The first connections live long enough for both nodes to join.
    budgets = [8_000] * NODES + [dice.randrange(2_000, 3 * UPDATE) for _ in range(12)]
    proxies = cut(budgets)
    ran = simulate_as_deployed(
        experiment, nodes=NODES, out=tmp_path / "deployed", on_round=lambda _report: None
    )
    assert ran.hashes == simulated.hashes
    assert ran.series("completed") == simulated.series("completed")
    assert ran.series("bytes_up") == simulated.series("bytes_up")
    assert proxies[0].cuts == len(budgets)
