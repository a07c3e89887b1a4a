"""An app over a coordinator and nodes, each a process of its own."""

from pathlib import Path

from tests.commands import Command, start
from tests.flowerapps.running import CLIENT, SERVER, write_app

HERE = ("--listen", "127.0.0.1:0", "--insecure")

SAMPLED = SERVER.replace(
    "fraction_evaluate=0.0", "fraction_evaluate=0.0, fraction_train=0.5, min_available_nodes=4"
)
"""A ServerApp that draws which clients it asks."""

REMEMBERING = CLIENT.replace(
    "    metrics = ",
    """    time.sleep(PACE)
    known = context.state["seen"]["count"] if "seen" in context.state else 0
    context.state["seen"] = MetricRecord({"count": known + 1})
    w = w + known + np.random.normal(size=3) + context.node_config["partition-id"]
    metrics = """,
).replace("import numpy as np", "import time\nimport numpy as np")
"""A ClientApp whose replies depend on what it was asked before, and on what it draws."""


def remembering(root: Path, *, pace_s: float = 0.0, server: str = SAMPLED) -> Path:
    """Write an app whose clients keep something."""
    client = REMEMBERING.replace("PACE", str(pace_s))
    return write_app(root, server=server, client=client)


def serving(here: Path, app: Path, *options: object) -> tuple[Command, str]:
    """Start a coordinator of four clients; return it and its address."""
    command = ("serve", "--flower", app, "--clients", 4, "--out", "run", *HERE, *options)
    return listening(start(*command, cwd=here))


def listening(coordinator: Command) -> tuple[Command, str]:
    """Wait until a coordinator listens; return it and its address."""
    return coordinator, coordinator.wait_for(r"listening on (\S+);")[1]


def joining(here: Path, address: str, share: str, app: Path, *options: object) -> Command:
    """Start a node."""
    name = share.replace("/", "of")
    how = ("--insecure", "--partition", share, "--name", name, "--state", here / name)
    return start("join", address, "--flower", app, *how, *options, cwd=here)
