"""Cases of attacks: what malicious clients send, from what honest ones would."""

import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from roundel.core.errors import ConfigError
from roundel.simulations.attacks import vectors
from roundel.simulations.attacks.kinds import ATTACKS, Attack, settled_knobs
from tests.oracle.cases import Case, UnknownCase, vector

_DIRECTIONS = {
    "std": "std",
    "std(ddof=0)": "std",
    "unit": "unit",
    "unit(mean)": "unit",
    "mean/norm(mean)": "unit",
    "sign": "sign",
    "sign(mean)": "sign",
}


def run(case: Case) -> dict[str, Any]:
    """Return what Roundel makes of a case.

    Raises:
        UnknownCase: The algorithm, its convention or an input is not ours.
    """
    algorithm = re.sub(r"[\s_-]+", " ", case.algorithm.lower()).strip()
    if case.kind != "attack" or algorithm not in _ALGORITHMS:
        raise UnknownCase(f"there is no {case.kind} of {case.algorithm!r}")
    known, compute = _ALGORITHMS[algorithm]
    if strange := case.inputs.keys() - known:
        raise UnknownCase(f"its inputs {', '.join(sorted(strange))} mean nothing here")
    return compute(case.inputs)


def _made(kind: str, **knobs: Any) -> Attack:
    try:
        return ATTACKS[kind](**settled_knobs(kind, knobs))
    except ConfigError as error:
        raise UnknownCase(str(error)) from error


def _rows(inputs: Mapping[str, Any]) -> Tensor:
    rows = inputs.get("honest_updates")
    if not isinstance(rows, list) or not rows:
        raise UnknownCase("it does not say what the honest clients send")
    return torch.stack([vector(row) for row in rows])


def _together(attack: Attack, rows: Tensor, n: int, f: int) -> Tensor:
    assert attack.together is not None
    return attack.together(rows, n, f)


def _counts(inputs: Mapping[str, Any], rows: Tensor) -> tuple[int, int]:
    """Return how many clients there are and how many attack; either follows from the other."""
    if "n" in inputs:
        return inputs["n"], inputs.get("f", inputs["n"] - len(rows))
    return len(rows) + inputs.get("f", 0), inputs.get("f", 0)


def _alie(inputs: Mapping[str, Any]) -> dict[str, Any]:
    rows = _rows(inputs)
    n, f = _counts(inputs, rows)
    far: dict[str, float | str] = {}
    if f:
        far["zmax"] = "auto"
    if "z_fixed" in inputs:
        far[f"z{inputs['z_fixed']:g}".replace(".", "p").replace("-", "m")] = inputs["z_fixed"]
    computed: dict[str, Any] = {}
    for name, z in far.items():
        for ddof in (0, 1):
            for sign in ("minus", "plus"):
                sent = _together(_made("alie", z=z, ddof=ddof, sign=sign), rows, n, f)
                computed[f"malicious_{name}_ddof{ddof}_{sign}"] = sent
            # Where nothing is said about the sign it is the authors'.
            computed[f"malicious_{name}_ddof{ddof}"] = computed[
                f"malicious_{name}_ddof{ddof}_minus"
            ]
    if f:
        computed |= {"s": vectors.supporters(n, f), "z_max": vectors.z_max(n, f)}
    said = {knob: inputs[knob] for knob in ("z", "sign", "ddof") if knob in inputs}
    if said:
        computed["malicious"] = _together(_made("alie", **said), rows, n, f)
    return computed


def _ipm(inputs: Mapping[str, Any]) -> dict[str, Any]:
    rows = _rows(inputs)
    knobs = {"epsilon": inputs["epsilon"]} if "epsilon" in inputs else {}
    return {"malicious": _together(_made("ipm", **knobs), rows, *_counts(inputs, rows))}


def _sign_flip(inputs: Mapping[str, Any]) -> dict[str, Any]:
    knobs = {"scale": inputs["scale"]} if "scale" in inputs else {}
    computed: dict[str, Any] = {}
    if "own_update" in inputs:
        alone = _made("sign_flip", **knobs).alone
        assert alone is not None
        computed["per_client"] = alone(vector(inputs["own_update"]), 0)
    if "honest_updates" in inputs:
        rows = _rows(inputs)
        attack = _made("sign_flip", knowledge="all", **knobs)
        computed["byzfl_collusive"] = _together(attack, rows, len(rows), 0)
    return computed


def _label_flip(inputs: Mapping[str, Any]) -> dict[str, Any]:
    labels = vector(inputs.get("labels", []))
    if "num_classes" not in inputs or not labels.equal(labels.round()):
        raise UnknownCase("it does not say which classes there are")
    relabel = _made("label_flip", classes=inputs["num_classes"]).relabel
    assert relabel is not None
    return {"flipped": relabel(labels.long()).double()}


def _towards(inputs: Mapping[str, Any]) -> Any:
    said = str(inputs.get("direction", "std")).replace(" ", "").removeprefix("-")
    if said not in _DIRECTIONS:
        raise UnknownCase(f"there is no direction {inputs['direction']!r}")
    return _DIRECTIONS[said]


def _far(
    kind: str, gamma: Callable[[Tensor, Tensor], Tensor]
) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    def compute(inputs: Mapping[str, Any]) -> dict[str, Any]:
        rows, direction = _rows(inputs), _towards(inputs)
        attack = _made(kind, direction=direction)
        return {
            "gamma": gamma(rows, vectors.direction_of(rows, direction)).item(),
            "malicious": _together(attack, rows, *_counts(inputs, rows)),
        }

    return compute


# Algorithm to the inputs that it knows and what computes it.
_COUNTS = {"honest_updates", "n", "f"}
_ALGORITHMS: Mapping[str, tuple[set[str], Callable[[Mapping[str, Any]], dict[str, Any]]]] = {
    "alie": ({*_COUNTS, "z_fixed", "z", "sign", "ddof"}, _alie),
    "ipm": ({*_COUNTS, "epsilon"}, _ipm),
    "sign flip": ({"honest_updates", "own_update", "scale"}, _sign_flip),
    "label flip": ({"labels", "num_classes"}, _label_flip),
    "min max": ({*_COUNTS, "direction"}, _far("min_max", vectors.min_max_gamma)),
    "min sum": ({*_COUNTS, "direction"}, _far("min_sum", vectors.min_sum_gamma)),
}
