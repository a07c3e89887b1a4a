"""The ServerApp."""

import numpy as np
from flwr.common import Context, ndarrays_to_parameters
from flwr.server import ServerApp, ServerAppComponents, ServerConfig
from flwr.server.strategy import FedAvg


def weighted_average(metrics):
    """Return the mean of what clients measured."""
    total = sum(n for n, _ in metrics)
    return {"rmse": sum(n * m["rmse"] for n, m in metrics) / total}


def server_fn(context: Context):
    """Make what runs the rounds."""
    start = [np.zeros(5, dtype=np.float32), np.zeros(1, dtype=np.float32)]
    strategy = FedAvg(
        fraction_fit=context.run_config["fraction-fit"],
        fraction_evaluate=1.0,
        min_fit_clients=context.run_config["min-clients"],
        min_available_clients=context.run_config["min-clients"],
        initial_parameters=ndarrays_to_parameters(start),
        on_fit_config_fn=lambda server_round: {"lr": 0.1 / server_round},
        evaluate_metrics_aggregation_fn=weighted_average,
    )
    config = ServerConfig(num_rounds=context.run_config["num-server-rounds"])
    return ServerAppComponents(strategy=strategy, config=config)


app = ServerApp(server_fn=server_fn)
