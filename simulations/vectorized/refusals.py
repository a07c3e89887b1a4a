"""Which experiments cannot be stacked, found out before the first round."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from warnings import catch_warnings, simplefilter

import torch
from torch import Tensor, nn

from roundel.client.trainer import Trainer
from roundel.core.data import Examples
from roundel.core.job import Correction, LocalContext, LocalJob, Phase
from roundel.core.learning import Learner
from roundel.core.messages import Ticket, TrainRequest
from roundel.core.seeds import (
    generator_states,
    isolated_rng,
    same_host_states,
    torch_generator,
)
from roundel.server.aggregation import broadcast_channels, initial_state
from roundel.simulations.vectorized.block import (
    flat,
    integers_of,
    shapes,
    stack_contexts,
    vectors_of,
)
from roundel.simulations.vectorized.functional import mappable_kernels
from roundel.simulations.vectorized.movers import goes_by_signs
from roundel.simulations.vectorized.slope import StackedBatch
from roundel.simulations.vectorized.stack import Stack
from roundel.strategies.compose import Part
from roundel.strategies.plan import Plan

_ROWS = 4
"""How many examples each client of the trial has, if there are as many."""

_KINKS = 1e-2
"""How far a gradient may be off, as a share of its length. Rounding can push a number over the kink
of a ReLU, which changes a few of a large model's slopes."""

_LENGTHS = (1.0, 1e3)
"""What gradients are multiplied by before they are corrected: a correction may do more to long
ones."""

_ROUNDING = {torch.float32: 1e-4, torch.float64: 1e-10}  # a vector is of one or the other
"""How far losses and running statistics may be off, likewise: they have no kinks."""


def why_not(plan: Plan, examples: Examples) -> str | None:
    """Return why an experiment's clients must be trained one after another; None if they need not.

    Two clients are tried out on a model of their own: their gradients on a stack must be those that
    they have alone, as they start and with what they keep of a first step.

    Args:
        plan: The experiment.
        examples: Some to try it with, at least as many as a batch must have.

    Returns:
        A fragment that goes after "because". It follows from the arguments alone.

    Raises:
        Exception: Whatever the user's code raises when it is trained on these examples alone.
    """
    if reason := _by_plan(plan):
        return reason
    if not len(examples):
        return "there are no examples to try it with"
    learner, parts = Learner(plan.task, plan.experiment.seed_for("model")), plan.strategy.parts
    jobs = _jobs(plan, learner, examples)
    if reason := _by_trial(learner, jobs, parts):
        return reason
    later = _later(plan, learner, jobs)
    return _by_trial(learner, later, parts) if later else None


def _by_plan(plan: Plan) -> str | None:
    """Name what replaces the learning loop."""
    if plan.task.train is not None:
        return f"the task {plan.task.name!r} brings a training function of its own"
    for part in plan.strategy.parts:
        if part.solver is not None:
            return f"{part.name} trains with a solver of its own"
    for phase in plan.phases(1):
        if not phase.optimizer.is_elementwise:
            name = phase.optimizer.name
            return f"client.optimizer = {name!r} does not move each number by itself"
        if goes_by_signs(phase.optimizer):
            name = phase.optimizer.name
            return f"client.optimizer = {name!r} goes by signs alone, which rounding can turn"
    return None


def _by_trial(learner: Learner, jobs: list[LocalJob], parts: Sequence[Part]) -> str | None:
    """Compare what two clients find together with what each finds alone."""
    return _by_model(learner, jobs) or _by_corrections(learner, jobs, parts)


def _by_model(learner: Learner, jobs: list[LocalJob]) -> str | None:
    """Look at the model, the loss and the loss terms."""
    name = type(learner.model).__name__
    attributes = _attributes(learner.model)
    with isolated_rng(0):
        before = generator_states()
        alone = _one_by_one(learner, jobs, training=True)
        drawn = not same_host_states(before, generator_states())
    if changed := dict(_attributes(learner.model).items() - attributes.items()):
        return f"{name} keeps {min(changed)!r} from one batch to the next"
    if drawn:
        return f"{name} draws from Python's or numpy's generator, once for all clients of a stack"
    # What is dropped differs from draw to draw: compare models that drop where they do not.
    training = _equal(alone, _seeded(1, learner, jobs, training=True))
    if not training:
        alone = _seeded(0, learner, jobs, training=False)
        if not _equal(alone, _seeded(1, learner, jobs, training=False)):
            return f"{name} gives other results each time, even in evaluation"
    return _by_stack(learner, jobs, alone, training=training)


def _by_stack(
    learner: Learner, jobs: list[LocalJob], alone: list["_Found"], *, training: bool
) -> str | None:
    """Compare with a stack, which is also tried in training."""
    name = type(learner.model).__name__
    try:
        with catch_warnings(record=True) as warned:
            simplefilter("always")
            together = _together(learner, jobs, training=True)
            if not training:
                together = _together(learner, jobs, training=False)
    except Exception as error:  # noqa: BLE001 - likewise
        return _unmappable(name, error)
    if slow := [found[1] for one in warned if (found := _SLOW.search(str(one.message)))]:
        return f"torch has no batched form of {slow[0]}, which {name} uses"
    if all(one.is_close_to(other) for one, other in zip(together, alone, strict=True)):
        return None
    return f"{name} computes something else on a stack of clients than for each of them"


@dataclass(frozen=True, kw_only=True)
class _Correcting:
    """What corrections are given, apart from gradients.

    Attributes:
        points: Where the clients are, some way from what they were sent, shape ``(T,)`` each.
        contexts: What they know.
        stacked: The same, of all of them.
    """

    points: list[Tensor]
    contexts: list[LocalContext]
    stacked: LocalContext

    def alone(self, correction: Correction, gradients: list[Tensor], seed: int) -> list[Tensor]:
        """Correct each client's gradient as the loop would."""
        with isolated_rng(seed), torch.no_grad():
            return [
                correction(gradient.clone(), point.clone(), context)
                for gradient, point, context in zip(
                    gradients, self.points, self.contexts, strict=True
                )
            ]

    def together(self, correction: Correction, gradients: list[Tensor]) -> Tensor:
        """Correct all gradients at once."""
        with isolated_rng(0), torch.no_grad():
            return correction(torch.stack(gradients), torch.stack(self.points), self.stacked)


def _by_corrections(learner: Learner, jobs: list[LocalJob], parts: Sequence[Part]) -> str | None:
    """Put the clients' gradients, also long ones, through correction after correction."""
    corrections = [(part.name, correction) for part in parts for correction in part.corrections]
    if not corrections:
        return None
    found = [one.gradient for one in _seeded(0, learner, jobs, training=True)]
    given = _Correcting(
        points=[job.context.sent_trainable - g for job, g in zip(jobs, found, strict=True)],
        contexts=[job.context for job in jobs],
        stacked=stack_contexts(jobs),
    )
    for length in _LENGTHS:
        gradients = [length * gradient for gradient in found]
        for part, correction in corrections:
            alone = given.alone(correction, gradients, seed=0)
            if reason := _by_correction(given, correction, gradients, alone):
                return f"the correction of {part} {reason}"
            gradients = alone
    return None


def _by_correction(
    given: _Correcting, correction: Correction, gradients: list[Tensor], alone: list[Tensor]
) -> str | None:
    """Compare what a correction makes of a stack of gradients with what it makes of each."""
    if not all(map(torch.equal, alone, given.alone(correction, gradients, seed=1))):
        return "gives other results each time"
    try:
        together = given.together(correction, gradients)
    except Exception as error:  # noqa: BLE001 - likewise
        return f"fails on a stack of clients ({_first_line(error)})"
    share = _ROUNDING[given.stacked.spec.dtype]
    alike = together.shape == torch.stack(gradients).shape and all(
        _near(one, other, share) for one, other in zip(together, alone, strict=True)
    )
    return None if alike else "mixes clients of a stack"


_SLOW = re.compile(r"batching rule for (\S+?)\.")
"""What torch warns of when it maps an operation by a loop."""


def _unmappable(name: str, error: Exception) -> str:
    if ".item()" in str(error) or "data-dependent" in str(error):
        return (
            f"{name} reads numbers out of tensors while it runs (by .item(), or by a branch on "
            "them), which differ by client"
        )
    return f"torch cannot map {name} over clients ({_first_line(error)})"


@dataclass(frozen=True, kw_only=True)
class _Found:
    """What one batch is to one client.

    Attributes:
        loss: The task's loss.
        gradient: With loss terms, without corrections, shape ``(T,)``.
        vector: The vector afterwards, with new running statistics, shape ``(D,)``.
        integers: The integer vector afterwards.
    """

    loss: Tensor
    gradient: Tensor
    vector: Tensor
    integers: Tensor

    def equals(self, other: "_Found") -> bool:
        """Tell whether all is the same, bit for bit."""
        return all(
            torch.equal(one, two)
            for one, two in zip(vars(self).values(), vars(other).values(), strict=True)
        )

    def is_close_to(self, other: "_Found") -> bool:
        """Tell whether all is the same up to rounding."""
        share = _ROUNDING[self.vector.dtype]
        return (
            _near(self.loss, other.loss, share)
            and _near(self.vector, other.vector, share)
            and _near(self.gradient, other.gradient, _KINKS)
            and torch.equal(self.integers, other.integers)
        )


def _near(one: Tensor, other: Tensor, share: float) -> bool:
    return bool((one - other).norm() <= share * (other.norm() + 1e-3))


def _equal(some: list["_Found"], others: list["_Found"]) -> bool:
    return all(one.equals(other) for one, other in zip(some, others, strict=True))


def _seeded(seed: int, learner: Learner, jobs: list[LocalJob], *, training: bool) -> list[_Found]:
    """Look at each job's examples, beginning with other draws for another seed."""
    with isolated_rng(seed):
        return _one_by_one(learner, jobs, training=training)


def _one_by_one(learner: Learner, jobs: list[LocalJob], *, training: bool) -> list[_Found]:
    """Look at each job's examples as the loop would."""
    found = []
    for job in jobs:
        learner.load(job.context.sent, job.integers, training=training)
        loss, gradient = learner.gradient(job.examples, job)
        vector, integers = learner.vector.clone(), learner.integers()
        found.append(_Found(loss=loss, gradient=gradient, vector=vector, integers=integers))
    return found


def _together(learner: Learner, jobs: list[LocalJob], *, training: bool) -> list[_Found]:
    """Look at the examples of all jobs at once."""
    stack, spec = Stack(learner), learner.spec
    tensors = stack.start(jobs)
    wanted = [entry.name for entry in spec.entries if entry.trainable]
    batch = StackedBatch(
        inputs=torch.stack([job.examples.inputs for job in jobs]),
        targets=torch.stack([job.examples.targets for job in jobs]),
    )
    gradients = stack.gradients(jobs)
    learner.model.train(training)
    with isolated_rng(0), mappable_kernels():
        slope = gradients.slope(tensors, batch, stack_contexts(jobs), wanted)
    after = {**tensors, **slope.buffers}
    none = [learner.initial_integers] * len(jobs)
    found = zip(
        slope.losses,
        torch.cat([flat(gradient) for gradient in slope.gradients], dim=1),
        vectors_of(spec, after),
        integers_of(spec, after) if spec.integers else none,
        strict=True,
    )
    return [_Found(loss=a, gradient=b, vector=c, integers=d) for a, b, c, d in found]


def _jobs(plan: Plan, learner: Learner, examples: Examples) -> list[LocalJob]:
    """Return two clients at different points with different examples, as many each."""
    rows = max(1, min(_ROWS, len(examples) // 2))
    generator = torch_generator(0)
    jobs = []
    for k in range(2):
        own = torch.arange(k * rows, (k + 1) * rows) % len(examples)
        jobs.append(
            LocalJob(
                context=LocalContext(
                    spec=learner.spec,
                    sent=_moved(learner, generator),
                    received=_received(plan, learner),
                    lr=plan.phases(1)[0].optimizer.lr,
                ),
                integers=learner.initial_integers,
                examples=examples.take(own.to(examples.inputs.device)),
                phases=[Phase()],
                loss_terms=plan.strategy.loss_terms,
            )
        )
    return jobs


def _later(plan: Plan, learner: Learner, jobs: list[LocalJob]) -> list[LocalJob]:
    """Return the jobs with what their clients keep of a step; none if nothing looks at that."""
    strategy = plan.strategy
    looks = strategy.loss_terms or strategy.corrections
    if not (looks and plan.stateful(learner.spec)):
        return []
    states = [_kept(plan, learner, job) for job in jobs]
    if not states[0] or any(shapes(state) != shapes(states[0]) for state in states):
        return []  # clients that keep other things are not stacked
    return [
        replace(job, context=replace(job.context, state=state))
        for job, state in zip(jobs, states, strict=True)
    ]


def _kept(plan: Plan, learner: Learner, job: LocalJob) -> Mapping[str, Tensor]:
    """Return what a client keeps of its first round, if each phase has but a step."""
    strategy = plan.strategy
    full = replace(
        job,
        phases=[replace(phase, epochs=None, steps=1) for phase in plan.phases(1)],
        corrections=strategy.corrections,
        pull=strategy.pull,
        wants_impulse=strategy.wants_impulse,
    )
    request = TrainRequest(
        ticket=Ticket(run="trial", round=1, client_id=0),
        base_version=0,
        params=job.context.sent[learner.spec.shared],
        integers=job.integers,
        channels=job.context.received,
    )
    trainer = Trainer(plan, learner, secret=lambda: bytes(32))
    with isolated_rng(0):
        trained = learner.train(full)
        [delta] = trainer.deltas([full], [trained])
        return trainer.answer(request, full, trained, delta, seconds=0.0)[1]


def _moved(learner: Learner, generator: torch.Generator) -> Tensor:
    """Return the initial vector, its trainable part a little elsewhere."""
    vector = learner.initial.clone()
    part = vector[learner.spec.trainable]
    part += 0.01 * torch.randn(part.shape, generator=generator).to(part)
    return vector


def _received(plan: Plan, learner: Learner) -> Mapping[str, Tensor]:
    """Return what the server broadcasts besides the parameters, in the first round."""
    spec, integers = learner.spec, learner.initial_integers
    state = initial_state(plan.strategy, spec, learner.initial, integers)
    return broadcast_channels(plan.strategy, state)


def _attributes(model: nn.Module) -> dict[str, str]:
    """Describe what a model's modules keep besides tensors and modules."""
    return {
        f"{name}.{own}" if name else own: described
        for name, module in model.named_modules()
        for own, value in vars(module).items()
        if own not in _TORCHS and (described := _described(value)) is not None
    }


_TORCHS = frozenset(vars(nn.Module()))
"""What torch itself keeps of every module: its tensors, its modules, hooks, the mode."""


def _described(value: object) -> str | None:
    """Return a text that changes with a value; None for what is not looked into."""
    match value:
        case Tensor():
            return f"{id(value)} {value._version}"  # noqa: SLF001 - how often it was written to
        case None | bool() | int() | float() | str() | bytes():
            return repr(value)
        case list() | tuple() | set() | frozenset():
            return f"{id(value)} {[_described(one) for one in value]}"
        case dict():
            return f"{id(value)} {[(str(k), _described(v)) for k, v in value.items()]}"
        case _:
            return f"{id(value)}"


def _first_line(error: Exception) -> str:
    """Return what kind of error it is and the first line of what it says."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
