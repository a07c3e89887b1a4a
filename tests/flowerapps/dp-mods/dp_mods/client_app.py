"""The ClientApp."""

import numpy as np
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.mod import adaptiveclipping_mod, arrays_size_mod, fixedclipping_mod

app = ClientApp()


def either(msg: Message, context: Context, call_next):
    """Clip as the app is configured."""
    mod = adaptiveclipping_mod if context.run_config["adaptive"] else fixedclipping_mod
    return mod(msg, context, call_next)


@app.train(mods=[arrays_size_mod, either])
def train(msg: Message, context: Context):
    """Take one step towards a target."""
    w, b = msg.content["arrays"].to_numpy_ndarrays()
    target = np.full(w.shape, 1.0 + context.node_config["partition-id"])
    w = w + 0.5 * (target - w)
    metrics = MetricRecord({"num-examples": 10, "train_loss": float(((w - target) ** 2).sum())})
    content = RecordDict({"arrays": ArrayRecord([w, b + 0.1]), "metrics": metrics})
    return Message(content=content, reply_to=msg)
