"""Local differential privacy: each client adds noise to its own update before it sends it."""

from collections.abc import Mapping

from torch import Tensor

from roundel.core.errors import CompositionError
from roundel.core.job import LocalContext
from roundel.core.noise import bound_key, key_of, standard_normal
from roundel.strategies.clipping import bounded
from roundel.strategies.codecs import NUMBERS
from roundel.strategies.compose import ASKS, Part
from roundel.strategies.dp_fedavg import NoiseSource, guarantee, seeded, with_noise
from roundel.strategies.server_optimizers import positive
from roundel.strategies.sites import Accountant, Codec, Decoding, State
from roundel.strategies.weighers import EQUAL

_REFUSES = {
    ASKS: "it selects clients by what they tell of their data without noise; use a selector that "
    "asks for nothing, such as uniform or poisson"
}


def local_dp(
    *,
    noise_multiplier: float = 1.0,
    clip_norm: float = 0.1,
    delta: float = 1e-5,
    epsilon_budget: float | None = None,
    accountant: Accountant = "pld",
    noise: NoiseSource = "secure",
) -> Part:
    """Clip each update and add Gaussian noise to it at the client, before it is sent.

    With C = ``clip_norm`` and z = ``noise_multiplier``, over all vectors that it sends together:

        delta_k <- delta_k * min(1, C / ||delta_k||) + N(0, (z C)**2 I)

    Any two updates differ by 2 C at most, so one round is a Gaussian mechanism with the noise
    multiplier z / 2 for neighbours that replace all that a client holds. The account composes as
    many of them as there were rounds, since a client may be asked in each; not being asked hides
    nothing from the server that asks. What the server makes of updates is free: any rule and any
    optimizer goes with it. All updates weigh the same, as weights by examples would show in the
    model how many a client has; selectors that ask about data are refused likewise.

    It protects against whoever sees updates and models, on their way or at the server. The server
    must be honest about one thing: it asks each client once a round. One that asks again with other
    models gets more answers than the account counts. Numbers of examples and steps, times, and
    answers to evaluations travel in the clear and are not covered; ``evaluation.clients = 0`` asks
    for no such answers. The training loss is not sent, so ``train_loss`` is null.

    A client that attacks leaves noise and clipping out, and no server can tell: against those,
    combine it with a robust rule or with `clip`.

    Args:
        noise_multiplier: z, above 0. The mean of m updates has noise of ``z C / sqrt(m)`` where
            that of `dp_fedavg` has ``z C / m``.
        clip_norm: C, above 0; see `clip` for how to find it. It scales signal and noise alike, so a
            small one, such as the default, keeps the model from being carried away.
        delta: Of the guarantee, from 1e-12, and below 1 over the number of clients.
        epsilon_budget: The run stops before epsilon exceeds it; None for no limit.
        accountant: ``"pld"``, here exact, or ``"rdp"``; see `dp_fedavg`.
        noise: ``"secure"`` draws by a key that only the client's process has: in a simulation it is
            in the run's ``secrets.jsonl``, while a node forgets it when it ends, so that rounds
            which its clients took part in cannot be computed again. ``"seeded"`` draws from the
            experiment's seed, for comparisons; whoever knows it can take the noise off.

    Needs:
        Nothing of clients but noise as long as what they send, and no more bytes. It comes before
        all other codecs; models must have no buffers that are sent, such as BatchNorm's.

    Verified:
        By hand, the noise's moments over many draws, and the account against the closed form of
        Balle and Wang (2018).

    Source:
        J. C. Duchi, M. I. Jordan and M. J. Wainwright, "Local Privacy and Statistical Minimax
        Rates", FOCS 2013, for the model; B. Balle and Y.-X. Wang, "Improving the Gaussian Mechanism
        for Differential Privacy", ICML 2018, Theorem 8, for the mechanism.
    """
    positive("noise_multiplier", noise_multiplier)
    positive("clip_norm", clip_norm)
    secret = not seeded(noise)
    std = noise_multiplier * clip_norm

    def encode(
        channels: Mapping[str, Tensor], _context: LocalContext, seed: int
    ) -> tuple[Mapping[str, Tensor], State]:
        beside = sorted(name for name in channels if "/" in name)
        if beside:
            raise CompositionError(
                f"an earlier part sends {beside[0]!r} beside the update, which would go without "
                "noise; name local_dp before it"
            )
        clipped = bounded(channels, clip_norm)
        key = key_of(seed)
        if secret:
            key = bound_key(key, "local_dp", clipped)
        return noised(clipped, std, key), {}

    def decode(channels: Mapping[str, Tensor], _decoding: Decoding) -> Mapping[str, Tensor]:
        return channels

    codec = Codec(
        name="local_dp",
        encode=encode,
        decode=decode,
        secret=secret,
        stateful=False,
        voluntary=True,
    )
    half = guarantee(noise_multiplier / 2, delta, epsilon_budget, accountant, local=True)
    return Part(
        name=f"local_dp(noise_multiplier={noise_multiplier:g}, clip_norm={clip_norm:g})",
        codecs=(codec,),
        weigher=EQUAL,
        privacy=half,
        provides=frozenset({NUMBERS}),
        refuses=_REFUSES,
    )


def noised(vectors: Mapping[str, Tensor], std: float, key: bytes) -> dict[str, Tensor]:
    """Add independent Gaussian noise to each vector.

    Args:
        vectors: Shapes ``(D,)``, by name.
        std: Its standard deviation.
        key: Decides the noise.
    """
    names = sorted(vectors)
    drawn = standard_normal(key, sum(vectors[name].numel() for name in names))
    pieces = drawn.split([vectors[name].numel() for name in names])
    return {
        name: with_noise(vectors[name], std, piece)
        for name, piece in zip(names, pieces, strict=True)
    }
