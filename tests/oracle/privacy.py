"""Cases of clipping, noise and privacy accounts."""

import re
from collections.abc import Iterator, Mapping, Sequence
from math import prod, sqrt
from typing import Any

import torch
from torch import Tensor, nn

from roundel.core.errors import CompositionError
from roundel.core.job import LocalContext
from roundel.core.messages import PARAMS, ClientUpdate, Ticket
from roundel.core.params import ParamSpec
from roundel.server.admission import Admission
from roundel.server.aggregation import (
    ServerState,
    aggregate_updates,
    broadcast_channels,
    initial_state,
)
from roundel.server.privacy import epsilons, gaussian_epsilon
from roundel.strategies.clipping import clip, joint_norm
from roundel.strategies.compose import Part, Strategy, compose
from roundel.strategies.dp_fedavg import (
    CLIP_NORM,
    WITHIN,
    dp_adaptive,
    dp_fedavg,
    split_noise,
)
from roundel.strategies.sites import RoundContext
from roundel.strategies.weighers import weigher
from tests.oracle.cases import Case, UnknownCase, vector

_NAMES = {
    "z": "noise_multiplier",
    "C": "clip_norm",
    "norm": "clip_norm",
    "clipping_norm": "clip_norm",
    "m": "clients_per_round",
    "num_sampled_clients": "clients_per_round",
    "cohort_size": "clients_per_round",
    "q": "sampling_probability",
    "sampling_rate": "sampling_probability",
    "T": "rounds",
    "steps": "rounds",
    "sigma_b": "count_noise",
    "clipped_count_stddev": "count_noise",
    "eta_C": "clip_lr",
    "gamma": "target_quantile",
    "target_clipped_quantile": "target_quantile",
    "initial_clip_norm": "initial_clip",
    "C_init": "initial_clip",
}
"""Other names of inputs to ours."""


def run(case: Case) -> dict[str, Any]:
    """Return what Roundel makes of a case.

    Raises:
        UnknownCase: The algorithm, its convention or an input is not ours.
    """
    inputs = {_NAMES.get(name, name): value for name, value in case.inputs.items()}
    algorithm = case.algorithm.lower()
    try:
        if algorithm.startswith("norm clipping"):
            return _clipping(case, inputs)
        if re.match(r"dp[- ]fedavg", algorithm) and "adaptive" in algorithm:
            return _split(inputs) if "count_noise" in inputs else _trajectory(inputs)
        if re.fullmatch(r"dp[- ]fedavg( fixed clip\w*)?", algorithm):
            return _std(inputs) if case.kind == "accounting" else _averaging(inputs)
        if algorithm == "dp accounting":
            return _account(case, inputs)
    except (CompositionError, OverflowError, ZeroDivisionError) as error:
        raise UnknownCase(str(error)) from error
    raise UnknownCase(f"there is no {case.kind} of {case.algorithm!r}")


def _check(inputs: Mapping[str, Any], needed: set[str], known: set[str]) -> None:
    if missing := needed - inputs.keys():
        raise UnknownCase(f"it lacks {', '.join(sorted(missing))}")
    if strange := inputs.keys() - needed - known:
        raise UnknownCase(f"its inputs {', '.join(sorted(strange))} mean nothing here")


# ---- clipped means


class _Tensors(nn.Module):
    """A model of named tensors, of any shapes."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        for place, tensor in enumerate(tensors.values()):
            self.register_parameter(f"tensor_{place}", nn.Parameter(tensor.clone()))


def _named(value: Any) -> dict[str, Tensor]:
    """Return a model's tensors, however a case writes them."""
    if isinstance(value, Mapping):
        return {name: torch.tensor(inner, dtype=torch.float64) for name, inner in value.items()}
    if isinstance(value, list) and value and isinstance(value[0], list):
        return {str(i): torch.tensor(one, dtype=torch.float64) for i, one in enumerate(value)}
    return {"w": vector(value)}


def _flat(tensors: Mapping[str, Tensor]) -> Tensor:
    return torch.cat([tensor.reshape(-1) for tensor in tensors.values()])


def _clipping(case: Case, inputs: Mapping[str, Any]) -> dict[str, Any]:
    known = {"global_params", "num_examples", "weighting", "per_layer"}
    _check(inputs, {"client_deltas", "clip_norm"}, known)
    text = f"{case.algorithm} {case.convention}".lower()
    said = re.search(r"per[- ](layer|tensor)", text) is not None
    per_layer = inputs.get("per_layer", said)
    return _averaged(clip(norm=inputs["clip_norm"], per_layer=per_layer), inputs)


def _averaging(inputs: Mapping[str, Any]) -> dict[str, Any]:
    known = {"global_params", "clients_per_round", "num_examples", "noise_multiplier"}
    _check(inputs, {"client_deltas", "clip_norm"}, known)
    if inputs.get("noise_multiplier"):
        raise UnknownCase("noise is drawn from a generator of our own")
    return _averaged(dp_fedavg(noise_multiplier=0.0, clip_norm=inputs["clip_norm"]), inputs)


def _averaged(part: Part, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Send deltas as clients do, let the gate decode them, and average."""
    deltas = [_named(delta) for delta in inputs["client_deltas"]]
    zero = {name: torch.zeros_like(tensor) for name, tensor in deltas[0].items()}
    start = _named(inputs["global_params"]) if "global_params" in inputs else zero
    if any(delta.keys() != start.keys() for delta in deltas):
        raise UnknownCase("its deltas have other tensors than its parameters")
    weighs = Part(name="weights", weigher=weigher(inputs.get("weighting")))
    strategy = compose(part, *([weighs] if weighs.weigher else []))
    spec = ParamSpec.of(_Tensors(start))
    before = initial_state(strategy, spec, _flat(start), torch.empty(0, dtype=torch.int64))
    counts = inputs.get("num_examples", [1] * len(deltas))
    updates = [
        _sent(strategy, spec, before, _flat(delta), k, int(count))
        for k, (delta, count) in enumerate(zip(deltas, counts, strict=True))
    ]
    wanted = inputs.get("clients_per_round", len(updates))
    state = aggregate_updates(strategy, spec, before, updates, len(updates), wanted=wanted)
    shapes = {name: tensor.shape for name, tensor in start.items()}
    form = inputs["client_deltas"][0]
    return {
        "norms": [float(joint_norm([_flat(delta)])) for delta in deltas],
        "clipped_deltas": [_like(shapes, update.channels[PARAMS], form) for update in updates],
        "mean_delta": _like(shapes, state.params - before.params, form),
        "global_params": _like(shapes, state.params, inputs.get("global_params", form)),
    }


def _sent(
    strategy: Strategy,
    spec: ParamSpec,
    state: ServerState,
    delta: Tensor,
    client_id: int,
    count: int,
) -> ClientUpdate:
    """Return a client's update as the server takes it in."""
    received = broadcast_channels(strategy, state)
    context = LocalContext(spec=spec, sent=state.params, received=received)
    channels: Mapping[str, Tensor] = {PARAMS: delta}
    for codec in strategy.codecs:
        channels, _ = codec.encode(channels, context, 0)
    gate = Admission(
        strategy=strategy, spec=spec, base_version=state.round, selected=1, broadcast=received
    )
    admitted = gate(
        ClientUpdate(
            ticket=Ticket(run="oracle", round=state.round + 1, client_id=client_id),
            base_version=state.round,
            num_examples=count,
            num_steps=1,
            channels=channels,
        )
    )
    if isinstance(admitted, str):
        raise UnknownCase(admitted)
    return admitted


def _like(shapes: Mapping[str, Sequence[int]], flat: Tensor, form: Any) -> Any:
    """Return a flat vector in the form in which a case writes its models."""
    pieces = flat.split([prod(shape) for shape in shapes.values()])
    named = {n: p.view(*s).tolist() for (n, s), p in zip(shapes.items(), pieces, strict=True)}
    if isinstance(form, Mapping):
        return named
    return list(named.values()) if isinstance(form[0], list) else named["w"]


# ---- adaptive clipping


def _trajectory(inputs: Mapping[str, Any]) -> dict[str, Any]:
    knobs = {"initial_clip", "target_quantile", "clip_lr"}
    _check(inputs, {"update_norms", "rounds"}, {*knobs, "noise_multiplier"})
    if inputs.get("noise_multiplier"):
        raise UnknownCase("noise is drawn from a generator of our own")
    strategy = compose(
        dp_adaptive(noise_multiplier=0.0, **{k: inputs[k] for k in knobs & inputs.keys()})
    )
    start = torch.zeros(2, dtype=torch.float64)
    spec = ParamSpec.of(_Tensors({"w": start}))
    state = initial_state(strategy, spec, start, torch.empty(0, dtype=torch.int64))
    direction = vector([0.6, 0.8])
    clips, shares = [_clip_norm(state)], []
    for norms in _norms(inputs):
        updates = [
            _sent(strategy, spec, state, norm * direction, k, 1) for k, norm in enumerate(norms)
        ]
        shares.append(sum(float(u.channels[WITHIN]) + 0.5 for u in updates) / len(updates))
        state = aggregate_updates(strategy, spec, state, updates, len(updates))
        clips.append(_clip_norm(state))
    return {"clip_per_round": clips, "final_clip": clips[-1], "fraction_within_per_round": shares}


def _norms(inputs: Mapping[str, Any]) -> Iterator[Sequence[float]]:
    norms = inputs["update_norms"]
    for t in range(inputs["rounds"]):
        yield norms[t] if isinstance(norms[0], list) else norms


def _clip_norm(state: ServerState) -> float:
    return float(state.transforms["dp_adaptive"][CLIP_NORM])


def _split(inputs: Mapping[str, Any]) -> dict[str, Any]:
    _check(inputs, {"noise_multiplier", "count_noise"}, {"clients_per_round", "clip_norm"})
    m = inputs.get("clients_per_round", 1)
    z, sigma_b = inputs["noise_multiplier"], inputs["count_noise"]
    dp_adaptive(noise_multiplier=z, count_noise=sigma_b)  # refuses what is too quiet
    for_updates, for_count = split_noise(z, sigma_b, m)
    computed = dict.fromkeys(("z_delta", "z_Delta", "noise_multiplier_delta"), for_updates)
    computed |= {"sigma_b": for_count, "std_count_on_mean": for_count / m}
    if norm := inputs.get("clip_norm"):
        computed |= {"std_on_sum": for_updates * norm, "std_on_mean": for_updates * norm / m}
    return computed


# ---- noise and accounts


def _std(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Read the noise's scale off a round to which nobody came."""
    _check(inputs, {"noise_multiplier", "clip_norm", "clients_per_round"}, set())
    m = inputs["clients_per_round"]
    (link,) = dp_fedavg(
        noise_multiplier=inputs["noise_multiplier"], clip_norm=inputs["clip_norm"]
    ).server
    context = RoundContext(
        round=1,
        population=m,
        selected=0,
        completed=0,
        wanted=m,
        noise={f"dp_fedavg/{PARAMS}": vector([1.0])},
    )
    noised, _ = link.update({PARAMS: vector([0.0])}, {}, vector([0.0]), context)
    std = float(noised[PARAMS])
    return {"std_on_mean": std, "std_on_sum": std * m}


def _account(case: Case, inputs: Mapping[str, Any]) -> dict[str, Any]:
    _check(inputs, {"noise_multiplier", "rounds", "delta"}, {"sampling_probability"})
    if re.search(r"replace|without replacement|substitut|example-level", case.convention.lower()):
        raise UnknownCase("neighbours differ by one client more or less, drawn by Poisson sampling")
    z, q = inputs["noise_multiplier"], inputs.get("sampling_probability", 1.0)
    delta, rounds = inputs["delta"], inputs["rounds"]
    computed = {
        f"epsilon_{accountant}": epsilons(z, q, delta, accountant)(rounds)
        for accountant in ("pld", "rdp")
    }
    if q == 1:
        exact = gaussian_epsilon(z / sqrt(rounds), delta)
        computed |= {"epsilon_exact_analytic_gaussian": exact, "epsilon_exact": exact}
    return computed
