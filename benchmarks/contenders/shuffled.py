"""The bare loop on batches in the order in which Roundel shuffles them, to compare weights with.

It is not timed: drawing the order is work that the yardstick is spared.
"""

import torch
from contenders.bare import run
from contenders.jobs import Job
from contenders.models import Batches, client_tensors

from roundel.core.config import Experiment
from roundel.core.seeds import derive, torch_generator


def as_roundel_shuffles(job: Job, client: int, round: int) -> Batches:
    """Return a client's batches of one round."""
    inputs, labels = (tensor.to(job.device) for tensor in client_tensors(job.workload, client))
    seed = derive(Experiment().seed_for("training"), "batches", round, client)
    order = torch.randperm(len(labels), generator=torch_generator(seed)).to(job.device)
    return [(inputs[rows], labels[rows]) for rows in order.split(job.workload.batch)]


if __name__ == "__main__":
    run(Job.of_command(), as_roundel_shuffles)
