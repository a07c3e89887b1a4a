"""Federated averaging as a hand-written PyTorch loop, in one process or several: the yardstick.

Each process keeps a fixed share of the clients, one model and the batches of its clients, ready
cut; it sums what its clients learn, and one process makes the mean of the sums through shared
memory. There are no messages, no shuffling, no records and no files: this is what PyTorch's own
calls cost. It is a yardstick and not a lower bound.
"""

import multiprocessing
from collections.abc import Callable, Sequence
from multiprocessing.synchronize import Barrier

import torch
from contenders.jobs import Job, now_s
from contenders.models import (
    Batches,
    HandWritten,
    flat,
    keep_weights,
    make_model,
    ordered_batches,
)
from torch import Tensor

BatchesOf = Callable[[Job, int, int], Batches]
"""A job, a client and a round to what the client trains on."""


def as_they_lie(job: Job, client: int, _round: int) -> Batches:
    """Return a client's batches, the same in every round."""
    return ordered_batches(job.workload, client, job.device)


def views(vector: Tensor, parameters: Sequence[Tensor]) -> list[Tensor]:
    """Return the pieces of a vector in the shapes of parameters."""
    pieces = vector.split([parameter.numel() for parameter in parameters])
    return [piece.view_as(p) for piece, p in zip(pieces, parameters, strict=True)]


def run_rank(
    job: Job, rank: int, sent: Tensor, sums: Tensor, barrier: Barrier, batches_of: BatchesOf
) -> list[float]:
    """Run all rounds of one process for its share of the clients.

    Args:
        job: What all processes do.
        rank: Which of them this is; the first one makes the mean.
        sent: The global parameters, in shared memory, shape ``(D,)``.
        sums: One sum for each process, in shared memory, shape ``(workers, D)``.
        barrier: Where they wait for each other.
        batches_of: What clients train on.

    Returns:
        When each round ended.
    """
    torch.set_num_threads(1)
    learner = HandWritten(job.workload, job.device)
    parameters = list(learner.model.parameters())
    globals_, totals = views(sent, parameters), views(sums[rank], parameters)
    ends_s = []
    for round in range(1, job.rounds + 2):
        sums[rank].zero_()
        for client in range(rank, job.workload.cohort, job.workers):
            with torch.no_grad():
                for parameter, value in zip(parameters, globals_, strict=True):
                    parameter.copy_(value)
            learner.train(batches_of(job, client, round))
            with torch.no_grad():
                for total, parameter in zip(totals, parameters, strict=True):
                    total.add_(parameter.to("cpu"))
        barrier.wait()  # all sums are there
        if rank == 0:
            torch.sum(sums, 0, out=sent).div_(job.workload.cohort)
        barrier.wait()  # and now the new parameters
        ends_s.append(now_s())
    return ends_s


def run(job: Job, batches_of: BatchesOf) -> None:
    """Run a job in as many processes as it says."""
    fork = multiprocessing.get_context("fork")
    sent = flat(make_model(job.workload)).share_memory_()
    sums = torch.zeros(job.workers, len(sent)).share_memory_()
    barrier = fork.Barrier(job.workers)
    others = [
        fork.Process(target=run_rank, args=(job, rank, sent, sums, barrier, batches_of))
        for rank in range(1, job.workers)
    ]
    for process in others:
        process.start()
    job.answer(run_rank(job, 0, sent, sums, barrier, batches_of))
    if job.rounds == 0:
        keep_weights(job, sent)
    for process in others:
        process.join()


if __name__ == "__main__":
    run(Job.of_command(), as_they_lie)
