"""The learning loop: one model, some examples, some steps.

Client and server both use it: clients to train, the server to evaluate and to train on root data.
A `Learner` owns one model whose tensors are views of one flat vector. `train` is pure from the
outside: it reads a `LocalJob` and returns a `Trained`, and leaves nothing behind that the next call
could see.

A learner computes on one device. What it is given may lie anywhere; what `train`, `measure` and
`evaluate` return lies on the CPU, where updates are made, hashed and added up.

What an algorithm adds comes as values in the job:

- a *gradient correction* ``g' = f(g, x, context)`` on flat vectors. It may use broadcasting
  operations only, so that one formula serves a client ``(T,)`` and a stack of clients ``(K, T)``;
- a *loss term* ``term(batch) -> scalar`` that is added to the task's loss;
- several *phases*, run one after another (FedRep trains the head, then the body);
- a *solver* in place of `train`, for nested work (pFedMe), written with `Learner.gradient`.
"""

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from functools import partial
from itertools import accumulate
from math import prod

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from roundel.core.data import Examples
from roundel.core.errors import DataError, ParameterError
from roundel.core.forward import Forward
from roundel.core.job import (
    LocalJob,
    Phase,
    Trained,
    batches,
    impulse,
    lr_steps,
    placed,
)
from roundel.core.metrics import Metrics, merge, to_float
from roundel.core.modelfile import misfit
from roundel.core.optimizers import as_pieces
from roundel.core.params import named_tensors
from roundel.core.records import RESERVED
from roundel.core.recycling import copied, empty
from roundel.core.seeds import torch_generator
from roundel.core.task import Task

CPU = torch.device("cpu")

EVALUATION_BATCH = 1024
"""Examples that are evaluated at once, fewer of large ones."""

_EVALUATION_NUMBERS = 1 << 22


class Learner:
    """One model on one flat vector, reused for client after client.

    Attributes:
        task: What is learned.
        spec: The model's layout.
        model: The model; its floating-point tensors are views of `vector`.
        vector: The working vector, shape ``(D,)``, on `device`.
        device: Where it computes.
        initial: The vector a new model starts from, shape ``(D,)``, on the CPU.
        initial_integers: Its integer buffers, likewise.
        transient: Buffers that are in no vector, by name, as they start, on `device`.
        smallest_batch: The fewest examples that a batch may have if there are more: two for models
            with BatchNorm, which cannot train on one.
    """

    def __init__(self, task: Task, seed: int, device: torch.device = CPU) -> None:
        """Draw a model, on the CPU, so that it starts from the same bits on every device.

        Args:
            task: What is learned.
            seed: Decides the initial model.
            device: Where to compute.
        """
        self.task = task
        self.model: nn.Module = task.new_model(seed)
        self.model.train()  # a part that the factory left in another mode is in training mode too
        self.spec = task.spec(self.model)
        self.initial, self.initial_integers = self.spec.read(self.model)
        self.vector = self.initial.clone()
        normalises = any(isinstance(part, _BatchNorm) for part in self.model.modules())
        self.smallest_batch = 2 if normalises else 1
        self._forward = Forward(self.model)
        self._names = [e.name for e in self.spec.entries if e.trainable]
        persistent = set(self.model.state_dict(keep_vars=True))
        self.transient = {
            name: buffer.clone()
            for name, buffer in self.model.named_buffers()
            if name not in persistent
        }
        self.move(device)

    def move(self, device: torch.device) -> None:
        """Compute on this device from now on."""
        self.device = device
        self.model.to(device)
        self.vector = self.vector.to(device)
        self.spec.bind(self.model, self.vector)
        named = dict(self.model.named_parameters())
        self._parameters = [named[name] for name in self._names]
        self.transient = {name: initial.to(device) for name, initial in self.transient.items()}

    def rest(self) -> None:
        """Do without a working vector, which is as large as the model, until something is loaded.

        Until then the model shows where it started from.
        """
        self.spec.bind(self.model.to(CPU), self.initial)
        self.vector = self.initial

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
        if self.vector is self.initial:
            self.vector = empty(len(vector), self.initial.dtype)
            self.move(self.device)
        if self.model.training != training:
            self.model.train(training)
        if self.spec.integers:
            self.spec.write(self.model, vector, integers)
        else:
            self.vector.copy_(vector)
        for name, initial in self.transient.items():
            # It is in no vector: what one client left must not reach the next.
            self.model.get_buffer(name).copy_(initial)

    def duplicate(self) -> tuple[nn.Module, Tensor]:
        """Return a copy of the model, and the vector that its floating-point tensors are views of.

        Whatever is done to that model, this one stays as it is.
        """
        vector, own = copied(self.vector), named_tensors(self.model)
        instead = {
            id(own[name]): nn.Parameter(view, own[name].requires_grad)
            if isinstance(own[name], nn.Parameter)
            else view
            for name, view in self.spec.views(vector).items()
        }
        return deepcopy(self.model, dict[int, object](instead)), vector

    def completed(self, shared: Tensor, shared_integers: Tensor) -> tuple[Tensor, Tensor]:
        """Return both vectors whole, with what stays with clients as a new one has it.

        Args:
            shared: The shared part of the vector, shape ``(S,)``.
            shared_integers: That of the integer vector.
        """
        return self.spec.completed(shared, shared_integers, self.initial, self.initial_integers)

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
        given = {**{name: own[name] for name in may_lack}, **tensors}
        try:
            self.model.load_state_dict(given)
        except RuntimeError as error:
            reasons = misfit(own, given) or " ".join(str(error).split("\n\t", 1)[-1].split())
            raise ParameterError(
                f"{source} does not fit the model: {reasons}; name the task, the model and the "
                "adapters that it was trained with, or start from another one"
            ) from error
        self.initial, self.initial_integers = (part.cpu() for part in self.spec.read(self.model))

    def integers(self) -> Tensor:
        """Return a copy of the model's integer buffers."""
        return self.spec.read(self.model)[1] if self.spec.integers else self.initial_integers

    def gradient(self, batch: Examples, job: LocalJob) -> tuple[Tensor, Tensor]:
        """Return the task's loss at the working vector, and the corrected gradient.

        Returns:
            The mean loss of the batch, and the gradient of loss plus terms, corrected, shape
            ``(T,)``.
        """
        loss, pieces = self._slopes(batch, job)
        gradient = _joined(pieces).reshape(-1)
        with torch.no_grad():
            point = self.vector[self.spec.trainable]
            for correction in job.corrections:
                gradient = correction(gradient, point, job.context)
        return loss, gradient

    def _slopes(self, batch: Examples, job: LocalJob) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return the task's loss, and the gradient of loss plus terms by each trainable tensor."""
        heard: list[Tensor] = []
        if job.loss_terms:
            with self._forward.listening() as heard:
                outputs = self.model(batch.inputs)
        else:
            outputs = self.model(batch.inputs)
        loss = self.task.loss(outputs, batch.targets)
        total = loss
        if job.loss_terms:
            tensors = named_tensors(self.model)
            shown = self._forward.batch(
                tensors, batch.inputs, batch.targets, outputs, heard, job.context
            )
            for term in job.loss_terms:
                total = total + term(shown)
        return loss.detach(), torch.autograd.grad(total, self._parameters, materialize_grads=True)

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
        [job] = placed([job], self.device)
        self.begin(job)
        self.model.eval()
        loss = self.vector.new_zeros(())
        slope = torch.zeros_like(self.vector[self.spec.trainable])
        count = len(job.examples)
        for batch in evaluation_chunks(job.examples):
            with torch.set_grad_enabled(gradient):
                share = self.task.loss(self.model(batch.inputs), batch.targets)
                share = share * (len(batch) / count)
            if gradient:
                pieces = torch.autograd.grad(share, self._parameters, materialize_grads=True)
                slope += _joined(pieces).reshape(-1)
            loss += share.detach()
        return loss.cpu(), slope.cpu() if gradient else None

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
        [job] = placed([job], self.device)
        self.begin(job)
        generator = torch_generator(job.seed)
        metrics, steps = [], []
        for phase in job.phases:
            phase_metrics, taken = self._run(phase, job, generator)
            metrics.append(phase_metrics)
            steps.append(taken)
        return Trained(
            vector=copied(self.vector),
            integers=self.integers(),
            metrics=merge(metrics),
            steps=tuple(steps),
            impulse=impulse(self.spec, job.phases, steps, job.pull) if job.wants_impulse else None,
            lr_steps=lr_steps(self.spec, job.phases, steps),
        ).on_cpu()

    def _run(self, phase: Phase, job: LocalJob, generator: torch.Generator) -> tuple[Metrics, int]:
        parts = self._parts(phase)
        pieces = as_pieces(self.vector, parts)
        optimizer = phase.optimizer.build(pieces)
        whole = bool(job.corrections) or phase.clip_norm is not None
        first = self.spec.trainable.start
        members = [self._members(where) for where, _ in parts]
        losses: list[Tensor] = []
        clipped: list[Tensor] = []
        sizes: list[int] = []

        def closure(batch: Examples) -> Tensor:
            for piece in pieces:
                piece.grad = None  # so that this step's gradients lie where those before it lay
            if whole:
                loss, gradient = self.gradient(batch, job)
                moved = [gradient[where.start - first : where.stop - first] for where, _ in parts]
            else:
                loss, slopes = self._slopes(batch, job)
                moved = [_joined(slopes[those]) for those in members]
            if phase.clip_norm is not None:
                moved, norm = _clipped(moved, phase.clip_norm)
                clipped.append(norm > phase.clip_norm)
            for piece, part, (_, shape) in zip(pieces, moved, parts, strict=True):
                piece.grad = part.reshape(shape)
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
        counts = torch.tensor(sizes, dtype=torch.float64, device=self.device)
        sums = {"loss": torch.stack(losses).double() @ counts}
        if clipped:
            sums["clipped"] = torch.stack(clipped).double() @ counts
        return Metrics({name: float(value) for name, value in sums.items()}, sum(sizes)), taken

    def _members(self, where: slice) -> slice:
        """Return which of the trainable tensors lie in a slice of the vector."""
        starts = [*accumulate((e.numel for e in self.spec.entries if e.trainable), initial=0)]
        first = self.spec.trainable.start
        return slice(starts.index(where.start - first), starts.index(where.stop - first))

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
            for chunk in evaluation_chunks(examples):
                here = chunk.to(self.device)
                parts.append(batch_sums(self.task, self.model(here.inputs), here.targets))
        return merge(parts)


def batch_sums(task: Task, outputs: Tensor, targets: Tensor) -> Metrics:
    """Return the sums of a task's loss and metrics over one batch.

    Args:
        task: Has both.
        outputs: What the model made of the inputs, shape ``(B, ...)``.
        targets: Shape ``(B, ...)``.

    Raises:
        DataError: A metric has a name that is taken.
    """
    loss = to_float(task.loss(outputs, targets)) * len(targets)
    sums = {k: to_float(v) for k, v in task.metrics(outputs, targets).items()}
    if taken := RESERVED & sums.keys():
        raise DataError(
            f"a metric is called {min(taken)!r}, which a round's line says already; "
            "call it something else"
        )
    return Metrics({"loss": loss, **sums}, len(targets))


def evaluation_rows(examples: Examples) -> int:
    """Return how many of such examples an evaluation may hold at once."""
    numbers = max(1, prod(examples.inputs.shape[1:]))
    return max(1, min(EVALUATION_BATCH, _EVALUATION_NUMBERS // numbers))


def evaluation_chunks(examples: Examples) -> Iterator[Examples]:
    """Yield examples in order, as many at once as an evaluation may hold."""
    rows = evaluation_rows(examples)
    for start in range(0, len(examples), rows):
        stop = start + rows
        yield Examples(examples.inputs[start:stop], examples.targets[start:stop])


def _joined(tensors: Sequence[Tensor]) -> Tensor:
    """Return tensors as one, without copying if there is only one."""
    if len(tensors) == 1:
        return tensors[0]
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


def _clipped(parts: Sequence[Tensor], limit: float) -> tuple[list[Tensor], Tensor]:
    """Scale parts of one gradient so that their joint Euclidean norm is at most the limit.

    Returns:
        The parts, and the norm that they had.
    """
    norm = _joined(parts).norm()
    factor = limit / norm.clamp(min=limit)
    return [part * factor for part in parts], norm
