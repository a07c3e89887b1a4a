"""The largest numbers only, and what was left out in a later round."""

from collections.abc import Mapping

import torch
from torch import Tensor

from roundel.core.errors import CompositionError, ParameterError
from roundel.core.job import LocalContext
from roundel.strategies.codecs import (
    ERROR_FEEDBACK,
    LAYERS,
    NUMBERS,
    PLACES,
    SPARSE,
    check_finite,
    expected,
    plain,
    received,
)
from roundel.strategies.compose import Part
from roundel.strategies.sites import Codec, Decoding, State


def topk(share: float = 0.01, *, error_feedback: bool = True) -> Part:
    """Send the k numbers of largest absolute value, and where they belong.

    With error feedback the client keeps what it has not sent and adds it the next time it takes
    part; for each channel, with e starting at 0:

        c = delta + e
        send top_k(c)           k = max(1, round(share * D))
        e = c - top_k(c)        once the round commits

    so that everything sent, and e, always add up to all deltas. Of numbers of equal size the first
    are sent. Without error feedback what is left out is lost, and the mean is biased.

    What a client keeps grows stale when it is rarely asked. Codecs that come later, such as `qsgd`,
    work on the k numbers; their error is not fed back.

    Args:
        share: The share of numbers that is sent, above 0 and up to 1; 0.01 is in the range of 0.001
            to 0.01 that the papers look at.
        error_feedback: Whether to keep the rest. Of control variates it never is: their next
            change has what was left out of the last one in it.

    Needs:
        With error feedback, client state as long as the channels (``topk.<channel>``). Sends k
        numbers and k places of 4 bytes for each channel.

    Verified:
        Against an oracle case; the law that sent and kept add up to all deltas; the choice against
        a full sort; the bytes counted in a run, simulated and over gRPC.

    Source:
        S. U. Stich et al., "Sparsified SGD with Memory", NeurIPS 2018, Algorithm 1; S. P.
        Karimireddy et al., "Error Feedback Fixes SignSGD and other Gradient Compression Schemes",
        ICML 2019, Algorithm 2.
    """
    if not 0 < share <= 1:
        raise CompositionError(f"share = {share!r} must be above 0 and at most 1")

    def encode(
        channels: Mapping[str, Tensor], context: LocalContext, _seed: int
    ) -> tuple[Mapping[str, Tensor], State]:
        out = dict(channels)
        kept: dict[str, Tensor] = {}
        for channel in plain(channels):
            vector, name = channels[channel], f"topk.{channel}"
            remembers = error_feedback and channel not in context.innovations
            if remembers and name in context.state:
                vector = vector + context.state[name]
            check_finite(channel, vector)
            places = largest(vector, count_of(share, len(vector)))
            out[channel] = vector[places]
            out[f"{channel}/{PLACES}"] = places.to(_index_type(len(vector)))
            if remembers:
                kept[name] = vector.index_fill(0, places, 0.0)
        return out, kept

    def decode(channels: Mapping[str, Tensor], decoding: Decoding) -> Mapping[str, Tensor]:
        out = dict(channels)
        for channel in plain(channels):
            _, dtype = expected(channel, channels, decoding)
            size, _ = decoding.kinds[channel]
            count, name = count_of(share, size), f"{channel}/{PLACES}"
            values = received(channel, channels, count, dtype)
            places = received(name, channels, count, _index_type(size)).long()
            if int(places[0]) < 0 or int(places[-1]) >= size or bool((places.diff() < 1).any()):
                raise ParameterError(f"{name!r} are not different places below {size} in order")
            out[channel] = torch.zeros(size, dtype=dtype).index_copy_(0, places, values)
            del out[name]
        return out

    return Part(
        name=f"topk(share={share:g}{'' if error_feedback else ', without error feedback'})",
        codecs=(Codec(name="topk", encode=encode, decode=decode),),
        provides=frozenset({NUMBERS, SPARSE} | ({ERROR_FEEDBACK} if error_feedback else set())),
        refuses={SPARSE: "both choose what to send; use one of them"},
        refuses_after={
            LAYERS: "it works layer by layer, and of some layers nothing may be left; name it "
            "before topk, or leave per_layer out"
        },
    )


def count_of(share: float, size: int) -> int:
    """Return k: the share of a vector's numbers, at least one."""
    return max(1, round(share * size))


def largest(vector: Tensor, count: int) -> Tensor:
    """Return where the numbers of largest absolute value are, in order; the first of equal ones.

    Args:
        vector: Shape ``(D,)``.
        count: How many, from 1 to D.
    """
    sizes = vector.abs()
    least = sizes.topk(count).values[-1]
    above = (sizes > least).nonzero().view(-1)
    equal = (sizes == least).nonzero().view(-1)
    return torch.cat([above, equal[: count - len(above)]]).sort().values


def _index_type(size: int) -> torch.dtype:
    return torch.int32 if size <= 1 << 31 else torch.int64
