"""Run an app on Flower's own simulation engine, and write its final arrays by name.

    python on_flower.py APP CLIENTS FINAL.npz

Everything is Flower's. Where there is no Ray, which does nothing but call the ClientApp in another
process, the call is made in this one.
"""

import sys
from copy import deepcopy
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, Context, RecordDict
from flwr.clientapp.client_app import ClientAppException
from flwr.common.config import get_fused_config_from_dir, get_project_config
from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.server import Server
from flwr.server.superlink.fleet.vce.backend import Backend
from flwr.serverapp.strategy import Result
from flwr.simulation.run_simulation import _run_simulation
from flwr.supercore.constant import NOOP_FEDERATION_ID
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity
from flwr.supercore.telemetry import EventType

RUN = TASK = 1


class PlainBackend(Backend):
    """Calls the ClientApp with copies of its own, one message after another."""

    @property
    def num_workers(self):
        """How many messages are answered at the same time."""
        return 1

    def build(self, app_fn):
        """Load the app."""
        self.app = app_fn()

    def is_worker_idle(self):
        """Say that there is always somebody."""
        return True

    def terminate(self):
        """Leave nothing behind."""

    def process_message(self, message, context):
        """Answer a message."""
        message, context = deepcopy((message, context))
        try:
            return self.app(message, context), context
        except Exception as error:
            raise ClientAppException(str(error)) from error


def noted(kind):
    """Note all instances of a class."""
    made, before = [], kind.__init__

    def init(self, *args, **kwargs):
        before(self, *args, **kwargs)
        made.append(self)

    kind.__init__ = init
    return made


def main(directory, clients, out):
    """Run the app, and write its final arrays."""
    root = Path(directory).resolve()
    parts = get_project_config(root)["tool"]["flwr"]["app"]["components"]
    if not find_spec("ray"):
        plain = ModuleType("flwr.server.superlink.fleet.vce.backend.raybackend")
        vars(plain)["RayBackend"] = PlainBackend
        sys.modules[plain.__name__] = plain
    results, servers = noted(Result), noted(Server)
    run = Run.create_empty(RUN)
    run.primary_task_id, run.federation_id = TASK, NOOP_FEDERATION_ID
    TaskIdentity.task_id, TaskIdentity.run_id = TASK, RUN
    TaskIdentity.node_id = SUPERLINK_NODE_ID
    context = Context(RUN, SUPERLINK_NODE_ID, {}, RecordDict(), get_fused_config_from_dir(root, {}))
    done = _run_simulation(
        num_supernodes=int(clients),
        exit_event=EventType.PYTHON_API_RUN_SIMULATION_LEAVE,
        client_app_attr=parts["clientapp"],
        server_app_attr=parts["serverapp"],
        server_app_context=context,
        backend_name="ray" if find_spec("ray") else "plain",
        backend_config={"client_resources": {"num_cpus": 1, "num_gpus": 0}},
        app_dir=str(root),
        run=run,
        is_app=True,
    )
    arrays: Any = final(results, servers, done.context)
    np.savez(out, **arrays)


def final(results, servers, context):
    """Return what the app ended with."""
    for result in reversed(results):
        if result.arrays:
            return {name: array.numpy() for name, array in result.arrays.items()}
    for server in servers:
        if server.parameters.tensors:
            record = ArrayRecord([np.zeros(0)])
            array = record["0"]
            found = {}
            for place, data in enumerate(server.parameters.tensors):
                array.data = data
                found[str(place)] = array.numpy()
            return found
    (record,) = context.state.array_records.values()
    return {name: array.numpy() for name, array in record.items()}


if __name__ == "__main__":
    main(*sys.argv[1:])
