"""Training K clients at once: what `Learner.train` does, for a list of jobs."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, reduce
from operator import add

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from roundel.core.job import LocalContext, LocalJob, Phase, Trained, impulse, lr_steps, placed
from roundel.core.learning import Learner
from roundel.core.metrics import Metrics, merge
from roundel.core.seeds import derive, isolated_rng, torch_generator
from roundel.simulations.vectorized.block import (
    alike,
    integers_of,
    shapes,
    stack_contexts,
    stack_tensors,
    vectors_of,
)
from roundel.simulations.vectorized.chain import Chain, layers_of
from roundel.simulations.vectorized.descent import Descent, Setting
from roundel.simulations.vectorized.feed import Feed
from roundel.simulations.vectorized.functional import Functional, mappable_kernels
from roundel.simulations.vectorized.losses import mapped_loss, stacked_loss
from roundel.simulations.vectorized.slope import Gradients, Tensors


@dataclass(frozen=True, kw_only=True)
class _Ledger:
    """What a phase was for each client: metrics, and how many steps."""

    metrics: Sequence[Metrics]
    steps: Sequence[int]


class Stack:
    """Trains clients of one learner side by side.

    What dropout and augmentation draw follows from the jobs' seeds, and from which jobs are trained
    together: it is another draw than the loop's, from the same law. All else is the loop's result
    up to rounding.
    """

    def __init__(self, learner: Learner) -> None:
        """Make a stack.

        Args:
            learner: Has the task and the model, which `train` runs with other tensors.
        """
        self._learner = learner
        self._layers = layers_of(learner.model, learner.device)

    def train(self, jobs: Sequence[LocalJob]) -> list[Trained]:
        """Run all phases of all jobs; see `Learner.train`.

        Jobs that do not fit together, because they do other things or because their clients keep
        other things, are trained in as few stacks as they make.

        Raises:
            DataError: A job has no examples.
            ParameterError: A vector does not fit the model, or a phase moves none of its tensors.

        A job that the loop would fail at, such as one with an impossible target, fails the whole
        call; trained one after another, the others are as good as ever.
        """
        for job in jobs:
            self._check(job)
        jobs = placed(jobs, self._learner.device)
        trained: dict[int, Trained] = {}
        for places in _groups(jobs):
            places.sort(key=lambda place: -len(jobs[place].examples))
            results = self._train([jobs[place] for place in places])
            trained.update(zip(places, results, strict=True))
        return [trained[place] for place in range(len(jobs))]

    def gradients(self, jobs: Sequence[LocalJob]) -> Gradients:
        """Return what differentiates the losses of jobs that fit together."""
        loss, terms = self._learner.task.loss, jobs[0].loss_terms
        examples = [job.examples for job in jobs]
        if self._layers is None or terms:
            return Functional(self._learner.model, mapped_loss(loss, examples), terms)
        return Chain(self._layers, stacked_loss(loss, examples, self._outputs))

    def start(self, jobs: Sequence[LocalJob]) -> dict[str, Tensor]:
        """Return the model's tensors for each of the jobs, shape ``(K, *shape)``."""
        return stack_tensors(self._learner.spec, jobs, self._learner.transient)

    def _check(self, job: LocalJob) -> None:
        fits = job.context.sent.shape == self._learner.vector.shape
        counts = job.integers.shape == self._learner.initial_integers.shape
        if not (fits and counts and len(job.examples)):
            self._learner.begin(job)  # which says what is wrong

    def _train(self, jobs: Sequence[LocalJob]) -> list[Trained]:
        """Train jobs that fit together, those with more examples first."""
        learner, first = self._learner, jobs[0]
        learner.check(first.phases)
        learner.model.train()
        setting = Setting(
            spec=learner.spec,
            gradients=self.gradients(jobs),
            corrections=first.corrections,
            augment=learner.task.augment,
        )
        tensors, context = self.start(jobs), stack_contexts(jobs)
        generators = [torch_generator(job.seed) for job in jobs]
        with isolated_rng(_seed(jobs)), mappable_kernels(), torch.no_grad():
            ledgers = [
                self._run(
                    Descent(setting, phase, tensors, context),
                    Feed([j.examples for j in jobs], phase, generators, learner.smallest_batch),
                    phase,
                )
                for phase in first.phases
            ]
        return self._results(jobs, tensors, ledgers)

    def _run(self, descent: Descent, feed: Feed, phase: Phase) -> _Ledger:
        """Take all steps of a phase and add up what they were."""
        steps = feed.steps
        if not any(steps):
            return _Ledger(metrics=[Metrics()] * len(steps), steps=steps)
        counts = [0] * len(steps)
        losses: list[Tensor] = []
        clipped: list[Tensor] = []
        sizes: list[Sequence[int]] = []
        for step in feed:
            taken = descent.step(step)
            losses.append(taken.losses)
            sizes.append(taken.sizes)
            if taken.clipped is not None:
                clipped.append(taken.clipped)
        for those in sizes:
            counts[: len(those)] = map(add, counts, those)
        sums = {"loss": _over_steps(losses, sizes)}
        if clipped:
            sums["clipped"] = _over_steps(clipped, sizes)
        metrics = [
            Metrics({name: values[k] for name, values in sums.items()}, count)
            if steps[k]
            else Metrics()
            for k, count in enumerate(counts)
        ]
        return _Ledger(metrics=metrics, steps=steps)

    def _results(
        self, jobs: Sequence[LocalJob], tensors: Tensors, ledgers: Sequence[_Ledger]
    ) -> list[Trained]:
        spec, first = self._learner.spec, jobs[0]

        @cache
        def reach(steps: tuple[int, ...]) -> tuple[float | None, float]:
            wanted = first.wants_impulse
            moved = impulse(spec, first.phases, steps, first.pull) if wanted else None
            return moved, lr_steps(spec, first.phases, steps)

        own = self._learner.initial_integers
        integers = integers_of(spec, tensors) if spec.integers else [own] * len(jobs)
        results = []
        for k, vector in enumerate(vectors_of(spec, tensors)):
            steps = tuple(ledger.steps[k] for ledger in ledgers)
            moved, rates = reach(steps)
            parts = [ledger.metrics[k] for ledger in ledgers]
            trained = Trained(
                vector=vector,
                integers=integers[k],
                metrics=parts[0] if len(parts) == 1 else merge(parts),
                steps=steps,
                impulse=moved,
                lr_steps=rates,
            )
            results.append(trained)
        return results

    def _outputs(self, inputs: Tensor) -> Tensor:
        """Run the model as it starts, in evaluation mode."""
        learner = self._learner
        learner.load(learner.initial, learner.initial_integers, training=False)
        with torch.no_grad():
            outputs: Tensor = learner.model(inputs)
        learner.model.train()
        return outputs


def _over_steps(means: Sequence[Tensor], sizes: Sequence[Sequence[int]]) -> list[float]:
    """Return each client's sum over all examples of all its steps.

    Args:
        means: Each step's mean over each client's batch, shape ``(A,)``, of the first A clients.
        sizes: How large those batches were.
    """
    clients = len(sizes[0])
    weights = np.zeros((len(sizes), clients))
    for row, those in zip(weights, sizes, strict=True):
        row[: len(those)] = those
    if len(sizes[-1]) == clients:
        rows = torch.stack(list(means))
    else:
        rows = pad_sequence(list(means), batch_first=True)  # 0 for those that have ended
    return (rows.double() * torch.from_numpy(weights).to(rows.device)).sum(0).tolist()


def _groups(jobs: Sequence[LocalJob]) -> list[list[int]]:
    """Return the places of jobs that can be stacked, group by group."""
    groups: list[list[int]] = []
    for place, job in enumerate(jobs):
        for group in groups:
            if _fit(jobs[group[0]], job):
                group.append(place)
                break
        else:
            groups.append([place])
    return groups


def _fit(one: LocalJob, other: LocalJob) -> bool:
    """Tell whether two jobs do the same, from different vectors and states."""
    same = (
        (one.phases is other.phases or tuple(one.phases) == tuple(other.phases))
        and tuple(one.corrections) == tuple(other.corrections)
        and tuple(one.loss_terms) == tuple(other.loss_terms)
        and (one.pull, one.wants_impulse) == (other.pull, other.wants_impulse)
    )
    return same and _know_alike(one.context, other.context) and alike(one.examples, other.examples)


def _know_alike(one: LocalContext, other: LocalContext) -> bool:
    """Tell whether two clients received the same and keep tensors of the same names and shapes."""
    received = one.received is other.received or (
        one.received.keys() == other.received.keys()
        and all(one.received[name] is value for name, value in other.received.items())
    )
    same = (one.lr, one.innovations) == (other.lr, other.innovations)
    return received and same and shapes(one.state) == shapes(other.state)


def _seed(jobs: Sequence[LocalJob]) -> int:
    """Return the seed of what is random in a stack besides the order of the examples."""
    return reduce(lambda mixed, job: derive(mixed, "stack", client=job.seed), jobs, 0)
