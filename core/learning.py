"""The learning loop: one model, some examples, some steps.

Client and server both use it: clients to train, the server to evaluate and to train on root data.
A `Learner` owns one model whose tensors are views of one flat vector. `train` is pure from the
outside: it reads a `LocalJob` and returns a `Trained`, and leaves nothing behind that the next call
could see.

What an algorithm adds comes as values in the job:

- a *gradient correction* ``g' = f(g, x, context)`` on flat vectors. It may use broadcasting
  operations only, so that one formula serves a client ``(T,)`` and a stack of clients ``(K, T)``;
- a *loss term* ``term(batch) -> scalar`` that is added to the task's loss;
- several *phases*, run one after another (FedRep trains the head, then the body);
- a *solver* in place of `train`, for nested work (pFedMe), written with `Learner.gradient`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm

from roundel.core.data import Examples
from roundel.core.errors import DataError, ParameterError
from roundel.core.metrics import Metrics, merge, to_float
from roundel.core.optimizers import OptimizerSpec, as_pieces
from roundel.core.params import Entry, ParamSpec
from roundel.core.records import RESERVED
from roundel.core.seeds import torch_generator
from roundel.core.task import Task

EVALUATION_BATCH = 1024
"""Examples that are evaluated at once, fewer of large ones."""

_EVALUATION_NUMBERS = 1 << 22


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


class Learner:
    """One model on one flat vector, reused for client after client.

    Attributes:
        task: What is learned.
        spec: The model's layout.
        model: The model; its floating-point tensors are views of `vector`.
        vector: The working vector, shape ``(D,)``.
        initial: The vector a new model starts from, shape ``(D,)``.
        initial_integers: Its integer buffers.
        smallest_batch: The fewest examples that a batch may have if there are more: two for models
            with BatchNorm, which cannot train on one.
    """

    def __init__(self, task: Task, seed: int) -> None:
        self.task = task
        self.model: nn.Module = task.new_model(seed)
        self.model.train()  # a part that the factory left in another mode is in training mode too
        self.spec = task.spec(self.model)
        self.initial, self.initial_integers = self.spec.read(self.model)
        self.vector = self.initial.clone()
        self.spec.bind(self.model, self.vector)
        normalises = any(isinstance(part, _BatchNorm) for part in self.model.modules())
        self.smallest_batch = 2 if normalises else 1
        self._linear = [part for part in self.model.modules() if isinstance(part, nn.Linear)]
        named = dict(self.model.named_parameters())
        self._names = [e.name for e in self.spec.entries if e.trainable]
        self._parameters = [named[name] for name in self._names]
        persistent = set(self.model.state_dict(keep_vars=True))
        self._transient = [
            (buffer, buffer.clone())
            for name, buffer in self.model.named_buffers()
            if name not in persistent
        ]

    def load(self, vector: Tensor, integers: Tensor, *, training: bool) -> None:
        """Put a vector into the model and set its mode.

        Raises:
            ParameterError: A shape does not fit the model.
        """
        if vector.shape != self.vector.shape:
            raise ParameterError(
                f"a vector of shape {tuple(vector.shape)} does not fit this model, whose vector "
                f"has the shape {tuple(self.vector.shape)}"
            )
        if self.model.training != training:
            self.model.train(training)
        if self.spec.integers:
            self.spec.write(self.model, vector, integers)
        else:
            self.vector.copy_(vector)
        for buffer, initial in self._transient:
            buffer.copy_(
                initial
            )  # it is in no vector: what one client left must not reach the next

    def start_from(self, tensors: Mapping[str, Tensor], source: str) -> None:
        """Make other parameters than the drawn ones the initial model.

        Args:
            tensors: Every tensor of the model's state dict, frozen ones included.
            source: What to call them in messages.

        Tensors that the task calls `fresh` may be missing: those stay as they were drawn.

        Raises:
            ParameterError: Names or shapes are not those of the model.
        """
        own = self.model.state_dict()
        may_lack = [name for name in own if any(fresh(name) for fresh in self.task.fresh)]
        try:
            self.model.load_state_dict({**{name: own[name] for name in may_lack}, **tensors})
        except RuntimeError as error:
            reasons = " ".join(str(error).split("\n\t", 1)[-1].split())
            raise ParameterError(f"{source} does not fit the model: {reasons}") from error
        self.initial, self.initial_integers = self.spec.read(self.model)

    def integers(self) -> Tensor:
        """Return a copy of the model's integer buffers."""
        return self.spec.read(self.model)[1] if self.spec.integers else self.initial_integers

    def gradient(self, batch: Examples, job: LocalJob) -> tuple[Tensor, Tensor]:
        """Return the task's loss at the working vector, and the corrected gradient.

        Returns:
            The mean loss of the batch, and the gradient of loss plus terms, corrected, shape
            ``(T,)``.
        """
        heard: list[Tensor] = []
        if job.loss_terms:
            with self._listening() as heard:
                outputs = self.model(batch.inputs)
        else:
            outputs = self.model(batch.inputs)
        loss = self.task.loss(outputs, batch.targets)
        total = loss
        for term in job.loss_terms:
            total = total + term(self._batch(batch, outputs, heard, job.context))
        pieces = torch.autograd.grad(total, self._parameters, materialize_grads=True)
        gradient = torch.cat([piece.reshape(-1) for piece in pieces])
        with torch.no_grad():
            point = self.vector[self.spec.trainable]
            for correction in job.corrections:
                gradient = correction(gradient, point, job.context)
        return loss.detach(), gradient

    def _batch(
        self, batch: Examples, outputs: Tensor, heard: Sequence[Tensor], context: LocalContext
    ) -> Batch:
        def apply(params: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
            # In training mode a forward pass writes to its buffers: it gets copies to write to.
            buffers = self.model.named_buffers()
            copies = {name: params.get(name, buffer).clone() for name, buffer in buffers}
            result: Tensor = functional_call(self.model, {**params, **copies}, (inputs,))
            return result

        def represent(params: Mapping[str, Tensor]) -> Tensor:
            self.model.eval()
            try:
                with torch.no_grad(), self._listening() as listened:
                    apply(params, batch.inputs)
            finally:
                self.model.train()
            return self._representation(listened)

        return Batch(
            params=dict(self.model.named_parameters()),
            inputs=batch.inputs,
            targets=batch.targets,
            outputs=outputs,
            representation=lambda: self._representation(heard),
            apply=apply,
            represent=represent,
            context=context,
        )

    @contextmanager
    def _listening(self) -> Iterator[list[Tensor]]:
        """Find out what the last linear layer that is called is given while the model runs."""
        heard: list[Tensor] = []

        def listen(_layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            heard[:] = [inputs[0]]

        handles = [layer.register_forward_pre_hook(listen) for layer in self._linear]
        try:
            yield heard
        finally:
            for handle in handles:
                handle.remove()

    def _representation(self, heard: Sequence[Tensor]) -> Tensor:
        if not heard:
            raise ParameterError(
                f"{type(self.model).__name__} calls no linear layer, whose input would be its "
                "representation; end the model in one"
            )
        return heard[-1].flatten(start_dim=1)

    def measure(self, job: LocalJob, *, gradient: bool) -> tuple[Tensor, Tensor | None]:
        """Find out how good what was sent is on all of a job's examples, before any training.

        The model is in evaluation mode, so nothing is drawn and no statistics move.

        Args:
            job: Its vector and its examples.
            gradient: Whether to return the gradient too.

        Returns:
            The mean loss, shape ``()``, and its gradient, shape ``(T,)``, uncorrected.

        Raises:
            DataError: There are no examples.
        """
        self.begin(job)
        self.model.eval()
        loss = self.vector.new_zeros(())
        slope = torch.zeros_like(self.vector[self.spec.trainable])
        count = len(job.examples)
        for batch in _chunks(job.examples):
            with torch.set_grad_enabled(gradient):
                share = self.task.loss(self.model(batch.inputs), batch.targets)
                share = share * (len(batch) / count)
            if gradient:
                pieces = torch.autograd.grad(share, self._parameters, materialize_grads=True)
                slope += torch.cat([piece.reshape(-1) for piece in pieces])
            loss += share.detach()
        return loss, slope if gradient else None

    def check(self, phases: Sequence[Phase]) -> None:
        """Find out before any training whether phases and their optimizers suit this model.

        Raises:
            ConfigError: An optimizer refuses the parameters.
            ParameterError: A phase moves nothing.
        """
        for phase in phases:
            phase.optimizer.build(as_pieces(self.vector, self._parts(phase)))

    def begin(self, job: LocalJob) -> None:
        """Make the model ready for a job's training.

        Raises:
            DataError: There are no examples.
            ParameterError: A vector does not fit the model.
        """
        if len(job.examples) == 0:
            raise DataError("there are no training examples: give the client some, or leave it out")
        self.load(job.context.sent, job.integers, training=True)

    def train(self, job: LocalJob) -> Trained:
        """Run all phases of a job.

        Raises:
            DataError: There are no examples.
            ParameterError: A vector does not fit the model, or a phase moves none of its tensors.
        """
        self.begin(job)
        generator = torch_generator(job.seed)
        metrics, steps = [], []
        for phase in job.phases:
            phase_metrics, taken = self._run(phase, job, generator)
            metrics.append(phase_metrics)
            steps.append(taken)
        return Trained(
            vector=self.vector.clone(),
            integers=self.integers(),
            metrics=merge(metrics),
            steps=tuple(steps),
            impulse=impulse(self.spec, job.phases, steps, job.pull) if job.wants_impulse else None,
            lr_steps=lr_steps(self.spec, job.phases, steps),
        )

    def _run(self, phase: Phase, job: LocalJob, generator: torch.Generator) -> tuple[Metrics, int]:
        parts = self._parts(phase)
        pieces = as_pieces(self.vector, parts)
        optimizer = phase.optimizer.build(pieces)
        first = self.spec.trainable.start
        losses: list[Tensor] = []
        clipped: list[Tensor] = []
        sizes: list[int] = []

        def closure(batch: Examples) -> Tensor:
            loss, gradient = self.gradient(batch, job)
            moved = [gradient[where.start - first : where.stop - first] for where, _ in parts]
            if phase.clip_norm is not None:
                moved, norm = _clipped(moved, phase.clip_norm)
                clipped.append(norm > phase.clip_norm)
            for piece, part, (_, shape) in zip(pieces, moved, parts, strict=True):
                piece.grad = part.view(shape)
            losses.append(loss)
            sizes.append(len(batch))
            return loss

        taken = 0
        augment = self.task.augment
        for batch in batches(job.examples, phase, generator, self.smallest_batch):
            optimizer.step(partial(closure, augment(batch) if augment else batch))
            taken += 1
        if not losses:
            return Metrics(), 0
        counts = torch.tensor(sizes, dtype=torch.float64)
        sums = {"loss": torch.stack(losses).double() @ counts}
        if clipped:
            sums["clipped"] = torch.stack(clipped).double() @ counts
        return Metrics({name: float(value) for name, value in sums.items()}, sum(sizes)), taken

    def _parts(self, phase: Phase) -> list[tuple[slice, tuple[int, ...]]]:
        """Return the slices and shapes that a phase moves."""
        trainable = [e for e in self.spec.entries if e.trainable]
        moved = [e.name for e in trainable if phase.trains is None or phase.trains(e)]
        if not moved:
            raise ParameterError(
                "a phase moves no tensor: its `trains` matches none of " + ", ".join(self._names)
            )
        return phase.optimizer.pieces(self.spec, moved)

    def evaluate(self, vector: Tensor, integers: Tensor, examples: Examples) -> Metrics:
        """Return the sums of loss and metrics over the examples.

        Args:
            vector: Shape ``(D,)``.
            integers: The integer buffers.
            examples: May be empty: then all sums are too.
        """
        self.load(vector, integers, training=False)
        parts = []
        with torch.no_grad():
            for chunk in _chunks(examples):
                targets = chunk.targets
                outputs = self.model(chunk.inputs)
                loss = to_float(self.task.loss(outputs, targets)) * len(targets)
                sums = {k: to_float(v) for k, v in self.task.metrics(outputs, targets).items()}
                if taken := RESERVED & sums.keys():
                    raise DataError(
                        f"a metric is called {min(taken)!r}, which a round's line says already; "
                        "call it something else"
                    )
                parts.append(Metrics({"loss": loss, **sums}, len(targets)))
        return merge(parts)


def _chunks(examples: Examples) -> Iterator[Examples]:
    """Yield examples in order, as many at once as an evaluation may hold."""
    numbers = max(1, examples.inputs[:1].numel())
    rows = max(1, min(EVALUATION_BATCH, _EVALUATION_NUMBERS // numbers))
    for start in range(0, len(examples), rows):
        stop = start + rows
        yield Examples(examples.inputs[start:stop], examples.targets[start:stop])


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
        for rows in torch.randperm(count, generator=generator).split(sizes):
            if taken == total:
                return
            yield examples.take(rows)
            taken += 1


def _clipped(parts: Sequence[Tensor], limit: float) -> tuple[list[Tensor], Tensor]:
    """Scale parts of one gradient so that their joint Euclidean norm is at most the limit.

    Returns:
        The parts, and the norm that they had.
    """
    norm = parts[0].norm() if len(parts) == 1 else torch.cat(list(parts)).norm()
    factor = limit / norm.clamp(min=limit)
    return [part * factor for part in parts], norm


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
