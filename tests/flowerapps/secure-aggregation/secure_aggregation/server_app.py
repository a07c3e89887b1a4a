"""The ServerApp."""

import numpy as np
from flwr.common import Context, ndarrays_to_parameters
from flwr.server import Grid, LegacyContext, ServerApp, ServerConfig
from flwr.server.strategy import FedAvg
from flwr.server.workflow import DefaultWorkflow, SecAggPlusWorkflow

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the workflow with secure aggregation for the fit rounds."""
    config = context.run_config
    strategy = FedAvg(
        fraction_fit=1.0,
        fraction_evaluate=0.0,
        min_fit_clients=4,
        min_available_clients=4,
        initial_parameters=ndarrays_to_parameters([np.zeros((2, 3))]),
    )
    context = LegacyContext(
        context=context,
        config=ServerConfig(num_rounds=config["num-server-rounds"]),
        strategy=strategy,
    )
    workflow = SecAggPlusWorkflow(
        num_shares=config["num-shares"],
        reconstruction_threshold=config["reconstruction-threshold"],
        clipping_range=config["clipping-range"],
        max_weight=10.0,
    )
    DefaultWorkflow(fit_workflow=workflow)(grid, context)
