"""Split learning: clients run the first layers of a model, and a server the rest."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from time import perf_counter

import torch
from torch import Tensor, nn

from roundel.client.attempt import failure_of
from roundel.core.data import Examples
from roundel.core.errors import ConfigError
from roundel.core.exact import ExactSum
from roundel.core.job import LocalContext, LocalJob, batches
from roundel.core.learning import Learner
from roundel.core.messages import Ticket
from roundel.core.metrics import Metrics
from roundel.core.optimizers import as_pieces
from roundel.core.params import Entry
from roundel.core.records import ClientRecord
from roundel.core.seeds import isolated_rng, torch_generator
from roundel.server.aggregation import ServerState
from roundel.simulations.topologies.peers import (
    Advance,
    Ground,
    Model,
    Topology,
    Worked,
    failed,
    summed,
)


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """One batch: what crosses the cut, and what both sides make of it.

    Attributes:
        smashed: What the client sends: its activations, shape ``(B, ...)``.
        outputs: The model's outputs at the server.
        loss: The mean loss of the batch.
        grad_smashed: What the server sends back: the loss's gradient by the activations.
        server: Gradients of the server's parameters, in their order.
        client: Gradients of the client's parameters, in their order.
    """

    smashed: Tensor
    outputs: Tensor
    loss: Tensor
    grad_smashed: Tensor
    server: Sequence[Tensor]
    client: Sequence[Tensor]


def exchange(
    front: nn.Module, back: nn.Module, loss: Callable[[Tensor, Tensor], Tensor], batch: Examples
) -> Exchange:
    """Pass one batch forward and backward through both halves of a model.

        client   h = front(x)                                   sends h and y
        server   L = loss(back(h), y), its gradients, dL/dh     sends dL/dh
        client   its gradients: (dL/dh) (dh/dw)

    No graph spans the two sides: all that one knows of the other is what is sent.

    Args:
        front: The client's layers.
        back: The server's.
        loss: Outputs and targets to the mean loss.
        batch: The examples; their inputs stay with the client.

    Source:
        O. Gupta and R. Raskar, "Distributed learning of deep neural network over multiple agents",
        2018; P. Vepakomma et al., "Split learning for health", 2018.
    """
    smashed: Tensor = front(batch.inputs)
    received = smashed.detach().requires_grad_()
    outputs: Tensor = back(received)
    value = loss(outputs, batch.targets)
    grad_smashed, *server = torch.autograd.grad(
        value, [received, *_trained(back)], materialize_grads=True
    )
    # torch's own way to begin with a given gradient loads its compiler first, which takes a second
    along = (smashed * grad_smashed).sum()
    client = torch.autograd.grad(along, _trained(front), materialize_grads=True)
    return Exchange(
        smashed=received.detach(),
        outputs=outputs.detach(),
        loss=value.detach(),
        grad_smashed=grad_smashed,
        server=server,
        client=client,
    )


def halves(model: nn.Module, cut: int | str | None) -> tuple[nn.Sequential, nn.Sequential]:
    """Cut a model in two that share its tensors.

    Args:
        model: A sequence of layers.
        cut: How many layers the client keeps, or the name of its last one. None for the first half
            (rounded down) of those that have parameters, with what follows them without any.

    Raises:
        ConfigError: The model is no sequence, has no such layer, or one side would have nothing to
            train.
    """
    if not isinstance(model, nn.Sequential):
        raise ConfigError(
            f"topology.kind = 'split' cuts an nn.Sequential, and the model is "
            f"{type(model).__name__}; take a task.model that is a sequence of layers"
        )
    layers = dict(model.named_children())
    names = list(layers)
    at = _place(layers, cut)
    front, back = (
        nn.Sequential(*[layers[name] for name in part]) for part in (names[:at], names[at:])
    )
    for side, part in (("client", front), ("server", back)):
        if not _trained(part):
            raise ConfigError(
                f"topology.cut = {cut!r} leaves the {side} nothing to train; cut among the layers "
                f"{', '.join(names)}"
            )
    return front, back


def _place(layers: dict[str, nn.Module], cut: int | str | None) -> int:
    names = list(layers)
    if cut is None:
        trained = [place for place, name in enumerate(names) if _trained(layers[name])]
        if len(trained) < 2:  # noqa: PLR2004 - one for each side
            raise ConfigError(
                "topology.kind = 'split' needs two layers with parameters, one for each side, and "
                f"the model has {len(trained)}; take another task.model"
            )
        return trained[len(trained) // 2]
    if isinstance(cut, int) and cut < len(names):
        return cut
    if isinstance(cut, str) and cut in names:
        return names.index(cut) + 1
    raise ConfigError(
        f"topology.cut = {cut!r} is no place in the model, whose {len(names)} layers are "
        f"{', '.join(names)}; give the name of one, or a number below {len(names)}"
    )


def _trained(part: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in part.parameters() if parameter.requires_grad]


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One client's turn with the server.

    Attributes:
        model: The whole model afterwards, both sides.
        metrics: The loss, summed over the examples.
        steps: How many batches.
        up: Bytes of activations and targets.
        down: Bytes of gradients.
    """

    model: Model
    metrics: Metrics
    steps: int
    up: int
    down: int


class Cut:
    """A learner's model in two halves.

    Attributes:
        learner: Its model stays whole, for evaluation; both halves share its tensors.
        front: The client's layers.
        back: The server's.
    """

    def __init__(self, learner: Learner, cut: int | str | None) -> None:
        self.learner = learner
        self.front, self.back = halves(learner.model, cut)
        kept = list(dict(learner.model.named_children()))[: len(self.front)]
        self._prefixes = tuple(f"{name}." for name in kept)
        named = {id(parameter): name for name, parameter in learner.model.named_parameters()}
        self._names = [named[id(p)] for part in (self.front, self.back) for p in _trained(part)]

    def at_client(self, name: str) -> bool:
        """Tell from a tensor's name whether it is the client's."""
        return name.startswith(self._prefixes)

    def mask(self, entries: Sequence[Entry]) -> Tensor:
        """Return which numbers of a vector are the client's, bool."""
        parts = [torch.full((e.numel,), self.at_client(e.name)) for e in entries]
        return torch.cat([torch.empty(0, dtype=torch.bool), *parts])

    def train(self, job: LocalJob) -> Turn:
        """Train both halves on one client's examples, as `Learner.train` trains the whole.

        Each side has an optimizer of its own, which starts anew with each client.
        """
        learner, spec = self.learner, self.learner.spec
        (phase,) = job.phases
        learner.begin(job)
        sides = [
            phase.optimizer.pieces(
                spec, [e.name for e in spec.entries if e.trainable and self.at_client(e.name) is it]
            )
            for it in (True, False)
        ]
        pieces = [as_pieces(learner.vector, parts) for parts in sides]
        optimizers = [phase.optimizer.build(own) for own in pieces]
        losses, sizes, up, down = [], [], 0, 0
        for drawn in batches(
            job.examples, phase, torch_generator(job.seed), learner.smallest_batch
        ):
            batch = learner.task.augment(drawn) if learner.task.augment else drawn
            passed = exchange(self.front, self.back, learner.task.loss, batch)
            gradient = self._flat([*passed.client, *passed.server])
            for own, parts, optimizer in zip(pieces, sides, optimizers, strict=True):
                for piece, (where, shape) in zip(own, parts, strict=True):
                    piece.grad = gradient[where].view(shape)
                optimizer.step(partial(_known, passed.loss))
            losses.append(float(passed.loss) * len(batch))
            sizes.append(len(batch))
            up += passed.smashed.nbytes + batch.targets.nbytes
            down += passed.grad_smashed.nbytes
        return Turn(
            model=(learner.vector.clone(), learner.integers()),
            metrics=Metrics({"loss": sum(losses)}, sum(sizes)) if sizes else Metrics(),
            steps=len(sizes),
            up=up,
            down=down,
        )

    def _flat(self, gradients: Sequence[Tensor]) -> Tensor:
        """Return gradients of tensors where these lie in the vector, shape ``(D,)``."""
        flat = torch.zeros_like(self.learner.vector)
        for name, gradient in zip(self._names, gradients, strict=True):
            flat[self.learner.spec.slice_of(name)] = gradient.reshape(-1)
        return flat


def _known(loss: Tensor) -> Tensor:
    """Return the loss, which the sides have found out together before they step."""
    return loss


def split(ground: Ground) -> Topology:
    """Let each client of the cohort train the first layers, with a server that has the others.

    For every batch the client sends its activations and the targets, and is sent the gradient by
    the activations. Clients take their turns in the order of their numbers, with the batches that
    they would have in a federation. ``topology.handover`` says what becomes of the two halves:

        sequential    both go on from client to client: plain SGD on all batches in turn
        splitfed-v1   every client starts from the round's model, and so does a copy of the server's
                      half for each; both are averaged, weighted by examples, as by FedAvg
        splitfed-v2   the same for the client's half; the server's goes on from client to client

    Bytes are those of activations, targets and gradients, batch by batch, and of the client's half,
    which each client is sent before its turn and sends back after it.

    Args:
        ground: What there is.

    Source:
        O. Gupta and R. Raskar, "Distributed learning of deep neural network over multiple agents",
        2018; C. Thapa et al., "SplitFed: When Federated Learning Meets Split Learning", AAAI 2022.
    """
    learner = ground.server.learner
    settings = ground.server.plan.experiment.topology
    cut = Cut(learner, settings.cut)
    spec = learner.spec
    front = cut.mask(spec.entries)
    counters = cut.mask(spec.integers)

    def advance(state: ServerState) -> Advance:
        began = (state.params, state.integers)
        running, ends, counts, worked = began, list[Model](), list[int](), list[Worked]()
        up = down = 0
        handed = int(front.sum()) * began[0].element_size() + int(counters.sum()) * 8
        for client_id in ground.cohort(state):
            start = began if settings.handover == "splitfed-v1" else running
            if settings.handover == "splitfed-v2":
                start = _joined(began, running)
            one, turn = _attempt(ground, cut, state.round + 1, client_id, start)
            worked.append(one)
            down += handed
            if turn is not None:
                running = one.model
                ends.append(one.model)
                counts.append(one.record.num_examples or 0)
                up += turn.up + handed
                down += turn.down
        if settings.handover != "sequential" and ends:
            averaged = _averaged(began, ends, counts)
            running = averaged if settings.handover == "splitfed-v1" else _joined(averaged, running)
        return summed(running, worked, bytes_up=up, bytes_down=down)

    def _joined(client: Model, server: Model) -> Model:
        """Return the client's half of one model with the server's half of another."""
        return (
            torch.where(front, client[0], server[0]),
            torch.where(counters, client[1], server[1]),
        )

    return Topology(advance=advance)


def _averaged(began: Model, ends: Sequence[Model], counts: Sequence[int]) -> Model:
    """Return the mean of models, weighted by examples, as federated averaging does."""
    total = ExactSum.zero(began[0].numel())
    integers = ends[0][1]
    for (vector, own), count in zip(ends, counts, strict=True):
        total.add_(vector - began[0], count)
        integers = torch.maximum(integers, own)
    return began[0] + total.total(sum(counts), began[0].dtype), integers


def _attempt(
    ground: Ground, cut: Cut, number: int, client_id: int, start: Model
) -> tuple[Worked, Turn | None]:
    """Give one client its turn; if it fails, the model stays as it was."""
    phase = ground.phase(number)
    clock = perf_counter()
    stage = "data"
    try:
        examples = ground.population.client(client_id).train
        stage = "train"
        job = LocalJob(
            context=LocalContext(spec=cut.learner.spec, sent=start[0], lr=phase.optimizer.lr),
            integers=start[1],
            examples=examples,
            phases=[phase],
            seed=ground.seed("batches", number, client_id),
        )
        with isolated_rng(ground.seed("training", number, client_id)):
            turn = cut.train(job)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - user code may raise anything
        ticket = Ticket(run=ground.server.run, round=number, client_id=client_id)
        return failed(failure_of(error, ticket, stage), start, {}), None
    record = ClientRecord(
        round=number,
        client=client_id,
        status="accepted",
        num_examples=len(examples),
        num_steps=turn.steps,
        train_loss=turn.metrics.means().get("loss"),
        update_norm=float((turn.model[0] - start[0]).norm()),
        seconds=round(perf_counter() - clock, 6),
    )
    done = Worked(model=turn.model, state={}, record=record, metrics=turn.metrics)
    if bool(torch.isfinite(turn.model[0]).all()):
        return done, turn
    reason = "its training made parameters that are not finite"
    refused = replace(record, status="rejected", reason=reason)
    return replace(done, model=start, record=refused, metrics=Metrics()), None
