"""Models in two parts, one shared and one that each client keeps: FedPer, FedRep, LG-FedAvg."""

from collections.abc import Callable, Collection, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace

from torch import nn

from roundel.core.errors import CompositionError
from roundel.core.job import Phase
from roundel.core.params import Entry
from roundel.strategies.compose import Part
from roundel.strategies.server_optimizers import at_least_one

_OWN_HEAD = frozenset({"own head"})

Names = str | list[str] | None
"""What begins the names of tensors: one or several modules, or single tensors."""


def fedper(*, head: Names = None) -> Part:
    """FedAvg of the model's body; each client keeps a head of its own.

        w, h_k = local training from (w, h_k), jointly
        w     += sum(p_k (w_k - w))                   h_k is never sent

    A client is judged with its own head; one that never took part, and the server's test set, with
    the head of a new model.

    Args:
        head: The modules (or single tensors) that stay with the client, such as ``"head"`` or
            ``["blocks.1", "head"]``; None for the last module of the model that has parameters of
            its own, in the order in which the model defines them.

    Needs:
        State at the client: its head. Fewer bytes both ways.
    Verified:
        Oracle case, and a federation against clients trained and averaged by hand.
    Source:
        M. G. Arivazhagan et al., "Federated Learning with Personalization Layers",
        arXiv:1912.00818, 2019.
    """
    return Part(name="fedper", personal=_head("fedper", "head", head), provides=_OWN_HEAD)


def fedrep(*, head: Names = None, head_epochs: int = 10, body_epochs: int | None = None) -> Part:
    """FedPer whose clients train the head first, and then the body.

        h_k = train h from h_k             with w as it was sent
        w_k = train w from w               with the new h_k
        w  += sum(p_k (w_k - w))           h_k is never sent

    Only tensors that are trained take part in this order: float buffers, such as the statistics of
    BatchNorm, see the batches of both phases.

    Args:
        head: As in `fedper`.
        head_epochs: Passes of the first phase, 1 or more. The authors' scripts make 10.
        body_epochs: Passes of the second phase, 1 or more; None for as long as the experiment's
            clients train. The authors' scripts make 1 on CIFAR-10 and 5 on CIFAR-100.

    Needs:
        State at the client: its head. `head_epochs` more passes over the data; fewer bytes.
    Verified:
        Closed form (both phases of a model of two factors), and a federation by hand.
    Source:
        L. Collins et al., "Exploiting Shared Representations for Personalized Federated Learning",
        ICML 2021, Algorithm 1.
    """
    at_least_one("head_epochs", head_epochs)
    if body_epochs is not None:
        at_least_one("body_epochs", body_epochs)

    def rewrite(phases: Sequence[Phase]) -> Sequence[Phase]:
        return [part for phase in phases for part in alternating(phase)]

    def alternating(phase: Phase) -> tuple[Phase, Phase]:
        def of_head(entry: Entry) -> bool:
            return entry.personal and (phase.trains is None or phase.trains(entry))

        def of_body(entry: Entry) -> bool:
            return not entry.personal and (phase.trains is None or phase.trains(entry))

        first = replace(phase, epochs=head_epochs, steps=None, trains=of_head)
        second = replace(phase, trains=of_body)
        if body_epochs is not None:
            second = replace(second, epochs=body_epochs, steps=None)
        return first, second

    return Part(
        name="fedrep",
        phases=rewrite,
        personal=_head("fedrep", "head", head),
        provides=_OWN_HEAD,
    )


def lg_fedavg(*, shared: Names = None) -> Part:
    """FedPer the other way round: the head is shared, each client keeps the layers below it.

        w, b_k = local training from (w, b_k), jointly
        w     += sum(p_k (w_k - w))                   b_k is never sent

    A client is judged with its own layers; one that never took part, and the server's test set,
    with those of a new model. The authors begin with a model trained by FedAvg: give it as
    `task.initial`.

    Args:
        shared: The modules (or single tensors) that are averaged; None for the last module of the
            model that has parameters of its own, in the order in which the model defines them.

    Needs:
        State at the client: everything but the head. Far fewer bytes both ways.
    Verified:
        Oracle case (what is averaged), and a federation by hand.
    Source:
        P. P. Liang et al., "Think Locally, Act Globally: Federated Learning with Local and Global
        Representations", arXiv:2001.01523, 2020.
    """
    head = _head("lg_fedavg", "shared", shared)

    def rest(model: nn.Module) -> AbstractSet[str]:
        return checked("lg_fedavg", model, _all_tensors(model) - head(model))

    return Part(
        name="lg_fedavg",
        personal=rest,
        refuses=dict.fromkeys(
            _OWN_HEAD,
            "one shares the head and the other everything else, so that nothing would be shared; "
            "use one of them",
        ),
    )


def tensors_of(model: nn.Module, parts: Collection[nn.Module]) -> frozenset[str]:
    """Return the names of all parameters and buffers of some of a model's modules."""
    return frozenset(
        f"{name}.{tensor}" if name else tensor
        for name, module in model.named_modules()
        if any(module is part for part in parts)
        for tensor in _all_tensors(module)
    )


def checked(strategy: str, model: nn.Module, personal: AbstractSet[str]) -> AbstractSet[str]:
    """Return the names of personal tensors if training has something to share and to keep.

    Statistics of a normalisation are worth keeping, too: training moves them.

    Raises:
        CompositionError: There is nothing to share, or nothing to keep.
    """
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    moved = trained | {name for name, _ in model.named_buffers()}
    for side, left in (("share", trained - personal), ("keep at the client", moved & personal)):
        if not left:
            raise CompositionError(
                f"{strategy} leaves nothing that is trained to {side}: "
                f"{type(model).__name__} has {', '.join(sorted(trained))}; name other layers, or "
                "use a model of more parts"
            )
    return personal


def _head(strategy: str, knob: str, said: Names) -> Callable[[nn.Module], AbstractSet[str]]:
    """Return what finds the head's tensors in a model."""
    prefixes = [said] if isinstance(said, str) else said
    if prefixes is not None and not prefixes:
        raise CompositionError(f"{knob} = [] names nothing; leave it out for the last layer")

    def find(model: nn.Module) -> AbstractSet[str]:
        if prefixes is None:
            return checked(strategy, model, tensors_of(model, [_last_layer(model)]))
        found = [_beginning_with(prefix, model, knob) for prefix in prefixes]
        return checked(strategy, model, frozenset[str]().union(*found))

    return find


def _last_layer(model: nn.Module) -> nn.Module:
    """Return the last module that has trained parameters of its own."""
    return [
        module
        for module in model.modules()
        if any(p.requires_grad for p in module.parameters(recurse=False))
    ][-1]


def _beginning_with(prefix: str, model: nn.Module, knob: str) -> AbstractSet[str]:
    names = _all_tensors(model)
    found = frozenset(n for n in names if n == prefix or n.startswith(prefix.rstrip(".") + "."))
    if not found:
        parts = dict.fromkeys(name.split(".")[0] for name, _ in model.named_parameters())
        raise CompositionError(
            f"{knob} = {prefix!r} begins no name in {type(model).__name__}; it has "
            f"{', '.join(parts)}"
        )
    return found


def _all_tensors(model: nn.Module) -> frozenset[str]:
    parameters = (name for name, _ in model.named_parameters(remove_duplicate=False))
    buffers = (name for name, _ in model.named_buffers(remove_duplicate=False))
    return frozenset((*parameters, *buffers))
