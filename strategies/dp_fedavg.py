"""Differentially private averaging: clipped sums, a fixed denominator, noise before all else."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from math import inf
from typing import Literal, get_args

import torch
from torch import Tensor

from roundel.core.errors import CompositionError
from roundel.core.job import LocalContext
from roundel.core.messages import PARAMS
from roundel.core.ranks import Ranks
from roundel.strategies.aggregators import Mean
from roundel.strategies.clipping import (
    REFUSED_AFTER,
    bounded,
    clipper,
    joint_norm,
    received,
    traits,
)
from roundel.strategies.codecs import ERROR_FEEDBACK
from roundel.strategies.compose import CHANNELS, Part
from roundel.strategies.sampling import UNIFORM
from roundel.strategies.selectors import poisson
from roundel.strategies.server_optimizers import not_negative, one_of, positive, unit_interval
from roundel.strategies.signsgd import VOTES
from roundel.strategies.sites import (
    Accountant,
    Accumulator,
    Aggregate,
    Codec,
    Decoding,
    Noise,
    Privacy,
    RoundContext,
    Selector,
    ServerTransform,
    State,
    Weigher,
    stateless,
)

Sampling = Literal["poisson", "fixed"]
NoiseSource = Literal["secure", "seeded"]

CLIP_NORM = "clip_norm"
"""Broadcast channel and server state: the clipping norm of the round, shape ``(1,)``, float64."""

WITHIN = "within"
"""Channel of length 1: one half if a client's norm was within the limit, else minus one half."""

_REFUSES_AFTER = {
    **REFUSED_AFTER,
    ERROR_FEEDBACK: "error feedback adds what was held back earlier, and the server clips the sum "
    "without its knowing; name it before the clip",
}


def dp_fedavg(
    *,
    noise_multiplier: float = 1.0,
    clip_norm: float = 1.0,
    per_layer: bool = False,
    delta: float = 1e-5,
    epsilon_budget: float | None = None,
    sampling: Sampling = "poisson",
    accountant: Accountant = "pld",
    noise: NoiseSource = "secure",
) -> Part:
    """Federated averaging with differential privacy for each client (DP-FedAvg).

    With N clients, m = ``cohort.size``, C = ``clip_norm`` and z = ``noise_multiplier``:

        S: each client takes part with probability q = m / N      (Poisson sampling)
        delta_k <- delta_k * min(1, C / ||delta_k||)
        w += (sum_S delta_k + N(0, (z C)**2 I)) / m

    All clients weigh the same and the denominator is m, whoever was selected or has answered: a
    mean over arrivals would give away how many they were. Noise is added to the sum in float64,
    before anything is rounded and any other part of the server's chain sees it, also in a round to
    which nobody came.

    The guarantee is client-level: it bounds what the models of all rounds together tell anybody
    about whether one client, with everything it holds, was in the population. Each round's line
    says the ``epsilon`` that is spent (see `roundel.server.privacy`), and a run stops before it
    spends more than its budget. Figures that the run records for its operator, such as training
    losses, norms and who took part, are not covered.

    Args:
        noise_multiplier: z, at least 0. 1 is in the range of the paper's experiments; 0 adds no
            noise and guarantees nothing.
        clip_norm: C, above 0; see `clip` for how to find it. Infinite only without noise.
        per_layer: Whether each of the L tensors is clipped on its own, to ``C / sqrt(L)``.
        delta: Of the guarantee, from 1e-12; it must be below 1 / N, as publishing one client in
            full would be 1 / N-private otherwise.
        epsilon_budget: The run stops before epsilon exceeds it; None for no limit.
        sampling: ``"fixed"`` selects exactly m clients. Its account gains nothing from sampling,
            and its neighbouring federations have a client who sends 0 in place of one.
        accountant: ``"pld"`` (privacy loss distributions, exact where there is no sampling) or the
            looser ``"rdp"`` (Renyi), with which many papers report.
        noise: ``"secure"`` draws noise and, with Poisson sampling, cohorts by keys that are only in
            the run's ``secrets.jsonl``: another run with the same seed differs. ``"seeded"`` draws
            both from the experiment's seed, so that runs can be compared in pairs; whoever knows
            the seed can take the noise off.

    Needs:
        Nothing of clients but clipping, and no more bytes. Models must have no buffers that are
        sent, such as BatchNorm's. Parts before it may shorten updates, but decoding must not make
        them longer. Of parts after it, what they add to the length of an update is cut off at the
        server, so those that add much, such as `qsgd` with few levels, are refused.

    Verified:
        By hand, the oracle cases, the sensitivity of sums to any one client, the noise's moments
        and distribution over many draws, and its law: without noise and clipping it is the uniform
        mean.

    Source:
        H. B. McMahan et al., "Learning Differentially Private Recurrent Language Models", ICLR
        2018, Algorithm 1 with the estimator f_f.
    """
    not_negative("noise_multiplier", noise_multiplier)
    if noise_multiplier or clip_norm != inf:
        positive("clip_norm", clip_norm)

    def update(
        aggregate: Aggregate, state: State, _params: Tensor, context: RoundContext
    ) -> tuple[Aggregate, State]:
        std = noise_multiplier * clip_norm / wanted(context)
        noised = with_noise(aggregate[PARAMS], std, context.noise[f"dp_fedavg/{PARAMS}"])
        return {**aggregate, PARAMS: noised}, state

    drawn = Noise(channels=(PARAMS,), seeded=seeded(noise))
    link = ServerTransform(name="dp_fedavg", init=stateless, update=update, noise=drawn)
    return Part(
        name=f"dp_fedavg(noise_multiplier={noise_multiplier:g}, clip_norm={clip_norm:g})",
        selector=_selector(sampling),
        codecs=(clipper("dp_fedavg", clip_norm, per_layer=per_layer),),
        weigher=FIXED,
        aggregators={PARAMS: Mean()},
        server=(link,) if noise_multiplier else (),
        privacy=guarantee(noise_multiplier, delta, epsilon_budget, accountant),
        provides=traits(per_layer=per_layer),
        refuses=_REFUSES,
        refuses_after=_REFUSES_AFTER,
    )


def dp_adaptive(
    *,
    noise_multiplier: float = 0.5,
    initial_clip: float = 0.1,
    target_quantile: float = 0.5,
    clip_lr: float = 0.2,
    count_noise: float | None = None,
    delta: float = 1e-5,
    epsilon_budget: float | None = None,
    sampling: Sampling = "poisson",
    accountant: Accountant = "pld",
    noise: NoiseSource = "secure",
) -> Part:
    """DP-FedAvg whose clipping norm follows a quantile of the clients' norms, privately.

    With the names of `dp_fedavg` and s_b = ``count_noise``, g = ``target_quantile``:

        b_k = [||delta_k|| <= C]                                  one bit beside the update
        w  += (sum_S clipped(delta_k, C) + N(0, (z_d C)**2 I)) / m
        b   = 1/2 + (sum_S (b_k - 1/2) + N(0, s_b**2)) / m        the noised share within C
        C  <- C exp(-clip_lr (b - g))                             for the next round
        z_d = (z**-2 - (2 s_b)**-2)**(-1/2)

    A client changes the sum of ``b_k - 1/2`` by at most 1/2, so that both sums together are as
    private as one sum with the noise multiplier z. Too many within the limit make it smaller.

    Args:
        noise_multiplier: z of both sums together, at least 0. The default suits some tens of
            clients a round; with hundreds and more, 1 and above are in the range of the paper.
        initial_clip: C of the first round, above 0; the paper's 0.1.
        target_quantile: g, in (0, 1); the paper's median.
        clip_lr: Learning rate of log C, above 0; the paper's 0.2.
        count_noise: s_b, above z / 2. None takes the paper's m / 20, and z where that is more: in a
            small cohort m / 20 would leave nothing to hide the updates with.
        delta: As in `dp_fedavg`, like all that follow.
        epsilon_budget: Likewise.
        sampling: Likewise.
        accountant: Likewise.
        noise: Likewise.

    Needs:
        As `dp_fedavg`; one number more each way.

    Verified:
        By hand, the oracle's trajectory, the joint sensitivity of both sums, and by convergence to
        the quantile from both sides.

    Source:
        G. Andrew et al., "Differentially Private Learning with Adaptive Clipping", NeurIPS 2021,
        Algorithm 1 and Theorem 1.
    """
    not_negative("noise_multiplier", noise_multiplier)
    positive("initial_clip", initial_clip)
    positive("clip_lr", clip_lr)
    positive("target_quantile", target_quantile)
    unit_interval("target_quantile", target_quantile)
    too_quiet = count_noise is not None and not noise_multiplier / 2 < count_noise < inf
    if noise_multiplier and too_quiet:
        raise CompositionError(
            f"count_noise = {count_noise!r} must be a finite number above noise_multiplier / 2 = "
            f"{noise_multiplier / 2:g}; raise it, or leave it out"
        )
    split = partial(split_noise, noise_multiplier, count_noise)

    def update(
        aggregate: Aggregate, state: State, _params: Tensor, context: RoundContext
    ) -> tuple[Aggregate, State]:
        step, share, norm = aggregate[PARAMS], aggregate[WITHIN] + 0.5, state[CLIP_NORM]
        if noise_multiplier:
            m = wanted(context)
            for_updates, for_count = split(m)
            std = for_updates * float(norm) / m
            step = with_noise(step, std, context.noise[f"dp_adaptive/{PARAMS}"])
            share = share + for_count / m * context.noise[f"dp_adaptive/{WITHIN}"]
        rest = {channel: value for channel, value in aggregate.items() if channel != WITHIN}
        after = norm * torch.exp(-clip_lr * (share.double() - target_quantile))
        return {**rest, PARAMS: step}, {CLIP_NORM: after}

    drawn = Noise(channels=(PARAMS, WITHIN), seeded=seeded(noise))
    link = ServerTransform(
        name="dp_adaptive",
        init=lambda _params: {CLIP_NORM: torch.tensor([initial_clip], dtype=torch.float64)},
        update=update,
        noise=drawn if noise_multiplier else None,
    )
    return Part(
        name=f"dp_adaptive(noise_multiplier={noise_multiplier:g})",
        selector=_selector(sampling),
        codecs=(_ADAPTIVE,),
        weigher=FIXED,
        aggregators={PARAMS: Mean(), WITHIN: Bits()},
        channel_sizes={WITHIN: 1},
        server=(link,),
        broadcast={CLIP_NORM: lambda states: states["dp_adaptive"][CLIP_NORM]},
        privacy=guarantee(noise_multiplier, delta, epsilon_budget, accountant),
        provides=traits(),
        refuses=_REFUSES,
        refuses_after=_REFUSES_AFTER,
    )


def split_noise(
    noise_multiplier: float, count_noise: float | None, wanted: float
) -> tuple[float, float]:
    """Return the noise multiplier of the updates' sum, and the standard deviation on the count's.

    Args:
        noise_multiplier: z of both together, above 0.
        count_noise: s_b; None for the default.
        wanted: m.
    """
    for_count = max(wanted / 20, noise_multiplier) if count_noise is None else count_noise
    return (noise_multiplier**-2 - (2 * for_count) ** -2) ** -0.5, for_count


def wanted(context: RoundContext) -> float:
    """Return the fixed denominator."""
    return max(1.0, float(context.wanted))


FIXED = Weigher(name="fixed", weigh=lambda _update: 1.0, denominator=wanted)
"""The same for every client, out of how many a round is meant to have."""


@dataclass(frozen=True)
class Bits:
    """The mean of bits that are sent as plus and minus one half, whatever clients really send.

    Attributes:
        traits: Sum-type.
    """

    traits: frozenset[str] = frozenset({"sum"})

    def start(self, size: int, dtype: torch.dtype) -> Accumulator:
        """Return an empty accumulator."""
        return _BitsAccumulator(Mean().start(size, dtype))


@dataclass
class _BitsAccumulator:
    mean: Accumulator

    def add(self, client_id: int, value: Tensor, weight: float) -> None:
        self.mean.add(client_id, _bit(value > 0, value.dtype), weight)

    def merge(self, other: "_BitsAccumulator") -> None:
        self.mean.merge(other.mean)

    def reduce(self, ranks: Ranks) -> None:
        self.mean.reduce(ranks)

    def finish(self, denominator: float | None, context: RoundContext) -> Tensor:
        return self.mean.finish(denominator, context)


def _bit(yes: Tensor, dtype: torch.dtype) -> Tensor:
    return yes.to(dtype) - 0.5


def _encode_adaptively(
    channels: Mapping[str, Tensor], context: LocalContext, _seed: int
) -> tuple[Mapping[str, Tensor], State]:
    norm = context.received[CLIP_NORM]
    clipped = bounded(channels, norm)
    within = joint_norm([channels[name] for name in clipped]) <= norm
    return {**channels, **clipped, WITHIN: _bit(within, context.spec.dtype)}, {}


def _decode_adaptively(channels: Mapping[str, Tensor], decoding: Decoding) -> Mapping[str, Tensor]:
    return {**channels, **received(channels, decoding.broadcast[CLIP_NORM])}


_ADAPTIVE = Codec(
    name="dp_adaptive", encode=_encode_adaptively, decode=_decode_adaptively, stateful=False
)

_LEAST, _MOST = 0.01, 1000.0
_LEAST_DELTA = 1e-12

_REFUSES = {
    "set": "one client can change what a rule over single updates gives by more than its own "
    "update, and the noise is for sums; leave the rule out, or let each client add noise, by "
    "local_dp",
    CHANNELS: "what it sends besides the parameters would go without noise; use a part that sends "
    "parameters alone, or let each client add noise to all it sends, by local_dp",
    VOTES: "votes are counted among those who answered, and the noise is for a sum that is divided "
    "by a fixed number; leave the votes out, or let each client add noise, by local_dp",
}


def guarantee(
    noise_multiplier: float,
    delta: float,
    budget: float | None,
    accountant: Accountant = "pld",
    *,
    local: bool = False,
) -> Privacy | None:
    """Return what the accountant must know; None if there is no noise, and so no guarantee.

    Raises:
        CompositionError: A number is out of range.
    """
    one_of("accountant", accountant, get_args(Accountant))
    if not _LEAST_DELTA <= delta < 1:
        raise CompositionError(f"delta = {delta!r} must be at least {_LEAST_DELTA:g} and below 1")
    if budget is not None:
        positive("epsilon_budget", budget)
    if not noise_multiplier:
        if budget is not None:
            raise CompositionError(
                f"noise_multiplier = 0 guarantees nothing, and epsilon_budget = {budget:g} asks "
                "for a guarantee; raise the one or leave out the other"
            )
        return None
    if not _LEAST <= noise_multiplier <= _MOST:
        raise CompositionError(
            f"a noise multiplier of {noise_multiplier:g} is beyond what can be accounted for; use "
            f"one from {_LEAST:g} to {_MOST:g}"
        )
    return Privacy(
        noise_multiplier=noise_multiplier,
        delta=delta,
        budget=budget,
        local=local,
        accountant=accountant,
    )


def seeded(noise: NoiseSource) -> bool:
    """Tell whether noise comes from the experiment's seed."""
    one_of("noise", noise, get_args(NoiseSource))
    return noise == "seeded"


def _selector(sampling: Sampling) -> Selector | None:
    one_of("sampling", sampling, get_args(Sampling))
    return poisson().selector if sampling == "poisson" else UNIFORM


def with_noise(value: Tensor, std: float, drawn: Tensor) -> Tensor:
    """Add noise in double precision and round once.

    Args:
        value: Shape ``(D,)``.
        std: The noise's standard deviation.
        drawn: Standard normal numbers, shape ``(D,)``, float64.
    """
    return (value.double() + std * drawn).to(value.dtype)
