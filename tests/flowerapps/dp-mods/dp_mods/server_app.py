"""The ServerApp."""

import numpy as np
from flwr.app import ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import (
    DifferentialPrivacyClientSideAdaptiveClipping,
    DifferentialPrivacyClientSideFixedClipping,
    FedAvg,
)

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Average what was clipped, and add noise."""
    config = context.run_config
    np.random.seed(11)  # noqa: NPY002 - what draws from it is Flower's
    nodes = config["num-clients"]
    inner = FedAvg(fraction_evaluate=0.0, min_train_nodes=nodes, min_available_nodes=nodes)
    if config["adaptive"]:
        strategy = DifferentialPrivacyClientSideAdaptiveClipping(
            inner,
            noise_multiplier=config["noise-multiplier"],
            num_sampled_clients=nodes,
            initial_clipping_norm=config["clipping-norm"],
        )
    else:
        strategy = DifferentialPrivacyClientSideFixedClipping(
            inner,
            noise_multiplier=config["noise-multiplier"],
            clipping_norm=config["clipping-norm"],
            num_sampled_clients=nodes,
        )
    strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord([np.zeros((3, 2)), np.zeros(2)]),
        num_rounds=config["num-server-rounds"],
    )
