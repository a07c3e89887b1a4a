"""What codecs share: traits, packed bits, and checks of what a client has sent.

The codecs of this package run client by client: a channel is one vector ``(D,)``, never a stack.
They change every channel that they are given. A channel keeps its name along the chain, and what a
codec puts beside it is named after it: ``params/norms``. ``params/places`` says where the numbers
of a shortened channel belong, so the channel has as many numbers as that.

What a decoder reads may have been made by an attacker. It checks dtypes, lengths and ranges before
it computes anything, and allocates no more than the model's own size asks for.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from roundel.core.errors import ParameterError
from roundel.strategies.sites import Decoding

NUMBERS = "computes with what is sent"
"""Trait of parts whose codec computes with the numbers of a channel as they are.

It cannot come after a codec that leaves something else in their place.
"""

SPARSE = "sparse"
"""Trait of parts whose codec sends some of a channel's numbers only."""

LAYERS = "layers"
"""Trait of parts whose codec treats each layer apart, and so needs all numbers of a channel."""

LONG = "long codes"
"""Trait of parts whose codes may stand for vectors much longer than those they were made of.

A clip at the server would cut what such codes of an honest, clipped update stand for.
"""

ERROR_FEEDBACK = "error feedback"
"""Trait of parts that send later what they have not sent before."""

UNBIASED = "unbiased"
"""Trait of parts whose codec changes numbers, but not their expectation."""

PLACES = "places"

_TILE = 1 << 15  # numbers; a multiple of 8, so that tiles end at whole bytes


def check_finite(channel: str, vector: Tensor) -> None:
    """Check that a client's own vector can be encoded.

    Raises:
        ParameterError: It holds NaN or infinity, which no few bits stand for.
    """
    if not bool(vector.isfinite().all()):
        raise ParameterError(
            f"channel {channel!r} holds values that are not finite; the client has probably "
            "diverged, lower its learning rate"
        )


def plain(channels: Mapping[str, Tensor]) -> list[str]:
    """Return the channels themselves, without what codecs have put beside them."""
    return [name for name in channels if "/" not in name]


def expected(
    channel: str, channels: Mapping[str, Tensor], decoding: Decoding
) -> tuple[int, torch.dtype]:
    """Return how many numbers a channel has at this point of the chain, and of which dtype.

    Raises:
        ParameterError: The strategy has no such channel, or its places are more than it has.
    """
    if channel not in decoding.kinds:
        raise ParameterError(f"the strategy has no channel {channel!r}")
    size, dtype = decoding.kinds[channel]
    places = channels.get(f"{channel}/{PLACES}")
    if places is None:
        return size, dtype
    if places.dim() != 1 or not 0 < len(places) <= size:
        raise ParameterError(
            f"'{channel}/{PLACES}' has the shape {tuple(places.shape)}, not one axis of 1 to {size}"
        )
    return len(places), dtype


def received(name: str, channels: Mapping[str, Tensor], size: int, dtype: torch.dtype) -> Tensor:
    """Return a tensor that a client has sent.

    Raises:
        ParameterError: It is missing, or has another shape or dtype.
    """
    if name not in channels:
        raise ParameterError(f"{name!r} is missing")
    tensor = channels[name]
    if tensor.shape != (size,) or tensor.dtype != dtype:
        raise ParameterError(
            f"{name!r} has the shape {tuple(tensor.shape)} and the dtype {tensor.dtype}, not "
            f"({size},) and {dtype}"
        )
    return tensor


def scales(name: str, channels: Mapping[str, Tensor], size: int, dtype: torch.dtype) -> Tensor:
    """Return factors that a client has sent.

    Raises:
        ParameterError: As `received`, or one is negative or not finite.
    """
    factors = received(name, channels, size, dtype)
    if not bool((factors.isfinite() & (factors >= 0)).all()):
        raise ParameterError(f"{name!r} holds values that are negative or not finite")
    return factors


def rounded_up(exact: Tensor, dtype: torch.dtype) -> Tensor:
    """Return float64 numbers in another dtype, none smaller than it was."""
    cast = exact.to(dtype)
    above = torch.nextafter(cast, torch.full_like(cast, torch.inf))
    return torch.where(cast.double() < exact, above, cast)


def buckets_of(size: int, bucket: int | None) -> tuple[int, int]:
    """Return how many buckets a vector has, and how many numbers a bucket."""
    length = size if bucket is None else min(bucket, size)
    return -(-size // length), length


def in_buckets(vector: Tensor, bucket: int | None) -> Tensor:
    """Return a vector as rows, the last one filled up with zeros."""
    count, length = buckets_of(len(vector), bucket)
    filled = vector.new_zeros(count * length)
    filled[: len(vector)] = vector
    return filled.view(count, length)


def pack_bits(codes: Tensor, bits: int) -> Tensor:
    """Return whole numbers, a few bits each, without gaps; the lowest bit of the first comes first.

    Args:
        codes: From 0 to ``2**bits - 1``, shape ``(n,)``.
        bits: From 1 to 16.

    Returns:
        Bytes, uint8, shape ``(ceil(n * bits / 8),)``.
    """
    each = torch.arange(bits, dtype=torch.int32)
    values = 2 ** torch.arange(8, dtype=torch.int32)
    pieces = []
    for tile in codes.to(torch.int32).split(_TILE):
        flat = ((tile.unsqueeze(1) >> each) & 1).view(-1)
        filled = flat.new_zeros(-(-len(flat) // 8) * 8)
        filled[: len(flat)] = flat
        pieces.append((filled.view(-1, 8) * values).sum(dim=1).to(torch.uint8))
    return torch.cat(pieces)


def packed_size(count: int, bits: int) -> int:
    """Return how many bytes `pack_bits` makes of `count` numbers."""
    return -(-count * bits // 8)


def unpack_bits(data: Tensor, bits: int, count: int) -> Tensor:
    """Return the whole numbers that `pack_bits` has packed, int32, shape ``(count,)``."""
    each = torch.arange(8, dtype=torch.int32)
    values = 2 ** torch.arange(bits, dtype=torch.int32)
    codes = torch.empty(count, dtype=torch.int32)
    tiles = zip(codes.split(_TILE), data.split(_TILE // 8 * bits), strict=True)
    for place, tile in tiles:
        flat = ((tile.to(torch.int32).unsqueeze(1) >> each) & 1).view(-1)[: len(place) * bits]
        place.copy_((flat.view(-1, bits) * values).sum(dim=1))
    return codes
