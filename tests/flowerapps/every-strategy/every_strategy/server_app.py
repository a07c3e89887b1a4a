"""The ServerApp."""

import numpy as np
from flwr.app import ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp import strategy as strategies
from flwr.serverapp.strategy import Result

app = ServerApp()


def every(nodes: int):
    """Return all strategies that average arrays of any kind, by name."""
    enough = {
        "min_train_nodes": nodes,
        "min_evaluate_nodes": nodes,
        "min_available_nodes": nodes,
    }
    plain = ["FedAvg", "FedMedian", "FedTrimmedAvg", "FedAvgM"]
    plain += ["FedAdagrad", "FedAdam", "FedYogi"]
    made = {name: getattr(strategies, name)(**enough) for name in plain}
    made["FedProx"] = strategies.FedProx(proximal_mu=0.1, **enough)
    made["QFedAvg"] = strategies.QFedAvg(client_learning_rate=0.1, q=0.2, **enough)
    made["Krum"] = strategies.Krum(num_malicious_nodes=1, **enough)
    made["MultiKrum"] = strategies.MultiKrum(num_malicious_nodes=1, num_nodes_to_select=3, **enough)
    made["Bulyan"] = strategies.Bulyan(num_malicious_nodes=1, **enough)
    made["DpFixed"] = strategies.DifferentialPrivacyServerSideFixedClipping(
        strategies.FedAvg(**enough),
        noise_multiplier=0.1,
        clipping_norm=0.7,
        num_sampled_clients=nodes,
    )
    made["DpAdaptive"] = strategies.DifferentialPrivacyServerSideAdaptiveClipping(
        strategies.FedAvg(**enough), noise_multiplier=0.3, num_sampled_clients=nodes
    )
    return made


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run all strategies from the same start; show what each of them ends with."""
    rng = np.random.default_rng(5)
    start = [rng.normal(size=shape).astype(np.float32) for shape in [(3, 4), (4,), (2, 2, 2)]]
    ends = {}
    for name, strategy in every(context.run_config["num-clients"]).items():
        np.random.seed(1)  # noqa: NPY002 - what draws from it is Flower's
        result = strategy.start(
            grid=grid,
            initial_arrays=ArrayRecord(start),
            num_rounds=context.run_config["num-server-rounds"],
        )
        ends |= {f"{name}.{key}": array for key, array in result.arrays.items()}
    Result(arrays=ArrayRecord(ends))
