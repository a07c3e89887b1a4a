"""Jobs: how phases divide examples into batches, and how far they reach."""

from itertools import chain

import pytest
import torch

from roundel.core.data import Examples
from roundel.core.job import LocalContext, LocalJob, Phase, Trained, batches, lr_steps, placed
from roundel.core.metrics import Metrics
from roundel.core.optimizers import OptimizerSpec
from roundel.core.params import Entry, ParamSpec
from roundel.core.seeds import torch_generator


def numbered(count: int) -> Examples:
    return Examples(torch.arange(count), torch.arange(count))


def rows(phase: Phase, count: int, seed: int = 0) -> list[list[int]]:
    return [b.targets.tolist() for b in batches(numbered(count), phase, torch_generator(seed))]


def test_the_last_smaller_batch_of_an_epoch_is_kept() -> None:
    drawn = rows(Phase(epochs=2, batch_size=4), 10)
    assert [len(batch) for batch in drawn] == [4, 4, 2, 4, 4, 2]


@pytest.mark.parametrize(
    ("examples", "smallest", "sizes"),
    [
        (9, 1, [4, 4, 1]),
        (9, 2, [4, 5]),
        (10, 2, [4, 4, 2]),
        (10, 3, [4, 6]),
        (8, 2, [4, 4]),
        (5, 2, [5]),
        (3, 2, [3]),
        (1, 2, [1]),  # there is none to join
    ],
)
def test_a_last_batch_that_is_too_small_joins_the_one_before(
    examples: int, smallest: int, sizes: list[int]
) -> None:
    phase = Phase(epochs=2, batch_size=4)
    assert phase.batch_sizes(examples, smallest) == sizes
    assert phase.step_count(examples, smallest) == 2 * len(sizes)
    drawn = list(batches(numbered(examples), phase, torch_generator(0), smallest))
    assert [len(batch) for batch in drawn] == 2 * sizes
    first = list(chain(*(batch.targets.tolist() for batch in drawn[: len(sizes)])))
    assert sorted(first) == list(range(examples))


def test_every_example_comes_once_an_epoch_in_a_new_order_each_time() -> None:
    drawn = rows(Phase(epochs=2, batch_size=4), 10)
    first, second = list(chain(*drawn[:3])), list(chain(*drawn[3:]))
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second


def test_steps_are_the_first_batches_of_as_many_epochs_as_needed() -> None:
    by_steps = rows(Phase(epochs=None, steps=5, batch_size=4), 10)
    assert by_steps == rows(Phase(epochs=2, batch_size=4), 10)[:5]


@pytest.mark.parametrize("batch_size", [None, 3, 4])
def test_a_full_batch_is_all_examples_in_their_own_order(batch_size: int | None) -> None:
    assert rows(Phase(epochs=2, batch_size=batch_size), 3) == [[0, 1, 2], [0, 1, 2]]


def test_sent_trainable_keeps_leading_axes() -> None:
    buffer = Entry(name="mean", shape=(2,), dtype=torch.float32, trainable=False)
    weight = Entry(name="w", shape=(3,), dtype=torch.float32, trainable=True)
    sent = torch.arange(10.0).view(2, 5)
    stacked = LocalContext(spec=ParamSpec((buffer, weight)), sent=sent)
    assert stacked.sent_trainable.tolist() == [[2, 3, 4], [7, 8, 9]]


def test_learning_rates_add_up_over_the_steps_that_move_shared_tensors() -> None:
    spec = ParamSpec(
        (
            Entry(name="body", shape=(2,), dtype=torch.float64, trainable=True),
            Entry(name="head", shape=(1,), dtype=torch.float64, trainable=True, personal=True),
        ),
        dtype=torch.float64,
    )

    def at(lr: float, name: str = "") -> Phase:
        moved = (lambda entry: entry.name == name) if name else None
        return Phase(optimizer=OptimizerSpec(lr=lr), trains=moved)

    assert lr_steps(spec, [at(0.5, "head"), at(0.25, "body"), at(2.0)], [8, 4, 3]) == 7
    assert lr_steps(spec, [at(0.5, "head")], [8]) == 0


ELSEWHERE = torch.device("meta")


def job_of(sent: torch.Tensor, control: torch.Tensor) -> LocalJob:
    spec = ParamSpec((Entry(name="w", shape=(2,), dtype=torch.float32, trainable=True),))
    context = LocalContext(
        spec=spec, sent=sent, received={"c": control}, state={"own": torch.ones(2)}
    )
    none = torch.empty(0, dtype=torch.int64)
    return LocalJob(context=context, integers=none, examples=numbered(3), phases=[Phase()])


def test_jobs_lie_on_a_device_with_everything_they_know_and_share_what_they_shared() -> None:
    sent, control = torch.zeros(2), torch.ones(2)
    one, other = placed([job_of(sent, control), job_of(sent, control)], ELSEWHERE)
    assert one.context.sent is other.context.sent
    assert one.context.received["c"] is other.context.received["c"]
    assert one.context.state["own"] is not other.context.state["own"]
    tensors = [one.context.sent, one.context.received["c"], one.context.state["own"], one.integers]
    tensors += [one.examples.inputs, one.examples.targets]
    assert {tensor.device for tensor in tensors} == {ELSEWHERE}


def test_on_the_cpu_jobs_and_what_came_of_them_stay_what_they_are() -> None:
    jobs = [job_of(torch.zeros(2), torch.ones(2))]
    assert placed(jobs, torch.device("cpu")) is jobs
    trained = Trained(
        vector=torch.ones(2), integers=jobs[0].integers, metrics=Metrics(), steps=(1,)
    )
    assert trained.on_cpu() is trained
