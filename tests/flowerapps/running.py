"""Run the apps of this folder, and ones that a test writes down in a line or two."""

from pathlib import Path
from textwrap import dedent

from safetensors.numpy import load_file

from roundel.simulations.flowerapps.project import read_project
from roundel.simulations.flowerapps.run import Plan, View, run_app

APPS = Path(__file__).parent
NAMES = (
    "quickstart-torch",
    "quickstart-numpy",
    "legacy-numpy",
    "dp-mods",
    "secure-aggregation",
    "custom-strategy",
)

_PROJECT = """
[project]
name = "{name}"
version = "1.0.0"

[tool.flwr.app]
publisher = "roundel"

[tool.flwr.app.components]
serverapp = "server_app:app"
clientapp = "client_app:app"

[tool.flwr.app.config]
num-server-rounds = 2
"""

SERVER = """
import numpy as np
from flwr.app import ArrayRecord
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg

app = ServerApp()

@app.main()
def main(grid, context):
    FedAvg(fraction_evaluate=0.0).start(
        grid=grid,
        initial_arrays=ArrayRecord([np.zeros(3)]),
        num_rounds=context.run_config["num-server-rounds"],
    )
"""

CLIENT = """
import numpy as np
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

def train(msg, context):
    (w,) = msg.content["arrays"].to_numpy_ndarrays()
    metrics = MetricRecord({"num-examples": 1})
    content = RecordDict({"arrays": ArrayRecord([w + 1]), "metrics": metrics})
    return Message(content, reply_to=msg)

app = ClientApp()
app.train()(train)
"""


def write_app(root: Path, *, server: str = SERVER, client: str = CLIENT) -> Path:
    """Write an app of two modules."""
    root.mkdir(parents=True)
    (root / "pyproject.toml").write_text(_PROJECT.format(name=root.name))
    (root / "server_app.py").write_text(dedent(server).lstrip())
    (root / "client_app.py").write_text(dedent(client).lstrip())
    return root


def noting():
    """Return a view, and the lines and warnings that it is given."""
    lines, warnings = [], []
    return View(show=lines.append, warn=warnings.append), lines, warnings


def run(root, out, settings=(), *, clients=4, workers=1, seed=1, view=None):
    """Run an app; return what came out."""
    plan = Plan(
        project=read_project(root, settings),
        clients=clients,
        workers=workers,
        seed=seed,
        out=out,
    )
    return run_app(plan, view or View(show=lambda line: None, warn=lambda text: None))


def arrays(out):
    """Return the final arrays of a run."""
    return load_file(out / "model.safetensors")
