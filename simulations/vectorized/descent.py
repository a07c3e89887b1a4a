"""One phase of K clients: gradients, corrections, limits, steps."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from roundel.core.data import Examples
from roundel.core.job import Correction, LocalContext, Phase
from roundel.core.params import ParamSpec
from roundel.core.task import Augment
from roundel.simulations.vectorized.block import flat, pick_context
from roundel.simulations.vectorized.chain import Chain
from roundel.simulations.vectorized.feed import Step
from roundel.simulations.vectorized.movers import is_plain, mover
from roundel.simulations.vectorized.slope import Gradients, Slope, StackedBatch, Tensors


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What the steps of all phases have in common.

    Attributes:
        spec: The model's layout.
        gradients: Differentiates.
        corrections: Applied to each gradient, in this order.
        augment: Changes a client's batch; None to leave it.
    """

    spec: ParamSpec
    gradients: Gradients
    corrections: Sequence[Correction]
    augment: Augment | None

    @property
    def trainable(self) -> list[str]:
        """The tensors that a gradient consists of, in the order of the vector."""
        return [entry.name for entry in self.spec.entries if entry.trainable]


@dataclass(frozen=True, kw_only=True)
class Taken:
    """What one step was, for the A clients that took it.

    Attributes:
        losses: The mean loss of each batch, before the step, shape ``(A,)``.
        sizes: How many examples each batch had.
        clipped: Whether the gradient was above the limit, shape ``(A,)``; None without one.
    """

    losses: Tensor
    sizes: Sequence[int]
    clipped: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class _Part:
    """Batches that can be stacked, and whose they are of the active clients."""

    batch: StackedBatch
    rows: slice | Tensor = field(default_factory=lambda: slice(None))


class Descent:
    """Takes the steps of one phase, in place, each client with its own optimizer's state."""

    def __init__(
        self, setting: Setting, phase: Phase, tensors: Tensors, context: LocalContext
    ) -> None:
        """Begin a phase.

        Args:
            setting: What does not depend on the phase.
            phase: What to do.
            tensors: Where the clients are; changed in place.
            context: Their contexts, stacked.
        """
        moves = {e.name for e in setting.spec.entries if phase.trains is None or phase.trains(e)}
        self._moved = [name for name in setting.trainable if name in moves]
        self._setting = setting
        self._phase = phase
        self._tensors = tensors
        self._context = context
        self._mover = mover(phase.optimizer, [tensors[name] for name in self._moved])
        self._active = len(context.sent)
        unchanged = not setting.corrections and phase.clip_norm is None
        self._in_one = unchanged and is_plain(phase.optimizer)

    def step(self, step: Step) -> Taken:
        """Take one step."""
        if len(step.sizes) < self._active:
            self._narrow(len(step.sizes))
        sizes, parts = self._parts(step)
        gradients = self._setting.gradients
        if self._in_one and len(parts) == 1 and isinstance(gradients, Chain):
            moved = {name: self._tensors[name] for name in self._moved}
            lr = self._phase.optimizer.lr
            losses = gradients.descend(moved, self._tensors, parts[0].batch, lr)
            return Taken(losses=losses, sizes=sizes)
        wanted = self._setting.trainable if self._setting.corrections else self._moved
        slope = self._slope(parts, wanted)
        found = dict(zip(wanted, slope.gradients, strict=True))
        if self._setting.corrections:
            found = self._corrected(found)
        moves = [found[name] for name in self._moved]
        clipped = None
        if (limit := self._phase.clip_norm) is not None:
            moves, clipped = _limited(moves, limit)
        self._mover.move(moves)
        return Taken(losses=slope.losses, sizes=sizes, clipped=clipped)

    def _narrow(self, active: int) -> None:
        """Go on with the first clients; the others have taken all their steps."""
        self._active = active
        self._tensors = {name: tensor[:active] for name, tensor in self._tensors.items()}
        self._context = pick_context(self._context, slice(active))
        self._mover.narrow(active)

    def _parts(self, step: Step) -> tuple[Sequence[int], list[_Part]]:
        """Return the size of each client's batch, and the batches as they can be stacked."""
        if self._setting.augment is not None:
            batches = [self._setting.augment(batch) for batch in _each(step)]
            return [len(batch) for batch in batches], list(_alike(batches))
        if min(step.sizes) == max(step.sizes):
            batch = StackedBatch(inputs=step.inputs, targets=step.targets)
            return step.sizes, [_Part(batch=batch)]
        if self._setting.gradients.pads:
            weights = _weights(step, self._setting.spec.dtype)
            batch = StackedBatch(inputs=step.inputs, targets=step.targets, weights=weights)
            return step.sizes, [_Part(batch=batch)]
        return step.sizes, list(_by_size(step))

    def _slope(self, parts: Sequence[_Part], wanted: Sequence[str]) -> Slope:
        """Differentiate part after part, and put together what each says about its clients."""
        gradients, tensors, context = self._setting.gradients, self._tensors, self._context
        if len(parts) == 1:
            slope = gradients.slope(tensors, parts[0].batch, context, wanted)
            for name, buffer in slope.buffers.items():
                tensors[name].copy_(buffer)
            return slope
        losses = context.sent.new_empty(self._active)
        whole = [torch.empty_like(tensors[name]) for name in wanted]
        for part in parts:
            rows = part.rows
            own = {name: tensor[rows] for name, tensor in tensors.items()}
            slope = gradients.slope(own, part.batch, pick_context(context, rows), wanted)
            losses[rows] = slope.losses
            for gradient, piece in zip(whole, slope.gradients, strict=True):
                gradient[rows] = piece
            for name, buffer in slope.buffers.items():
                tensors[name][rows] = buffer
        return Slope(losses=losses, gradients=whole)

    def _corrected(self, found: Tensors) -> dict[str, Tensor]:
        """Apply the corrections to the gradient as one flat vector for each client."""
        names = self._setting.trainable
        gradient = torch.cat([flat(found[name]) for name in names], dim=1)
        point = torch.cat([flat(self._tensors[name]) for name in names], dim=1)
        for correction in self._setting.corrections:
            gradient = correction(gradient, point, self._context)
        sizes = [found[name][0].numel() for name in names]
        pieces = gradient.split(sizes, dim=1)
        return {
            name: piece.view(found[name].shape) for name, piece in zip(names, pieces, strict=True)
        }


def _limited(gradients: Sequence[Tensor], limit: float) -> tuple[list[Tensor], Tensor]:
    """Scale each client's gradient so that its Euclidean norm is at most the limit.

    Returns:
        The gradients, and whose were longer.
    """
    pieces = [flat(gradient) for gradient in gradients]
    norms = torch.stack([piece.norm(dim=1) for piece in pieces]).norm(dim=0)
    factors = (limit / norms.clamp(min=limit)).unsqueeze(1)
    scaled = [(p * factors).view(g.shape) for p, g in zip(pieces, gradients, strict=True)]
    return scaled, norms > limit


def _weights(step: Step, dtype: torch.dtype) -> Tensor:
    """Return one over its batch's size for each example, and 0 for what fills a batch up."""
    device = step.inputs.device
    sizes = torch.tensor(step.sizes, device=device).unsqueeze(1)
    fills = torch.arange(step.inputs.shape[1], device=device) >= sizes
    return sizes.to(dtype).reciprocal().expand(fills.shape).masked_fill(fills, 0.0)


def _each(step: Step) -> Iterator[Examples]:
    """Yield each client's batch."""
    for inputs, targets, size in zip(step.inputs, step.targets, step.sizes, strict=True):
        yield Examples(inputs[:size], targets[:size])


def _by_size(step: Step) -> Iterator[_Part]:
    """Put clients together whose batches have the same size."""
    for size in sorted(set(step.sizes), reverse=True):
        places = [place for place, own in enumerate(step.sizes) if own == size]
        rows = torch.tensor(places, device=step.inputs.device)
        batch = StackedBatch(inputs=step.inputs[rows, :size], targets=step.targets[rows, :size])
        yield _Part(batch=batch, rows=rows)


def _alike(batches: Sequence[Examples]) -> Iterator[_Part]:
    """Put clients together whose batches have the same shapes."""
    places: dict[object, list[int]] = {}
    for place, batch in enumerate(batches):
        kind = (batch.inputs.shape, batch.targets.shape, batch.inputs.dtype, batch.targets.dtype)
        places.setdefault(kind, []).append(place)
    for some in places.values():
        stacked = StackedBatch(
            inputs=torch.stack([batches[place].inputs for place in some]),
            targets=torch.stack([batches[place].targets for place in some]),
        )
        yield _Part(batch=stacked, rows=torch.tensor(some, device=stacked.inputs.device))
