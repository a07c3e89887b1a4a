"""A Flower app that trains the rounds of a job: a model and data that are made once in a process.

Nothing is evaluated, and every round asks the whole cohort, the first one too (without
``min_train_nodes`` it asks those that have registered by then).
"""

import os

import torch
from contenders.jobs import Job, now_s
from contenders.models import flat, hand_written, keep_weights, make_model, ordered_batches
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

JOB = "FLOWER_JOB"
"""The variable of the environment that holds the job."""


def client_app(job: Job) -> ClientApp:
    """Return the clients."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        torch.set_num_threads(1)
        client = int(context.node_config["partition-id"])
        learner = hand_written(job.workload, job.device)
        arrays = message.content.array_records["arrays"]
        learner.model.load_state_dict(arrays.to_torch_state_dict())
        learner.train(ordered_batches(job.workload, client, job.device))
        reply = {
            "arrays": ArrayRecord(learner.model.state_dict()),
            "metrics": MetricRecord({"num-examples": job.workload.examples}),
        }
        return Message(content=RecordDict(reply), reply_to=message)

    return app


def server_app(job: Job) -> ServerApp:
    """Return the server, which notes when each round ends."""
    app = ServerApp()
    ends_s: list[float] = []
    model = make_model(job.workload)

    @app.main()
    def run(grid: Grid, _context: Context) -> None:
        def note(round: int, arrays: ArrayRecord) -> None:
            if round == 0:  # before the first
                return
            ends_s.append(now_s())
            if job.rounds == 0:
                model.load_state_dict(arrays.to_torch_state_dict())
                keep_weights(job, flat(model))

        strategy = FedAvg(
            fraction_train=1.0,
            fraction_evaluate=0.0,
            min_train_nodes=job.workload.cohort,
            min_available_nodes=job.workload.cohort,
        )
        strategy.start(
            grid=grid,
            initial_arrays=ArrayRecord(model.state_dict()),
            num_rounds=job.rounds + 1,
            evaluate_fn=note,
        )
        job.answer(ends_s)

    return app


if JOB in os.environ:
    job = Job.read(os.environ[JOB])
    server, client = server_app(job), client_app(job)
