"""The ClientApp."""

import numpy as np
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


@app.train()
def train(msg: Message, context: Context):
    """Step towards the mean of what was received so far."""
    if "memory" not in context.state:
        context.state["memory"] = MetricRecord({"rounds": 0})
        context.state["sum"] = ArrayRecord([np.zeros(3)])
    context.state["memory"]["rounds"] += 1
    rounds = context.state["memory"]["rounds"]
    (w,) = msg.content["arrays"].to_numpy_ndarrays()
    (total,) = context.state["sum"].to_numpy_ndarrays()
    total = total + w
    context.state["sum"] = ArrayRecord([total])
    target = np.arange(3.0) + context.node_config["partition-id"]
    w = w + msg.content["config"]["lr"] * (target - w) + 0.1 * (total / rounds - w)
    partition = context.node_config["partition-id"]
    metrics = {"num-examples": 5 + partition, "rounds": rounds, "partition": partition}
    content = RecordDict({"arrays": ArrayRecord([w]), "metrics": MetricRecord(metrics)})
    return Message(content=content, reply_to=msg)


@app.evaluate()
def evaluate(msg: Message, context: Context):
    """Measure the distance to the target."""
    (w,) = msg.content["arrays"].to_numpy_ndarrays()
    target = np.arange(3.0) + context.node_config["partition-id"]
    loss = float(((w - target) ** 2).sum())
    metrics = MetricRecord({"num-examples": 5, "eval_loss": loss})
    return Message(content=RecordDict({"metrics": metrics}), reply_to=msg)
