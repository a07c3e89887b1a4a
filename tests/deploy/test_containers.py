"""A federation of containers ends as its simulation does, whatever befalls them on the way."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.deploy.containers import Container, Network

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

EXPERIMENT = """\
name = "containers"
rounds = 30  # some go by before all has befallen them

[strategy]
name = "scaffold"  # its clients keep states, which must not get lost

[partition]
clients = 12

[cohort]
size = 6
quorum = 6

[client]
epochs = 20  # so that a round takes long enough to be disturbed

[evaluation]
clients = 0

[engine]
executor = "loop"
"""
ROUND_OVER = r"\nround \d+/\d+  accuracy"
RUN = "/var/lib/roundel/runs/test"


def hashes(metrics: str) -> list[str]:
    """The hash of the parameters after each round."""
    return [json.loads(line)["params_sha256"] for line in metrics.splitlines()]


class Federation:
    """A coordinator and its nodes, each in a container."""

    def __init__(self, containers: Network, experiment: Path) -> None:
        self._containers = containers
        self._experiment = {experiment: "/etc/roundel/experiment.toml"}
        self.coordinator = containers.start(
            "coordinator",
            *("runs/test", "/etc/roundel/experiment.toml"),
            *("--listen=0.0.0.0:8470", "--token-file=/run/roundel/token"),
            entrypoint="serve-or-resume",
            volumes={"coordinator": "/var/lib/roundel", "tokens": "/run/roundel"},
            files=self._experiment,
        )
        self.coordinator.wait_for("listening on")
        early = [self._node(number) for number in (1, 2)]
        for container in (self.coordinator, *early):
            container.wait_until_healthy()
        self.nodes = [*early, self._node(3)]  # with the last one the rounds begin

    def _node(self, number: int) -> Container:
        return self._containers.start(
            f"node-{number}",
            *("join", "coordinator:8470", "--token=@/run/roundel/token"),
            f"--partition={number}/3",
            volumes={f"node-{number}": "/var/lib/roundel", "tokens": "/run/roundel"},
        )

    def simulated(self) -> list[str]:
        """The hashes of the run that nobody disturbs, on the same image."""
        ran = self._containers.run(
            *("simulate", "--json", "/etc/roundel/experiment.toml"), files=self._experiment
        )
        return hashes(ran)

    @contextmanager
    def between_rounds(self) -> Iterator[None]:
        """Wait until one more round is over; then, after the block, until another one is."""
        coordinator = self.coordinator
        coordinator.wait_for(ROUND_OVER, after=len(coordinator.log))
        yield
        coordinator.wait_for(ROUND_OVER, after=len(coordinator.log))


def test_a_federation_of_containers_survives_what_befalls_it(containers, tmp_path):
    experiment = tmp_path / "experiment.toml"
    experiment.write_text(EXPERIMENT)
    federation = Federation(containers, experiment)
    killed, paused, cut = federation.nodes
    with federation.between_rounds():
        killed.do("kill")
        killed.do("start")
    with federation.between_rounds():
        paused.pause()
        federation.coordinator.wait_for(r"waits for 'node-2")
        paused.do("unpause")
    with federation.between_rounds():
        containers.cut(cut)
        time.sleep(5.0)
        containers.mend(cut)
    with federation.between_rounds():
        federation.coordinator.do("kill")
        federation.coordinator.do("start")
    everyone = (federation.coordinator, *federation.nodes)
    assert [container.wait() for container in everyone] == [0, 0, 0, 0]
    recorded = containers.read("coordinator", f"{RUN}/metrics.jsonl")
    assert hashes(recorded) == federation.simulated()
