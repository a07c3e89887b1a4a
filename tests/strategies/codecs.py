"""Clients' vectors through codecs, without a run around them."""

from collections.abc import Mapping

import torch
from torch import Tensor

from roundel.core.job import LocalContext
from roundel.core.messages import PARAMS
from roundel.core.params import ParamSpec
from roundel.strategies.compose import Part, Strategy
from roundel.strategies.sites import Decoding, State
from tests.federations import Point

Channels = Mapping[str, Tensor]


def spec_of(size: int, dtype: torch.dtype = torch.float32) -> ParamSpec:
    return ParamSpec.of(Point(torch.zeros(size, dtype=dtype)))


def decoding_of(size: int, *channels: str, dtype: torch.dtype = torch.float32) -> Decoding:
    kinds = dict.fromkeys(channels or (PARAMS,), (size, dtype))
    return Decoding(spec=spec_of(size, dtype), kinds=kinds)


def encoded(
    part: Part | Strategy, channels: Channels, state: State | None = None, seed: int = 0
) -> tuple[Channels, State]:
    """Pass channels of one length through the codecs; return what is sent and what is kept."""
    (first, *_) = channels.values()
    context = LocalContext(
        spec=spec_of(len(first), first.dtype), sent=torch.zeros_like(first), state=state or {}
    )
    kept: dict[str, Tensor] = {}
    for codec in part.codecs:
        channels, after = codec.encode(channels, context, seed)
        kept |= after
    return channels, kept


def decoded(part: Part | Strategy, sent: Channels, decoding: Decoding) -> Channels:
    for codec in reversed(part.codecs):
        sent = codec.decode(sent, decoding)
    return sent


def arrived(part: Part | Strategy, vector: Tensor, seed: int = 0) -> Tensor:
    """Return what the server makes of a client's parameters."""
    sent, _ = encoded(part, {PARAMS: vector}, seed=seed)
    return decoded(part, sent, decoding_of(len(vector), dtype=vector.dtype))[PARAMS]


def nbytes(channels: Channels) -> int:
    return sum(tensor.nbytes for tensor in channels.values())
