"""The ServerApp."""

import time

import numpy as np
from flwr.app import ArrayRecord, Context, Message, MessageType, MetricRecord, RecordDict
from flwr.common.logger import log
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Ask all who they are, then train."""
    min_nodes = context.run_config["min-nodes"]
    while len(nodes := list(grid.get_node_ids())) < min_nodes:
        time.sleep(0.1)
    asked = [
        Message(content=RecordDict(), message_type=MessageType.QUERY, dst_node_id=node)
        for node in nodes
    ]
    replies = list(grid.send_and_receive(asked))
    log(20, "partitions: %s", sorted(r.content["config"]["partition"] for r in replies))

    def evaluate_fn(server_round: int, arrays: ArrayRecord):
        (w,) = arrays.to_numpy_ndarrays()
        return MetricRecord({"distance": float(np.abs(w - np.arange(5.0)).sum())})

    strategy = FedAvg(fraction_train=context.run_config["fraction-train"])
    strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord([np.zeros(5)]),
        num_rounds=context.run_config["num-server-rounds"],
        evaluate_fn=evaluate_fn,
    )
