"""Attacks by name, with their knobs: what stands in the section ``[attack]`` of an experiment."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from math import nan
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from roundel.core.errors import ConfigError
from roundel.core.knobs import settle
from roundel.core.suggest import suggest
from roundel.simulations.attacks import vectors
from roundel.simulations.attacks.vectors import Direction, Mode, Sign

Knowledge = Literal["all", "own"]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


@dataclass(frozen=True, kw_only=True)
class Attack:
    """What malicious clients do; one of the three.

    An update attack changes the channel of the parameters. Whatever else a client sends stays what
    its training made of it.

    Attributes:
        name: What to call it.
        relabel: Changes the targets that a malicious client trains on.
        alone: Its delta ``(D,)``, float64, and a seed to what it sends instead.
        together: The deltas ``(K, D)``, float64, that they look at, how many clients the round
            counts and how many of them are malicious, to what all of these send.
        omniscient: Whether `together` looks at the updates of honest clients, as the server gets
            them; otherwise at what the malicious ones would have sent.
    """

    name: str
    relabel: Callable[[Tensor], Tensor] | None = None
    alone: Callable[[Tensor, int], Tensor] | None = None
    together: Callable[[Tensor, int, int], Tensor] | None = None
    omniscient: bool = False


def sign_flip(*, scale: Positive = 1.0, knowledge: Knowledge = "own") -> Attack:
    """Turn the update around.

        delta = -scale * own delta            knowledge "own"
        delta = -scale * mean(honest)         knowledge "all"

    Args:
        scale: How many times as long as before, above 0; 1 flips the sign and no more.
        knowledge: ``"own"``: each client flips its own update. ``"all"``: all send the same, the
            mean of the honest updates of the round turned around.

    Source:
        L. Li et al., "RSA: Byzantine-Robust Stochastic Aggregation Methods for Distributed
        Learning from Heterogeneous Datasets", AAAI 2019; of the mean, as in ByzFL's SignFlipping.
    """
    if knowledge == "own":
        return Attack(
            name="sign_flip", alone=lambda delta, _seed: vectors.sign_flip(delta, scale=scale)
        )
    return Attack(
        name="sign_flip",
        together=lambda rows, _n, _f: vectors.sign_flip(rows.mean(dim=0), scale=scale),
        omniscient=True,
    )


def gaussian(*, mean: Finite = 0.1, std: Positive = 0.1, mode: Mode = "replace") -> Attack:
    """Send noise: each coordinate from ``N(mean, std**2)``, drawn from the seed.

    Args:
        mean: Of each coordinate; 0.1 as in Blades.
        std: Of each coordinate, above 0; 0.1 as in Blades.
        mode: ``"replace"``: noise in place of the update. ``"add"``: the update and noise.

    Source:
        S. Li et al., "Blades: A Unified Benchmark Suite for Byzantine Attacks and Defenses in
        Federated Learning", IoTDI 2024.
    """
    return Attack(name="gaussian", alone=partial(vectors.gaussian, mean=mean, std=std, mode=mode))


def label_flip(*, classes: Annotated[int, Field(gt=1)] | None = None) -> Attack:
    """Train on wrong labels: ``y -> C - 1 - y``.

    Args:
        classes: C, how many classes there are; None to take the largest label of the pool and one.
            To be set where clients bring their own examples.

    Source:
        V. Tolpegin et al., "Data Poisoning Attacks Against Federated Learning Systems", ESORICS
        2020, for the threat; the mapping is that of Blades.
    """
    if classes is None:
        raise ConfigError(
            "label_flip cannot find out how many classes there are, since no pool of examples is "
            "divided; set attack.classes"
        )
    return Attack(name="label_flip", relabel=partial(vectors.flip_labels, classes=classes))


def alie(
    *,
    z: Finite | Literal["auto"] = 1.5,
    sign: Sign = "minus",
    ddof: Literal[0, 1] = 0,
    knowledge: Knowledge = "all",
) -> Attack:
    """A little is enough: hide within the spread of the honest.

        delta = mean - z * std                                     by coordinate
        "auto":  s = floor(n / 2 + 1) - f,  z = Phi^-1((n - f - s) / (n - f))

    With n clients whose updates the round counts, f of them malicious. For few clients the
    automatic z is 0 or below, and then the attack does little.

    Args:
        z: How many standard deviations off the mean; 1.5 as in the authors' code.
        sign: ``"minus"`` is the authors'; ByzFL and Blades add.
        ddof: 0 divides the variance by the number of rows as the authors' code does, 1 by one less.
        knowledge: ``"all"``: of the honest updates of the round. ``"own"``, the paper's: of what
            the malicious clients of the round would have sent.

    Source:
        G. Baruch et al., "A Little Is Enough: Circumventing Defenses For Distributed Learning",
        NeurIPS 2019, Algorithm 3.
    """

    def together(rows: Tensor, n: int, f: int) -> Tensor:
        far = vectors.z_max(n, f) if z == "auto" else z
        return vectors.alie(rows, z=far, sign=sign, ddof=ddof)

    return Attack(name="alie", together=together, omniscient=knowledge == "all")


def ipm(*, epsilon: Positive = 0.5, knowledge: Knowledge = "all") -> Attack:
    """Inner-product manipulation: ``delta = -epsilon * mean``.

    Args:
        epsilon: How long, above 0. Small values pass for honest, as 0.1 and 0.5; large ones turn
            an unprotected mean around, as 2 and 100.
        knowledge: As for `alie`.

    Source:
        C. Xie et al., "Fall of Empires: Breaking Byzantine-tolerant SGD by Inner Product
        Manipulation", UAI 2019.
    """
    return Attack(
        name="ipm",
        together=lambda rows, _n, _f: vectors.ipm(rows, epsilon=epsilon),
        omniscient=knowledge == "all",
    )


def min_max(*, direction: Direction = "std", knowledge: Knowledge = "all") -> Attack:
    """Go as far from the mean as the honest updates are from each other.

        delta = mean + gamma d,   max_i |delta - x_i| <= max_ij |x_i - x_j|,   gamma largest

    Args:
        direction: d: ``"std"`` is minus the standard deviation, ``"unit"`` minus the unit vector of
            the mean, ``"sign"`` minus its signs; the paper compares the three.
        knowledge: As for `alie`.

    Source:
        V. Shejwalkar and A. Houmansadr, "Manipulating the Byzantine: Optimizing Model Poisoning
        Attacks and Defenses for Federated Learning", NDSS 2021.
    """
    return Attack(
        name="min_max",
        together=lambda rows, _n, _f: vectors.min_max(rows, direction=direction),
        omniscient=knowledge == "all",
    )


def min_sum(*, direction: Direction = "std", knowledge: Knowledge = "all") -> Attack:
    """Stay as close to all honest updates together as the farthest of them does.

        delta = mean + gamma d,   sum_i |delta - x_i|**2 <= max_i sum_j |x_i - x_j|**2

    Args:
        direction: As for `min_max`.
        knowledge: As for `alie`.

    Source:
        As for `min_max`.
    """
    return Attack(
        name="min_sum",
        together=lambda rows, _n, _f: vectors.min_sum(rows, direction=direction),
        omniscient=knowledge == "all",
    )


def not_a_number() -> Attack:
    """Send values that are not finite, which the admission gate refuses.

    Source:
        A test of the platform and no published attack: one such value turns a mean into nothing.
    """
    return Attack(name="nan", alone=lambda delta, _seed: torch.full_like(delta, nan))


ATTACKS: Mapping[str, Callable[..., Attack]] = {
    "sign_flip": sign_flip,
    "gaussian": gaussian,
    "label_flip": label_flip,
    "alie": alie,
    "ipm": ipm,
    "min_max": min_max,
    "min_sum": min_sum,
    "nan": not_a_number,
}


def settled_knobs(kind: str, knobs: Mapping[str, Any]) -> dict[str, Any]:
    """Return every knob of an attack with the value it gets, defaults included.

    Raises:
        ConfigError: The kind or a knob is unknown, or a value does not fit.
    """
    make = ATTACKS.get(kind)
    if make is None:
        raise ConfigError(f"attack.kind = {kind!r} is unknown; {suggest(kind, ATTACKS)}")
    return settle(make, knobs, section="attack", name=kind)
