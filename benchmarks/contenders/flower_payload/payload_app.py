"""The same for Flower: every node adds one to each parameter and sends the model back."""

import json
import time
from pathlib import Path

import numpy as np
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

TENSOR = 1_000_000

client = ClientApp()
server = ServerApp()


@client.train()
def train(message: Message, _context: Context) -> Message:
    """Add one to everything."""
    arrays = message.content.array_records["arrays"].to_numpy_ndarrays()
    reply = {
        "arrays": ArrayRecord([array + np.float32(1) for array in arrays]),
        "metrics": MetricRecord({"num-examples": 1}),
    }
    return Message(content=RecordDict(reply), reply_to=message)


@server.main()
def main(grid: Grid, context: Context) -> None:
    """Ask every node, round after round."""
    said = context.run_config
    numbers, nodes = int(said["numbers"]), int(said["nodes"])
    sizes = [min(TENSOR, numbers - start) for start in range(0, numbers, TENSOR)]
    ends_s: list[float] = []

    def note(_round: int, _arrays: ArrayRecord) -> None:
        ends_s.append(time.perf_counter())

    strategy = FedAvg(
        fraction_train=1.0,
        fraction_evaluate=0.0,
        min_train_nodes=nodes,
        min_available_nodes=nodes,
    )
    strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord([np.zeros(size, np.float32) for size in sizes]),
        num_rounds=int(said["rounds"]),
        evaluate_fn=note,
    )
    Path(str(said["ends"])).write_text(json.dumps(ends_s))
