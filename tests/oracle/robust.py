"""Cases of robust aggregation: what a rule makes of updates that a case writes out."""

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from roundel.core.errors import CompositionError, ConfigError
from roundel.core.messages import PARAMS, ClientUpdate, Ticket
from roundel.core.params import ParamSpec
from roundel.server.aggregation import ServerState, aggregate_updates, initial_state
from roundel.strategies.bulyan import bulyan_selection
from roundel.strategies.compose import Strategy, compose
from roundel.strategies.krum import krum_scores, lowest
from roundel.strategies.mixing import nnm
from roundel.strategies.registry import make_strategy
from roundel.strategies.sites import RoundContext
from roundel.strategies.tolerance import Tolerance
from tests.federations import Point
from tests.oracle.cases import Case, UnknownCase, vector

# Algorithm, as letters alone, to the strategy's name.
_ALGORITHMS = {
    "fedmedian": "median",
    "median": "median",
    "trimmedmean": "trimmed_mean",
    "fedtrimmedavg": "trimmed_mean",
    "krum": "krum",
    "multikrum": "multi_krum",
    "bulyan": "bulyan",
    "rfa": "rfa",
    "geometricmedian": "geometric_median",
    "centeredclipping": "centred_clipping",
    "centredclipping": "centred_clipping",
    "fltrust": "fltrust",
    "nnm": "nnm",
}
_KINDS = {"aggregation", "multi_round"}
# Strategy to the inputs that it can read besides the updates, and the knobs that they set.
_KNOBS: Mapping[str, Mapping[str, str]] = {
    "median": {},
    "trimmed_mean": {"f": "f", "k": "f", "beta": "fraction"},
    "krum": {"f": "f"},
    "multi_krum": {"f": "f", "m": "m"},
    "bulyan": {"f": "f"},
    "rfa": {"nu": "nu", "iterations": "iterations", "R": "iterations", "tol": "tol"},
    "geometric_median": {"nu": "nu", "iterations": "iterations", "T": "iterations", "tol": "tol"},
    "centred_clipping": {"tau": "tau", "iterations": "iterations", "L": "iterations"},
    "fltrust": {"server_lr": "server_lr"},
    "nnm": {"f": "f"},
}
_UPDATES = ("client_params", "client_updates", "client_deltas")
_MORE: Mapping[str, set[str]] = {
    "rfa": {"init"},
    "geometric_median": {"init"},
    "centred_clipping": {"v_init", "rounds"},
    "fltrust": {"root_update"},
}
# Words of a case's convention to that of Krum.
_CONVENTIONS = {
    "flower": "flower",
    "flwr": "flower",
    "byzfl": "byzfl",
    "lpd": "lpd-epfl",
    "byzantinemomentum": "lpd-epfl",
    "epfml": "epfml",
    "moranant": "moranant",
}


def run(case: Case) -> dict[str, Any]:
    """Return what Roundel makes of a case.

    Raises:
        UnknownCase: The algorithm, its convention or an input is not ours.
    """
    name = _ALGORITHMS.get(re.sub(r"[^a-z]", "", case.algorithm.lower()))
    if case.kind not in _KINDS or name is None:
        raise UnknownCase(f"there is no {case.kind} of {case.algorithm!r}")
    known = {*_KNOBS[name], *_UPDATES, *_MORE.get(name, ()), "global_params", "num_examples"}
    if strange := case.inputs.keys() - known:
        raise UnknownCase(f"its inputs {', '.join(sorted(strange))} mean nothing here")
    try:
        return _computed(case, name)
    except (ConfigError, CompositionError) as error:
        raise UnknownCase(str(error)) from error


def _computed(case: Case, name: str) -> dict[str, Any]:
    text = f"{case.algorithm} {case.convention}".lower()
    knobs = {knob: case.inputs[key] for key, knob in _KNOBS[name].items() if key in case.inputs}
    if name == "median" and re.search(r"\b(lower|upper)\b", text):
        raise UnknownCase("the median of an even number is the mean of the middle two")
    if name == "trimmed_mean":
        knobs["if_nothing"] = "mean" if "floor" in text else "error"
        return {**_aggregated(case, name, knobs), "k_trimmed_each_side": _trimmed(case, knobs)}
    if name in {"krum", "multi_krum"}:
        return _krum(case, name, knobs, text)
    if name == "bulyan":
        return _bulyan(case, knobs)
    if name in {"rfa", "geometric_median"}:
        return _geometric_median(case, name, knobs)
    if name == "centred_clipping":
        return _centred_clipping(case, knobs)
    if name == "nnm":
        (mix,) = nnm(**knobs).mixers
        return {"mixed": mix(_rows(case.inputs), _context(0)), **_aggregated(case, name, knobs)}
    return _aggregated(case, name, knobs)


# ---- the rules


def _trimmed(case: Case, knobs: Mapping[str, Any]) -> int:
    tolerance = Tolerance(
        rule="trimmed_mean",
        f=knobs.get("f"),
        fraction=knobs.get("fraction", 0.0),
        least=lambda f: 2 * f + 1,
        or_none=True,
    )
    return tolerance.of(len(_rows(case.inputs)))


def _krum(case: Case, name: str, knobs: Mapping[str, Any], text: str) -> dict[str, Any]:
    chosen = _convention(text) or "paper"
    found = {chosen: _one_krum(case, name, knobs, chosen)}
    for own in sorted({"paper", *_CONVENTIONS.values()} - {chosen}):
        with suppress(CompositionError):  # it does not do with so few
            found[own] = _one_krum(case, name, knobs, own)
    return {**found[chosen], **_by_convention(case.expected, found)}


def _convention(text: str) -> str | None:
    """Return the one convention that a text names; None if there are several or none."""
    named = {own for word, own in _CONVENTIONS.items() if re.search(rf"(?<![a-z]){word}", text)}
    return named.pop() if len(named) == 1 else None


def _by_convention(
    names: Mapping[str, Any], found: Mapping[str, Mapping[str, Any]], what: str | None = None
) -> dict[str, Any]:
    """Return what was found under names that say the convention, and perhaps what of it."""
    told: dict[str, Any] = {}
    for name, inner in names.items():
        said = re.search("score|select|param", name.lower())
        kind = {"score": "scores", "select": "selected", "param": "global_params"}.get(
            said[0] if said else "", what
        )
        own = "paper" if "paper" in name.lower() else _convention(name.lower())
        if own is not None and own in found:
            told[name] = found[own][kind] if kind else found[own]
        elif isinstance(inner, Mapping):
            told[name] = _by_convention(inner, found, kind)
    return told


def _one_krum(case: Case, name: str, knobs: Mapping[str, Any], own: str) -> dict[str, Any]:
    rows, f = _rows(case.inputs), knobs["f"]
    scores = krum_scores(rows, f, own)  # pyright: ignore[reportArgumentType]
    more = {"weights": "uniform"} if name == "multi_krum" else {}
    if more and "num_examples" in case.inputs and "unweighted" not in case.convention:
        more = {"weights": "examples"}
    keeps = {"byzfl": len(rows) - f, "flower": 1}.get(own, len(rows) - f - 2)
    keep = knobs.get("m", keeps)
    best = lowest(scores, keep).tolist()
    aggregated = _aggregated(case, name, {**knobs, **more, "convention": own})
    return {
        **aggregated,
        "scores": scores,
        "selected": sorted(best) if name == "multi_krum" else best[0],
    }


def _bulyan(case: Case, knobs: Mapping[str, Any]) -> dict[str, Any]:
    rows, f = _rows(case.inputs), knobs["f"]
    one_shot, iterated = (
        {
            "selected": bulyan_selection(rows, f, selection).tolist(),
            **_aggregated(case, "bulyan", {**knobs, "selection": selection}),
        }
        for selection in ("one-shot", "iterated")
    )
    theta = len(rows) - 2 * f
    told = {"theta": theta, "beta": theta - 2 * f}
    chosen = one_shot if re.search(r"\bone-?shot", case.convention) else iterated
    names = ("oneshot_flower_serverapp", "one_shot", "oneshot")
    return {**told, **chosen, "iterative": iterated, **dict.fromkeys(names, one_shot)}


def _geometric_median(case: Case, name: str, knobs: dict[str, Any]) -> dict[str, Any]:
    init = case.inputs.get("init", "weighted mean" if name == "rfa" else "mean")
    if "iterations" in knobs:
        knobs.setdefault("tol", 0.0)
    knobs["weights"] = "examples" if "num_examples" in case.inputs else "uniform"
    if isinstance(init, list):  # ours is no change, so the clients are seen from there
        away = vector(init)
        seen = [(row - away).tolist() for row in _rows(case.inputs)]
        kept = {k: v for k, v in case.inputs.items() if k == "num_examples"}
        shifted = replace(case, inputs={**kept, "client_updates": seen})
        found = _aggregated(shifted, "geometric_median", {**knobs, "init": "zero"})["aggregate"]
        base = 0.0 if "client_params" in case.inputs else _start(case)
        return {"global_params": base + away + found}
    named = {"zeros": "zero", 0: "zero"}.get(init, init)
    return _aggregated(case, "geometric_median", {**knobs, "init": named})


def _centred_clipping(case: Case, knobs: Mapping[str, Any]) -> dict[str, Any]:
    strategy = make_strategy("centred_clipping", knobs)
    rounds = case.inputs.get("rounds", 1)
    each = rounds if isinstance(rounds, list) else [case.inputs] * int(rounds)
    spec, state = _beginning(strategy, _start(case))
    if "v_init" in case.inputs:
        kept = {"v": vector(case.inputs["v_init"])}
        state = replace(state, transforms={**state.transforms, "centred_clipping": kept})
    agreed, states = list[Tensor](), list[Tensor]()
    for inputs in each:
        updates = _updates(inputs, state.params)
        state = aggregate_updates(strategy, spec, state, updates, population=len(updates))
        agreed.append(state.transforms["centred_clipping"]["v"])
        states.append(state.params)
    return {
        **{f"round{number}": v for number, v in enumerate(agreed, start=1)},
        "v": agreed[-1],
        "v_per_round": agreed,
        "aggregate": agreed[-1],
        "global_params": states[-1],
        "global_params_per_round": states,
    }


# ---- one round


def _aggregated(case: Case, name: str, knobs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters after one round, and how far they have moved."""
    strategy = compose(make_strategy(name, knobs))
    spec, state = _beginning(strategy, _start(case))
    updates = _updates(case.inputs, state.params)
    more: dict[str, Any] = {}
    if "root_update" in case.inputs:
        more["root"] = {PARAMS: vector(case.inputs["root_update"])}
    after = aggregate_updates(strategy, spec, state, updates, len(updates), **more)
    return {"global_params": after.params, "aggregate": after.params - state.params}


def _start(case: Case) -> Tensor:
    """Return the parameters before the round; the origin, if the case has none."""
    if "global_params" in case.inputs:
        return vector(case.inputs["global_params"])
    return torch.zeros(_rows(case.inputs).shape[1], dtype=torch.float64)


def _beginning(strategy: Strategy, start: Tensor) -> tuple[ParamSpec, ServerState]:
    spec = ParamSpec.of(Point(start))
    return spec, initial_state(strategy, spec, start, torch.empty(0, dtype=torch.int64))


def _rows(inputs: Mapping[str, Any]) -> Tensor:
    for name in _UPDATES:
        if name in inputs:
            return torch.stack([vector(one) for one in inputs[name]])
    rounds = inputs.get("rounds")
    if isinstance(rounds, list) and rounds:
        return _rows(rounds[0])
    raise UnknownCase("it does not say what the clients send")


def _updates(inputs: Mapping[str, Any], params: Tensor) -> Sequence[ClientUpdate]:
    rows = _rows(inputs)
    if "client_params" in inputs:
        rows = rows - params
    counts = inputs.get("num_examples", [1] * len(rows))
    return [
        ClientUpdate(
            ticket=Ticket(run="oracle", round=1, client_id=client_id),
            base_version=0,
            num_examples=int(count),
            num_steps=1,
            channels={PARAMS: delta},
        )
        for client_id, (delta, count) in enumerate(zip(rows, counts, strict=True))
    ]


def _context(round: int) -> RoundContext:
    return RoundContext(round=round, population=1, selected=1, completed=1)
