"""Clipping: no client contributes more than so much."""

from collections.abc import Mapping, Sequence
from math import sqrt

import torch
from torch import Tensor

from roundel.core.errors import CompositionError, ParameterError
from roundel.core.job import LocalContext
from roundel.core.params import ParamSpec
from roundel.strategies.codecs import LAYERS, LONG, NUMBERS
from roundel.strategies.compose import Part
from roundel.strategies.server_optimizers import positive
from roundel.strategies.sites import Codec, Decoding, State

REFUSED_AFTER = {
    LONG: "its codes stand for longer updates than those they were made of, and the server, which "
    "clips what it decodes, would shorten honest ones; use int8, or qsgd with more levels, such as "
    "127"
}
"""What no part that clips again at the server may have after it."""

_SLACK = 2.0**-44
"""Float64 sums of squares agree to this between machines."""


def clip(norm: float = 1.0, *, per_layer: bool = False) -> Part:
    """Scale an update down to a largest Euclidean norm.

        delta_k  <- delta_k  * min(1, norm / ||delta_k||)       one norm over all tensors
        delta_kl <- delta_kl * min(1, norm_l / ||delta_kl||)    per layer, norm_l = norm / sqrt(L)

    Clients clip before they send, and the server clips once more what it has decoded: a client that
    does not clip gains nothing, and an honest update that is sent as it is, is not changed twice.
    Codecs that come later and lengthen updates a little cost honest clients as much at the server;
    those that lengthen them much, such as `qsgd` with few levels, are refused. What was 0 stays 0.

    The delta is bounded and not its weight: a client's share of the mean still follows the number
    of examples that it tells. Against clients that lie about it, compose with
    ``fedavg(weights="uniform")``.

    Where a strategy sends several vectors, such as SCAFFOLD's control beside the parameters, the
    norm is that of all of them together and they shrink by one factor: a client's contribution is
    everything it sends. Buffers are not clipped.

    Error feedback may come before or after. Before, the clip cuts what the feedback has added up.
    After, the clip cuts what goes into it; should the sum with what was held back be longer than
    `norm` all the same, the server cuts that, and the client does not learn of it.

    Args:
        norm: The largest norm, above 0. It depends on the task: the median of ``update_norm`` in
            ``clients.jsonl`` of an earlier run is where to begin.
        per_layer: Whether each of the L tensors has a limit of its own.

    Needs:
        Nothing.

    Verified:
        The oracle cases, by hand, and by random updates against the definition.

    Source:
        H. B. McMahan et al., "Learning Differentially Private Recurrent Language Models", ICLR
        2018, section 2.2 (FlatClip, PerLayerClip). Z. Sun et al., "Can You Really Backdoor
        Federated Learning?", 2019, section 5.1, for the use against attacks.
    """
    positive("norm", norm)

    return Part(
        name=f"clip(norm={norm:g}{', per_layer' * per_layer})",
        codecs=(clipper("clip", norm, per_layer=per_layer),),
        provides=traits(per_layer=per_layer),
        refuses_after=REFUSED_AFTER,
    )


def traits(*, per_layer: bool = False) -> frozenset[str]:
    """Return what a part that clips provides."""
    return frozenset({NUMBERS, LAYERS} if per_layer else {NUMBERS})


def clipper(name: str, norm: float, *, per_layer: bool) -> Codec:
    """Return the codec that clips at the client, and at the server again."""

    def layers(spec: ParamSpec) -> Sequence[int] | None:
        own = [e.numel for e in spec.entries if e.trainable and not e.personal]
        return own if per_layer else None

    def encode(
        channels: Mapping[str, Tensor], context: LocalContext, _seed: int
    ) -> tuple[Mapping[str, Tensor], State]:
        return {**channels, **bounded(channels, norm, layers(context.spec))}, {}

    def decode(channels: Mapping[str, Tensor], decoding: Decoding) -> Mapping[str, Tensor]:
        return {**channels, **received(channels, norm, layers(decoding.spec))}

    return Codec(name=name, encode=encode, decode=decode, stateful=False)


def joint_norm(vectors: Sequence[Tensor]) -> Tensor:
    """Return the Euclidean norm of several vectors together.

    Args:
        vectors: Shapes ``(..., D)``.

    Returns:
        Shape ``(..., 1)``, float64.
    """
    norms = [
        torch.linalg.vector_norm(v, dim=-1, keepdim=True, dtype=torch.float64) for v in vectors
    ]
    joint: Tensor = torch.linalg.vector_norm(torch.stack(norms), dim=0)
    return joint


def bounded(
    channels: Mapping[str, Tensor], norm: float | Tensor, sizes: Sequence[int] | None = None
) -> dict[str, Tensor]:
    """Return the vectors among an update's channels, clipped together.

    Rounded results are no longer than the limit either, so that clipping twice is clipping once.

    Args:
        channels: By name; what codecs put beside vectors is left out.
        norm: The largest norm, a number or of shape ``(..., 1)``.
        sizes: Lengths of the pieces that are clipped apart, if any are.

    Raises:
        CompositionError: The vectors are not ones that can be clipped.
    """
    vectors = {name: value for name, value in channels.items() if "/" not in name}
    for name, value in vectors.items():
        if not value.is_floating_point():
            raise CompositionError(
                f"channel {name!r} holds {value.dtype}, whose norm is not that of the update; name "
                "the clip before the part that encodes it"
            )
        if sizes is not None and value.shape[-1] != sum(sizes):
            raise CompositionError(
                f"channel {name!r} has {value.shape[-1]} numbers where the layers have "
                f"{sum(sizes)}; name the clip per layer before the part that leaves some out"
            )
    if sizes is None:
        return _scaled(vectors, norm)
    pieces = {name: value.split(list(sizes), dim=-1) for name, value in vectors.items()}
    each = [
        _scaled({name: split[i] for name, split in pieces.items()}, norm / sqrt(len(sizes)))
        for i in range(len(sizes))
    ]
    return {name: torch.cat([piece[name] for piece in each], dim=-1) for name in vectors}


def received(
    channels: Mapping[str, Tensor], norm: float | Tensor, sizes: Sequence[int] | None = None
) -> dict[str, Tensor]:
    """Do the same to what a client has sent.

    Raises:
        ParameterError: It cannot be clipped.
    """
    for name, value in channels.items():
        if "/" not in name and value.dim() != 1:
            raise ParameterError(f"channel {name!r} has the shape {tuple(value.shape)}")
    try:
        return bounded(channels, norm, sizes)
    except CompositionError as error:
        raise ParameterError(str(error).partition(";")[0]) from error


def _scaled(vectors: Mapping[str, Tensor], limit: float | Tensor) -> dict[str, Tensor]:
    if not vectors:
        return {}
    norm = joint_norm(list(vectors.values()))
    clipped = {}
    for name, value in vectors.items():
        slack = max(2 * torch.finfo(value.dtype).eps, _SLACK)
        factor = torch.where(norm > limit, limit / norm * (1 - slack), 1.0)
        clipped[name] = value * factor.to(value.dtype)
    return clipped
