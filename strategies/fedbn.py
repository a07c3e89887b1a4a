"""FedBN: normalisation layers stay with the clients."""

from collections.abc import Set as AbstractSet
from typing import Literal, get_args

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from roundel.core.errors import CompositionError
from roundel.strategies.compose import Part
from roundel.strategies.personal_layers import checked, tensors_of
from roundel.strategies.server_optimizers import one_of

Kinds = Literal["batch", "all"]

_TYPES: dict[str, tuple[type[nn.Module], ...]] = {
    "batch": (_BatchNorm,),
    "all": (_BatchNorm, _InstanceNorm, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm),
}
_CALLED = {"batch": "BatchNorm", "all": "normalisation"}


def fedbn(*, kinds: Kinds = "batch") -> Part:
    """FedAvg of everything but the normalisation layers, which each client keeps to itself.

        shared    w   = everything else             w += sum(p_k delta_k)
        personal  n_k = scales, shifts, statistics and counters of the normalisation layers

    Layers are told by their type, whatever they are called. All that belongs to one stays at the
    client, the count of batches that its statistics have seen included. A client is judged with its
    own layers; one that never took part, and the server's test set, with those of a new model
    (mean 0, variance 1), so read the clients' figures and not those of the server.

    Args:
        kinds: ``"batch"`` for BatchNorm of any dimension, as in the paper; ``"all"`` for instance,
            group, layer and root-mean-square norms too.

    Needs:
        State at the client: its normalisation layers.
    Verified:
        Oracle case (what stays, found by type), and a federation against clients averaged by hand.
    Source:
        X. Li et al., "FedBN: Federated Learning on Non-IID Features via Local Batch Normalization",
        ICLR 2021.
    """
    one_of("kinds", kinds, get_args(Kinds))

    def personal(model: nn.Module) -> AbstractSet[str]:
        layers = [part for part in model.modules() if isinstance(part, _TYPES[kinds])]
        if not layers:
            remedy = 'use kinds = "all" or fedavg' if kinds == "batch" else "use fedavg"
            raise CompositionError(
                f"fedbn keeps {_CALLED[kinds]} layers at the clients, and "
                f"{type(model).__name__} has none: put some into the model, or {remedy}"
            )
        return checked("fedbn", model, tensors_of(model, layers))

    return Part(name="fedbn", personal=personal)
