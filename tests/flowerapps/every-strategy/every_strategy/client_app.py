"""The ClientApp: every client draws its reply."""

import numpy as np
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


def drawn(msg: Message, context: Context):
    """Return what is drawn by this client in this round."""
    partition = context.node_config["partition-id"]
    return np.random.default_rng([partition, msg.content["config"]["server-round"]])


@app.train()
def train(msg: Message, context: Context):
    """Move each array at random."""
    rng = drawn(msg, context)
    arrays = [
        (a + rng.normal(size=a.shape)).astype(a.dtype)
        for a in msg.content["arrays"].to_numpy_ndarrays()
    ]
    metrics = {"num-examples": int(rng.integers(1, 50)), "train_loss": float(rng.uniform())}
    content = RecordDict({"arrays": ArrayRecord(arrays), "metrics": MetricRecord(metrics)})
    return Message(content=content, reply_to=msg)


@app.evaluate()
def evaluate(msg: Message, context: Context):
    """Return random figures; q-FedAvg looks at the loss."""
    rng = drawn(msg, context)
    metrics = {"num-examples": int(rng.integers(1, 50)), "loss": float(rng.uniform(1.0, 2.0))}
    return Message(content=RecordDict({"metrics": MetricRecord(metrics)}), reply_to=msg)
