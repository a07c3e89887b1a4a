"""The ClientApp."""

import numpy as np
from flwr.client import ClientApp, NumPyClient
from flwr.common import Context


class FlowerClient(NumPyClient):
    """Fits a line to the examples of a partition."""

    def __init__(self, partition_id: int) -> None:
        rng = np.random.default_rng(partition_id)
        self.x = rng.normal(size=(16 + 2 * partition_id, 5)).astype(np.float32)
        self.y = self.x @ np.arange(5, dtype=np.float32)

    def fit(self, parameters, config):
        """Take ten steps of gradient descent."""
        w, b = parameters
        for _ in range(10):
            error = self.x @ w + b - self.y
            w = w - np.float32(config["lr"]) * self.x.T @ error / np.float32(len(error))
            b = b - np.float32(config["lr"]) * error.mean(keepdims=True)
        return [w, b], len(self.y), {"train_loss": float((error**2).mean())}

    def evaluate(self, parameters, config):
        """Measure the squared error."""
        w, b = parameters
        loss = float(((self.x @ w + b - self.y) ** 2).mean())
        return loss, len(self.y), {"rmse": loss**0.5}


def client_fn(context: Context):
    """Make the client of a node."""
    return FlowerClient(int(context.node_config["partition-id"])).to_client()


app = ClientApp(client_fn=client_fn)
