"""signSGD: one bit a number, and the majority decides."""

from collections.abc import Mapping

import torch
from torch import Tensor

from roundel.core.job import LocalContext
from roundel.core.messages import PARAMS
from roundel.core.seeds import derive, torch_generator
from roundel.strategies.aggregators import Mean
from roundel.strategies.codecs import (
    NUMBERS,
    check_finite,
    expected,
    pack_bits,
    packed_size,
    received,
    unpack_bits,
)
from roundel.strategies.compose import RESCALES, Part
from roundel.strategies.fedavg import changed_mean
from roundel.strategies.server_optimizers import positive
from roundel.strategies.sites import (
    Aggregate,
    Codec,
    Decoding,
    RoundContext,
    ServerTransform,
    State,
    stateless,
)

VOTES = "votes"
"""Trait of parts that count the clients who answered, whatever the weigher divides by."""


def signsgd(*, server_lr: float = 0.03) -> Part:
    """Send the signs of the update; step by what most clients say, coordinate by coordinate.

        send  sign(delta_k)                            one bit a number
        w += server_lr * sign(sum_k sign(delta_k))     every client has one vote; a tie is 0

    A bit cannot say 0. Where an update is 0 exactly, a fair coin is sent, drawn from the seed:
    always saying the same would push weights that no client trains, such as those of dead units.

    Only the parameters are voted on. Other channels, such as control variates, whose length means
    something, are sent as they are.

    The step does not shrink as training converges, and where clients differ the majority can be
    wrong for good: the paper proves convergence for noise that is symmetric, as among like clients.

    Args:
        server_lr: How far a coordinate moves in a round. There is no value for all models; 0.03
            trains small ones, and deep ones want less.

    Needs:
        Nothing; sends a bit a number.

    Verified:
        Votes counted by hand, ties and zeros among them; the bytes counted in a run, simulated
        and over gRPC.

    Source:
        J. Bernstein et al., "signSGD: Compressed Optimisation for Non-Convex Problems", ICML 2018,
        Algorithm 3 (majority vote). Clients here take several local steps and vote with their delta
        in place of a gradient.
    """
    positive("server_lr", server_lr)

    def encode(
        channels: Mapping[str, Tensor], _context: LocalContext, seed: int
    ) -> tuple[Mapping[str, Tensor], State]:
        delta = channels[PARAMS]
        check_finite(PARAMS, delta)
        generator = torch_generator(derive(seed, PARAMS))
        coins = torch.randint(2, (len(delta),), generator=generator) == 1
        return {**channels, PARAMS: pack_bits((delta > 0) | ((delta == 0) & coins), 1)}, {}

    def decode(channels: Mapping[str, Tensor], decoding: Decoding) -> Mapping[str, Tensor]:
        size, dtype = expected(PARAMS, channels, decoding)
        data = received(PARAMS, channels, packed_size(size, 1), torch.uint8)
        return {**channels, PARAMS: (2 * unpack_bits(data, 1, size) - 1).to(dtype)}

    def update(
        aggregate: Aggregate, state: State, _params: Tensor, _context: RoundContext
    ) -> tuple[Aggregate, State]:
        return {**aggregate, PARAMS: server_lr * aggregate[PARAMS].sign()}, state

    return Part(
        name=f"signsgd(server_lr={server_lr:g})",
        codecs=(Codec(name="signsgd", encode=encode, decode=decode),),
        aggregators={PARAMS: Mean(weighted=False)},
        server=(ServerTransform(name="majority", init=stateless, update=update),),
        provides=frozenset({NUMBERS, RESCALES, VOTES}),
        refuses_after={
            NUMBERS: "signs are no plain numbers any more; write signsgd after the others",
            **changed_mean(),
        },
    )
