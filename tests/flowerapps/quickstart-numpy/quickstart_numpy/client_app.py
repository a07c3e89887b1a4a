"""The ClientApp."""

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from quickstart_numpy.task import load_data

app = ClientApp()


@app.train()
def train(msg: Message, context: Context):
    """Take ten steps of gradient descent."""
    (w,) = msg.content["arrays"].to_numpy_ndarrays()
    x, y = load_data(context.node_config["partition-id"])
    for _ in range(10):
        w = w - 0.05 * x.T @ (x @ w - y) / len(y)
    loss = float(np.mean((x @ w - y) ** 2))
    metrics = MetricRecord({"num-examples": len(y), "train_loss": loss})
    content = RecordDict({"arrays": ArrayRecord([w]), "metrics": metrics})
    return Message(content=content, reply_to=msg)


@app.evaluate()
def evaluate(msg: Message, context: Context):
    """Measure the squared error."""
    (w,) = msg.content["arrays"].to_numpy_ndarrays()
    x, y = load_data(context.node_config["partition-id"])
    loss = float(np.mean((x @ w - y) ** 2))
    metrics = MetricRecord({"num-examples": len(y), "eval_loss": loss})
    return Message(content=RecordDict({"metrics": metrics}), reply_to=msg)


@app.query()
def query(msg: Message, context: Context):
    """Say which partition this is."""
    config = ConfigRecord({"partition": context.node_config["partition-id"], "echo": b"\x00\xff"})
    return Message(content=RecordDict({"config": config}), reply_to=msg)
