"""Few bits a number: QSGD's stochastic levels, and 8-bit integers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from math import sqrt
from typing import Literal, get_args

import torch
from torch import Tensor

from roundel.core.errors import CompositionError, ParameterError
from roundel.core.job import LocalContext
from roundel.core.seeds import derive, torch_generator
from roundel.strategies.codecs import (
    LONG,
    NUMBERS,
    UNBIASED,
    buckets_of,
    check_finite,
    expected,
    in_buckets,
    pack_bits,
    packed_size,
    plain,
    received,
    rounded_up,
    scales,
    unpack_bits,
)
from roundel.strategies.compose import Part
from roundel.strategies.server_optimizers import one_of
from roundel.strategies.sites import Codec, Decoding, State

Rounding = Literal["stochastic", "nearest"]

Uniforms = Callable[[], Tensor]
"""Draws numbers uniform in [0, 1), one for each number of all buckets, shape ``(B, n)``."""

_MOST_LEVELS = 2**15 - 1
_LARGEST = 127
_SMALLEST_BUCKET = 2
_LONG = 0.05
_LAST = "what it sends are no plain numbers any more; write this part after the others"


def between_levels(v: Tensor, norm: Tensor, levels: int) -> tuple[Tensor, Tensor]:
    """Return the level below each number and how likely it is rounded up (Alistarh et al., eq. 2).

        l = floor(|v_i| s / norm),  p = |v_i| s / norm - l

    Args:
        v: Shape ``(..., n)``, float64, of absolute value `norm` at most.
        norm: Shape ``(..., 1)`` or ``()``, float64; where it is 0 so are all levels.
        levels: s, the levels above 0.

    Returns:
        l and p, shape ``(..., n)``.
    """
    share = torch.where(norm > 0, v.abs() * levels / norm, 0.0).clamp(max=levels)
    lower = share.floor()
    return lower, share - lower


def quantise(v: Tensor, norm: Tensor, levels: int, uniforms: Tensor) -> Tensor:
    """Return each number's level with its sign: rounded up where ``uniforms < p``.

    ``norm / levels`` times the result is a number whose expectation over the uniforms is v.

    Args:
        v: As in `between_levels`, like `norm` and `levels`.
        norm: Largest absolute value that a level stands for.
        levels: s.
        uniforms: Uniform in [0, 1), shape ``(..., n)``.

    Returns:
        Whole numbers from -s to s, in v's dtype.
    """
    lower, up = between_levels(v, norm, levels)
    return v.sign() * (lower + (uniforms < up))


def qsgd(*, levels: int = 7, bucket: int | None = 512) -> Part:
    """Quantise stochastically to few levels of the norm, without bias.

    For each bucket b of numbers, with s levels and u_i uniform in [0, 1):

        Q(v_i) = ||v_b|| sgn(v_i) (l + [u_i < p]) / s,
        l = floor(|v_i| s / ||v_b||),  p = |v_i| s / ||v_b|| - l

    so that ``E Q(v) = v`` and ``E ||Q(v) - v||**2 <= min(n / s**2, sqrt(n) / s) ||v||**2`` in a
    bucket of n. Sign and level travel in ``ceil(log2(2 s + 1))`` bits without gaps, and one norm a
    bucket beside them. (The paper goes on to code them by Elias, which saves more where most levels
    are 0.) Norms are rounded up to the model's dtype before they are used, so nothing is lost.

    With the defaults, the error of an update of normally distributed numbers is 1.3 times as long
    as the update, which the mean over the cohort makes up for; with 127 levels it is 0.07 times.
    So what is decoded is longer than what was encoded, and a clip before it, which the server
    applies once more to what it decodes, would shorten honest updates: it refuses this part unless
    the bound above is at most 0.05, as it is with 127 levels and the usual bucket.

    Args:
        levels: s, from 1 to 32767; 1, 7, 127 and 32767 fill 2, 4, 8 and 16 bits. 4 bits are among
            the settings that the paper trains with.
        bucket: Numbers that share a norm, at least 2; 0 or None for all of a channel. 512 is the
            paper's. Variance grows with the root of it.

    Needs:
        Nothing; sends ``ceil(log2(2 s + 1)) / 8`` bytes a number and a norm a bucket.

    Verified:
        Against an oracle case; its expectation by exact summation over the uniforms; the bytes
        counted in a run behind `topk`, simulated and over gRPC.

    Source:
        D. Alistarh et al., "QSGD: Communication-Efficient SGD via Gradient Quantization and
        Encoding", NeurIPS 2017, section 3.1 and equation 2; buckets in section 4.
    """
    if not 1 <= levels <= _MOST_LEVELS:
        raise CompositionError(f"levels = {levels!r} must be from 1 to {_MOST_LEVELS}")
    together = _bucket(bucket)
    bits = (2 * levels).bit_length()
    variance = 1.0 if together is None else min(together / levels**2, sqrt(together) / levels)

    def read(name: str, channels: Mapping[str, Tensor], size: int) -> Tensor:
        data = received(name, channels, packed_size(size, bits), torch.uint8)
        codes = unpack_bits(data, bits, size)
        _check_range(name, codes, 0, 2 * levels)
        return codes - levels

    buckets = _Buckets(
        length=together,
        beside="norms",
        factor=lambda rows: rows.norm(dim=-1),
        whole=lambda rows, norms, uniforms: quantise(rows, norms, levels, uniforms()),
        numbers=lambda whole, norms: norms * whole / levels,
        write=lambda whole: pack_bits(whole + levels, bits),
        read=read,
    )
    return Part(
        name=f"qsgd(levels={levels}, bucket={bucket})",
        codecs=(_codec("qsgd", buckets),),
        provides=frozenset({NUMBERS, UNBIASED} | ({LONG} if variance > _LONG else set())),
        refuses_after={NUMBERS: _LAST},
    )


def int8(*, bucket: int | None = 512, rounding: Rounding = "stochastic") -> Part:
    """Send 8-bit integers and a scale for each bucket of them.

    Symmetric and linear, with the largest absolute value of a bucket at 127:

        scale_b = max |v_b| / 127
        q_i = floor(v_i / scale_b + u_i)   u_i uniform in [0, 1): unbiased
        q_i = round(v_i / scale_b)         to the nearest, ties to even

    The server computes with ``scale_b q_i``; 0 stays 0 exactly.

    Args:
        bucket: Numbers that share a scale, at least 2; 0 or None for all of a channel. 512 as in
            `qsgd`.
        rounding: ``"stochastic"``, which has no bias, or ``"nearest"``, whose error is at most half
            a scale.

    Needs:
        Nothing; sends a byte a number and a scale a bucket.

    Verified:
        Against numbers worked out by hand; its expectation over 10,000 draws; the bytes counted in
        a run, simulated and over gRPC.

    Source:
        J. Konečný et al., "Federated Learning: Strategies for Improving Communication Efficiency",
        2016, section 3, for stochastic rounding between equal steps. Scales by the largest absolute
        value: T. Dettmers, "8-Bit Approximations for Parallelism in Deep Learning", ICLR 2016.
    """
    together = _bucket(bucket)
    one_of("rounding", rounding, get_args(Rounding))

    def whole(rows: Tensor, steps: Tensor, uniforms: Uniforms) -> Tensor:
        ratio = torch.where(steps > 0, rows / steps, 0.0).clamp(-_LARGEST, _LARGEST)
        return ratio.round() if rounding == "nearest" else (ratio + uniforms()).floor()

    def read(name: str, channels: Mapping[str, Tensor], size: int) -> Tensor:
        data = received(name, channels, size, torch.int8)
        _check_range(name, data, -_LARGEST, _LARGEST)
        return data

    buckets = _Buckets(
        length=together,
        beside="scales",
        factor=lambda rows: rows.abs().amax(dim=-1) / _LARGEST,
        whole=whole,
        numbers=lambda whole, steps: steps * whole,
        write=lambda whole: whole.to(torch.int8),
        read=read,
    )
    return Part(
        name=f"int8(bucket={bucket}, {rounding})",
        codecs=(_codec("int8", buckets),),
        provides=frozenset({NUMBERS, UNBIASED} if rounding == "stochastic" else {NUMBERS}),
        refuses_after={NUMBERS: _LAST},
    )


@dataclass(frozen=True, kw_only=True)
class _Buckets:
    """How buckets of numbers become whole numbers with a factor a bucket beside them.

    Attributes:
        length: How many numbers share a factor; None for all of a channel.
        beside: What the factors are called.
        factor: Rows ``(B, n)``, float64, to the exact factor of each, ``(B,)``.
        whole: Rows, factors ``(B, 1)`` as they are sent, and what draws a uniform number for each
            number, to whole numbers ``(B, n)``.
        numbers: Whole numbers and factors back to what they stand for.
        write: Whole numbers of a channel, ``(D,)``, to the tensor that is sent.
        read: A channel's name, all that was sent and D back to whole numbers, checked.
    """

    length: int | None
    beside: str
    factor: Callable[[Tensor], Tensor]
    whole: Callable[[Tensor, Tensor, Uniforms], Tensor]
    numbers: Callable[[Tensor, Tensor], Tensor]
    write: Callable[[Tensor], Tensor]
    read: Callable[[str, Mapping[str, Tensor], int], Tensor]


def _codec(name: str, buckets: _Buckets) -> Codec:
    """Return the codec that does so to each channel."""

    def encode(
        channels: Mapping[str, Tensor], _context: LocalContext, seed: int
    ) -> tuple[Mapping[str, Tensor], State]:
        out = dict(channels)
        for channel in plain(channels):
            vector = channels[channel]
            check_finite(channel, vector)
            rows = in_buckets(vector.double(), buckets.length)
            factors = rounded_up(buckets.factor(rows), vector.dtype)
            uniforms = partial(_uniforms, len(vector), buckets.length, derive(seed, channel))
            whole = buckets.whole(rows, factors.double().unsqueeze(-1), uniforms)
            out[channel] = buckets.write(whole.view(-1)[: len(vector)])
            out[f"{channel}/{buckets.beside}"] = factors
        return out, {}

    def decode(channels: Mapping[str, Tensor], decoding: Decoding) -> Mapping[str, Tensor]:
        out = dict(channels)
        for channel in plain(channels):
            size, dtype = expected(channel, channels, decoding)
            beside = f"{channel}/{buckets.beside}"
            factors = scales(beside, channels, buckets_of(size, buckets.length)[0], dtype)
            whole = in_buckets(buckets.read(channel, channels, size).double(), buckets.length)
            numbers = buckets.numbers(whole, factors.double().unsqueeze(-1))
            out[channel] = numbers.view(-1)[:size].to(dtype)
            del out[beside]
        return out

    return Codec(name=name, encode=encode, decode=decode)


def _uniforms(count: int, bucket: int | None, seed: int) -> Tensor:
    """Return `count` uniform numbers in buckets."""
    generator = torch_generator(seed)
    return in_buckets(torch.rand(count, generator=generator, dtype=torch.float64), bucket)


def _bucket(bucket: int | None) -> int | None:
    """Return how many numbers share a factor; None for all of a channel."""
    if bucket is None or bucket == 0:
        return None
    if bucket < _SMALLEST_BUCKET:
        raise CompositionError(
            f"bucket = {bucket!r} must be at least {_SMALLEST_BUCKET}, since alone a number would "
            "be its own norm, or 0 for one bucket of all"
        )
    return bucket


def _check_range(channel: str, whole: Tensor, least: int, most: int) -> None:
    low, high = int(whole.min()), int(whole.max())
    if low < least or high > most:
        raise ParameterError(f"{channel!r} holds a level outside of {least} to {most}")
