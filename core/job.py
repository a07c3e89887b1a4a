"""What local training is told and what it returns; phases, and how far they reach.

No model is needed here: `roundel.core.learning.Learner` does what a `LocalJob` says.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from roundel.core.data import Examples
from roundel.core.metrics import Metrics
from roundel.core.optimizers import OptimizerSpec
from roundel.core.params import Entry, ParamSpec


@dataclass(frozen=True, kw_only=True)
class LocalContext:
    """What a correction, a loss term or a finishing step may look at.

    With K stacked clients every tensor that differs by client has a leading axis of K.

    Attributes:
        spec: The model's layout.
        sent: The vector that training started from, shape ``(..., D)``.
        received: Channels of the broadcast besides the parameters, by name.
        state: The client's state as of its last committed round, by name.
        lr: The learning rate of the first phase.
        innovations: Channels that say what the server still lacks of something, measured against
            what it made of them before: what a codec leaves out is in the next one by itself.
    """

    spec: ParamSpec
    sent: Tensor
    received: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])
    state: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])
    lr: float = 0.0
    innovations: frozenset[str] = frozenset()

    @property
    def sent_trainable(self) -> Tensor:
        """The trainable part of `sent`, shape ``(..., T)``."""
        return self.sent[..., self.spec.trainable]


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One forward pass, for loss terms.

    Attributes:
        params: The model's tensors by name; gradients flow into the trainable ones.
        inputs: Shape ``(B, ...)``.
        targets: Shape ``(B, ...)``.
        outputs: What the model made of the inputs.
        apply: Runs the model with other tensors: ``apply(params, inputs) -> outputs``. It changes
            neither the model's buffers nor the tensors it is given.
        representation: Returns what the last ``nn.Linear`` that the model called was given, shape
            ``(B, F)``; gradients flow through it.
        represent: Returns the same of a model with other tensors, by name, in evaluation mode; no
            gradients flow.
        context: The client's context.
    """

    params: Mapping[str, Tensor]
    inputs: Tensor
    targets: Tensor
    outputs: Tensor
    apply: Callable[[Mapping[str, Tensor], Tensor], Tensor]
    representation: Callable[[], Tensor]
    represent: Callable[[Mapping[str, Tensor]], Tensor]
    context: LocalContext


Correction = Callable[[Tensor, Tensor, LocalContext], Tensor]
LossTerm = Callable[[Batch], Tensor]


@dataclass(frozen=True, kw_only=True)
class Phase:
    """One stretch of training with one optimizer.

    Attributes:
        optimizer: Which optimizer, with this round's learning rate.
        epochs: Passes over the examples; or None to count steps.
        steps: Batches to train on, reshuffling as often as needed; or None to count epochs.
        batch_size: Examples a batch; None for all of them at once.
        clip_norm: Largest Euclidean norm of a gradient, corrections included; None for no limit.
        trains: Tells from a tensor's entry whether this phase moves it; None for all.
    """

    optimizer: OptimizerSpec = OptimizerSpec()
    epochs: int | None = 1
    steps: int | None = None
    batch_size: int | None = 32
    clip_norm: float | None = None
    trains: Callable[[Entry], bool] | None = None

    def batch_sizes(self, examples: int, smallest: int = 1) -> list[int]:
        """Return how many examples each batch of one epoch has.

        Args:
            examples: How many there are.
            smallest: A last batch of fewer joins the one before it.
        """
        size = min(self.batch_size or examples, examples)
        full, rest = divmod(examples, size)
        sizes = [size] * full + [rest] * (rest > 0)
        if len(sizes) > 1 and sizes[-1] < smallest:
            sizes[-2:] = [sizes[-2] + sizes[-1]]
        return sizes

    def step_count(self, examples: int, smallest: int = 1) -> int:
        """Return how many steps this phase takes with so many examples; see `batch_sizes`."""
        if self.steps is not None:
            return self.steps
        return (self.epochs or 0) * len(self.batch_sizes(examples, smallest))


@dataclass(frozen=True, kw_only=True)
class LocalJob:
    """One client's training, complete.

    Attributes:
        context: Where it starts and what it knows.
        integers: The integer buffers to start from.
        examples: What to train on.
        phases: What to do, in this order.
        corrections: Applied to each gradient, in this order.
        loss_terms: Added to each batch's loss.
        pull: By how much corrections pull linearly towards `context.sent`; see `impulse`.
        wants_impulse: Whether to find `Trained.impulse` out.
        seed: Decides the order of the examples.
    """

    context: LocalContext
    integers: Tensor
    examples: Examples
    phases: Sequence[Phase]
    corrections: Sequence[Correction] = ()
    loss_terms: Sequence[LossTerm] = ()
    pull: float = 0.0
    wants_impulse: bool = True
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What training made of a vector.

    Attributes:
        vector: The trained vector, shape ``(..., D)``.
        integers: The integer buffers afterwards.
        metrics: The loss, summed over all examples that were trained on, repeats included; and
            ``clipped``, how many of them were in batches whose gradient was clipped, if a phase
            has a limit.
        steps: Steps taken in each phase.
        impulse: How far the steps would have moved a shared coordinate whose gradient is always 1;
            see `impulse`. None if phases differ in what they move of the shared parameters.
        lr_steps: The learning rates of all steps that move shared parameters, added up; None if a
            solver or the user's own function trained.
        state: What a solver wants kept at the client, by name.
        loss_before: The mean loss of what was sent, on all examples that were trained on, shape
            ``(...)``; None unless the strategy asks for it.
        gradient_before: Its gradient, shape ``(..., T)``; None likewise.
    """

    vector: Tensor
    integers: Tensor
    metrics: Metrics
    steps: tuple[int, ...]
    impulse: float | None = None
    lr_steps: float | None = None
    state: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])
    loss_before: Tensor | None = None
    gradient_before: Tensor | None = None

    def on_cpu(self) -> "Trained":
        """Return it with all tensors where updates are made and added up."""
        if self.vector.device.type == "cpu":
            return self
        loss, gradient = self.loss_before, self.gradient_before
        return replace(
            self,
            vector=self.vector.cpu(),
            integers=self.integers.cpu(),
            state={name: value.cpu() for name, value in self.state.items()},
            loss_before=None if loss is None else loss.cpu(),
            gradient_before=None if gradient is None else gradient.cpu(),
        )


def placed(jobs: Sequence[LocalJob], device: torch.device) -> Sequence[LocalJob]:
    """Return jobs with all tensors on a device; what they have in common is one tensor there, too.

    Args:
        jobs: Of one round.
        device: Where they are to be done.
    """
    if device.type == "cpu":
        return jobs
    there: dict[int, Tensor] = {}

    def move(tensor: Tensor) -> Tensor:
        if id(tensor) not in there:
            there[id(tensor)] = tensor.to(device)
        return there[id(tensor)]

    def moved(job: LocalJob) -> LocalJob:
        context = replace(
            job.context,
            sent=move(job.context.sent),
            received={name: move(value) for name, value in job.context.received.items()},
            state={name: move(value) for name, value in job.context.state.items()},
        )
        integers, examples = move(job.integers), job.examples.to(device)
        return replace(job, context=context, integers=integers, examples=examples)

    return [moved(job) for job in jobs]


def batches(
    examples: Examples, phase: Phase, generator: torch.Generator, smallest: int = 1
) -> Iterator[Examples]:
    """Yield the batches of one phase: every example once an epoch, in a new order each time.

    Args:
        examples: What to train on.
        phase: How many, of which size.
        generator: Decides the order.
        smallest: See `Phase.batch_sizes`.
    """
    count = len(examples)
    total = phase.step_count(count, smallest)
    sizes = phase.batch_sizes(count, smallest)
    if len(sizes) == 1:
        for _ in range(total):
            yield examples
        return
    taken = 0
    while taken < total:
        order = torch.randperm(count, generator=generator).to(examples.inputs.device)
        for rows in order.split(sizes):
            if taken == total:
                return
            yield examples.take(rows)
            taken += 1


def impulse(
    spec: ParamSpec, phases: Sequence[Phase], steps: Sequence[int], pull: float = 0.0
) -> float | None:
    """Return how far training would move a shared coordinate whose gradient is always 1.

    The optimizers' own recursions, phase after phase, on one number: for SGD the result is
    FedNova's ``lr * ||a||_1``, whatever the momentum, the pull and the number of phases.

    Args:
        spec: The model's layout.
        phases: What was done.
        steps: How many steps in each phase.
        pull: The gradient grows by this times the distance from the start.

    Returns:
        The distance; None if a phase moves some shared tensors and leaves others where they are.
    """
    shared = [e for e in spec.entries if e.trainable and not e.personal]
    moved = 0.0
    for phase, count in zip(phases, steps, strict=True):
        moves = {phase.trains is None or phase.trains(entry) for entry in shared}
        if len(moves) > 1:
            return None
        if moves == {True}:
            moved = phase.optimizer.impulse(count, pull, moved)
    return moved


def lr_steps(spec: ParamSpec, phases: Sequence[Phase], steps: Sequence[int]) -> float:
    """Return ``sum(lr * steps)`` over the phases that move anything shared; see `impulse`."""
    shared = [e for e in spec.entries if e.trainable and not e.personal]
    moving = (
        phase.optimizer.lr * count
        for phase, count in zip(phases, steps, strict=True)
        if phase.trains is None or any(phase.trains(entry) for entry in shared)
    )
    return sum(moving, start=0.0)
