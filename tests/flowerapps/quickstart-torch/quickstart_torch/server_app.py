"""The ServerApp."""

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from quickstart_torch.task import Net

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Train by federated averaging."""
    torch.manual_seed(3)
    arrays = ArrayRecord(Net(context.run_config["model.hidden"]).state_dict())
    strategy = FedAvg(
        fraction_train=context.run_config["fraction-train"],
        min_train_nodes=context.run_config["min-nodes"],
        min_evaluate_nodes=context.run_config["min-nodes"],
        min_available_nodes=context.run_config["min-nodes"],
    )
    strategy.start(
        grid=grid,
        initial_arrays=arrays,
        train_config=ConfigRecord({"lr": context.run_config["learning-rate"]}),
        num_rounds=context.run_config["num-server-rounds"],
    )
