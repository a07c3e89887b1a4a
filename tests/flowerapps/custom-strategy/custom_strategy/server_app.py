"""The ServerApp."""

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context
from flwr.serverapp import Grid, ServerApp

from custom_strategy.strategy import MomentumAvg

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Train with momentum."""
    strategy = MomentumAvg(
        fraction_train=context.run_config["fraction-train"],
        min_train_nodes=context.run_config["min-nodes"],
        min_evaluate_nodes=context.run_config["min-nodes"],
        min_available_nodes=context.run_config["min-nodes"],
        server_lr=context.run_config["server-lr"],
    )
    strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord([np.zeros(3)]),
        num_rounds=context.run_config["num-server-rounds"],
        train_config=ConfigRecord({"lr": 0.2}),
    )
