"""The ClientApp."""

import numpy as np
from flwr.client import ClientApp, NumPyClient
from flwr.client.mod import secaggplus_mod
from flwr.common import Context


class FlowerClient(NumPyClient):
    """Returns a vector that its partition fixes."""

    def __init__(self, partition_id: int) -> None:
        self.partition_id = partition_id
        self.target = np.linspace(-1.0, 1.0, 6).reshape(2, 3) * (1 + partition_id)

    def fit(self, parameters, config):
        """Go half of the way; the mod rounds at random what is returned."""
        np.random.seed(self.partition_id)  # noqa: NPY002 - what draws from it is Flower's
        return [w + 0.5 * (self.target - w) for w in parameters], 4, {}


def client_fn(context: Context):
    """Make the client of a node."""
    return FlowerClient(int(context.node_config["partition-id"])).to_client()


app = ClientApp(client_fn=client_fn, mods=[secaggplus_mod])
