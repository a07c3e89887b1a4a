"""Cases of gradients, normalised updates, drift correction and fairness.

Clients on quadratics are trained for real. What a client makes of numbers that a case writes out
goes through the strategy's own finishing step.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from roundel.core.clientstate import ClientState
from roundel.core.errors import CompositionError, ConfigError
from roundel.core.job import LocalContext, Phase, Trained, impulse
from roundel.core.messages import PARAMS, ClientUpdate
from roundel.core.metrics import Metrics
from roundel.core.optimizers import OptimizerSpec
from roundel.core.params import ParamSpec
from roundel.server.aggregation import Accumulators, ServerState, aggregate_updates, reported, step
from roundel.strategies.compose import compose
from roundel.strategies.fednova import EFFECTIVE
from roundel.strategies.fedprox import prox
from roundel.strategies.moon import contrastive_loss
from roundel.strategies.registry import make_strategy
from roundel.strategies.sites import RoundContext, Weigher
from tests.federations import Point, Quadratic
from tests.oracle.cases import Case, UnknownCase, vector
from tests.oracle.rounds import Clients, beginning, clients_of, trainer_of, updates_of

_KINDS = {"aggregation", "multi_round", "client_step"}
_ENOUGH_STEPS = 4_000
_GRADIENT = "feddyn.gradient"


def run(case: Case) -> dict[str, Any]:
    """Return what Roundel makes of a case.

    Raises:
        UnknownCase: The algorithm, its convention or an input is not ours.
    """
    algorithm = re.split(r"[\s+(]", case.algorithm, maxsplit=1)[0]
    rest = re.sub(r"[\s+(),]|momentum|prox", "", case.algorithm.removeprefix(algorithm))
    how = _ALGORITHMS.get(algorithm)
    if how is None or rest or case.kind not in _KINDS:
        raise UnknownCase(f"there is no {case.kind} of {case.algorithm!r}")
    try:
        return how(case)
    except (ConfigError, CompositionError) as error:
        raise UnknownCase(str(error)) from error


def _rounds(case: Case, known: set[str], of_a_round: set[str]) -> list[Mapping[str, Any]]:
    """Return a case's rounds, one if it does not list any.

    Raises:
        UnknownCase: An input would be left out of the account, or one is missing.
    """
    listed = case.inputs.get("rounds")
    rounds: list[Mapping[str, Any]] = listed if isinstance(listed, list) else [case.inputs]
    known = known | {"global_params"} | ({"rounds"} if isinstance(listed, list) else of_a_round)
    _check(case.inputs, known, {"global_params"})
    if isinstance(listed, list):
        for one in rounds:
            _check(one, of_a_round, set())
    return rounds


def _check(inputs: Mapping[str, Any], known: set[str], needed: set[str]) -> None:
    if strange := inputs.keys() - known:
        raise UnknownCase(f"its inputs {', '.join(sorted(strange))} mean nothing here")
    if missing := needed - inputs.keys():
        raise UnknownCase(f"it lacks {', '.join(sorted(missing))}")


def _weights(case: Case) -> dict[str, str]:
    if "weighting" not in case.inputs:
        return {}
    return {"weights": case.inputs["weighting"].replace("num_examples", "examples")}


def _knobs(case: Case, **names: str) -> dict[str, Any]:
    return {knob: case.inputs[name] for knob, name in names.items() if name in case.inputs}


# ---- numbers that a case writes out


def _fedsgd(case: Case) -> dict[str, Any]:
    """Train clients whose gradient where they start is the one that the case gives."""
    of_a_round = {"client_gradients", "num_examples"}
    rounds = _rounds(case, {"server_lr", "weighting"}, of_a_round)
    strategy = make_strategy("fedsgd", _knobs(case, server_lr="server_lr") | _weights(case))
    start = vector(case.inputs["global_params"])
    spec, server = beginning(strategy, start)
    trainer = trainer_of(start, strategy)
    points, gradients = [], []
    for one in rounds:
        _check(one, set(one), {"client_gradients"})
        eye = torch.eye(len(start), dtype=start.dtype)
        theirs = [Quadratic(eye, server.params - vector(g)) for g in one["client_gradients"]]
        counts = one.get("num_examples", [1] * len(theirs))
        clients = Clients(quadratics=theirs, trainers=[trainer] * len(theirs), counts=counts)
        updates = [clients.train(k, server, strategy, {})[0] for k in range(len(theirs))]
        before = server.params
        server = aggregate_updates(strategy, spec, server, updates, population=len(updates))
        points.append(server.params)
        gradients.append((before - server.params) / case.inputs.get("server_lr", 0.1))
    return {
        "global_params": points[-1],
        "global_params_per_round": points,
        "mean_gradient": gradients[-1],
    }


def _qfedavg(case: Case) -> dict[str, Any]:
    of_a_round = {"client_params", "client_deltas", "loss_of_global_model"}
    rounds = _rounds(case, {"q", "client_lr", "lipschitz", "loss_offset"}, of_a_round)
    _check(case.inputs, set(case.inputs), {"q"})
    knobs = {"loss_offset": 0.0, **_knobs(case, q="q", lipschitz="lipschitz")}
    knobs |= _knobs(case, loss_offset="loss_offset")
    if not {"client_lr", "lipschitz"} & case.inputs.keys():
        raise UnknownCase("it does not say L, nor the learning rate whose inverse it is")
    strategy = make_strategy("qfedavg", knobs)
    lr = case.inputs.get("client_lr", 1.0)
    (finish,) = strategy.finishers
    spec, server = beginning(strategy, vector(case.inputs["global_params"]))
    points = []
    for one in rounds:
        _check(one, set(one), {"loss_of_global_model"})
        context = LocalContext(spec=spec, sent=server.params, lr=lr)
        losses = vector(one["loss_of_global_model"])
        updates = []
        for update, loss in zip(updates_of(one, server), losses, strict=True):
            trained = _trained(server.params + update.channels[PARAMS], loss_before=loss)
            channels = {**update.channels, **finish(trained, context).channels}
            updates.append(replace(update, channels=channels))
        server = aggregate_updates(strategy, spec, server, updates, population=len(updates))
        points.append(server.params)
    return {"global_params": points[-1], "global_params_per_round": points}


def _trained(end: Tensor, **more: Any) -> Trained:
    none = torch.empty(0, dtype=torch.int64)
    return Trained(vector=end, integers=none, metrics=Metrics(), steps=(1,), **more)


def _fedexp(case: Case) -> dict[str, Any]:
    of_a_round = {"client_params", "client_deltas", "num_examples"}
    rounds = _rounds(case, {"epsilon", "weighting"}, of_a_round)
    strategy = make_strategy("fedexp", _knobs(case, epsilon="epsilon") | _weights(case))
    spec, server = beginning(strategy, vector(case.inputs["global_params"]))
    points, lrs = [], []
    for one in rounds:
        updates = updates_of(one, server)
        server = aggregate_updates(strategy, spec, server, updates, population=len(updates))
        points.append(server.params)
        lrs.append(server.transforms["fedexp"]["lr"])
    return {
        "server_lr": lrs[-1],
        "server_lr_per_round": lrs,
        "global_params": points[-1],
        "global_params_per_round": points,
        "mean_of_last_two": reported(strategy, spec, server),
    }


def _moon(case: Case) -> dict[str, Any]:
    names = {"z", "z_glob", "z_prev", "temperature"}
    _check(case.inputs, names, names)
    z, received, last = (
        torch.tensor(case.inputs[name], dtype=torch.float64) for name in ("z", "z_glob", "z_prev")
    )
    loss = contrastive_loss(z, received, last, case.inputs["temperature"])
    return {"l_con": float(loss)}


# ---- clients trained for real


def _fednova(case: Case) -> dict[str, Any]:
    inputs = dict(case.inputs)
    inputs["local_steps"] = inputs.pop("taus", inputs.get("local_steps"))
    needed = {"global_params", "client_quadratics", "lr"}
    known = needed | {"local_steps", "momentum", "nesterov", "mu", "p", "num_examples"}
    _check(inputs, known, needed)
    momentum, mu = inputs.get("momentum", 0.0), inputs.get("mu", 0.0)
    if momentum and mu:
        raise UnknownCase("momentum may accumulate the proximal term or not; it does not say which")
    if inputs["local_steps"] is None or not {"p", "num_examples"} & inputs.keys():
        raise UnknownCase("it lacks step counts or weights")
    start = vector(inputs["global_params"])
    shares = vector(inputs.get("p", inputs.get("num_examples")))
    optimizer = OptimizerSpec(
        lr=inputs["lr"], momentum=momentum, nesterov=inputs.get("nesterov", False)
    )
    clients = _without_counts(inputs)
    by_norms, _, after_norms = _nova_round(clients, start, shares, mu, "norms")
    by_steps, updates, after_steps = _nova_round(clients, start, shares, mu, "steps")
    prefers_steps = bool(mu) and "prox" in case.convention.lower()
    spec = ParamSpec.of(Point(start))
    steps = inputs["local_steps"]
    counts = steps if isinstance(steps, list) else [steps] * len(updates)
    lengths = [impulse(spec, [Phase(optimizer=optimizer)], [count], mu) or 0.0 for count in counts]
    return {
        "tau_eff_from_a": by_norms,
        "tau_eff_from_steps": by_steps,
        "tau_eff": by_steps if prefers_steps else by_norms,
        "global_params": (after_steps if prefers_steps else after_norms).params,
        "client_params": [
            start + length * update.channels[PARAMS]
            for length, update in zip(lengths, updates, strict=True)
        ],
        "a_norms": [length / inputs["lr"] for length in lengths],
        "a_vectors": [_a_vector(optimizer, count, mu) for count in counts],
    }


def _by_shares(shares: Tensor) -> Weigher:
    return Weigher(name="shares", weigh=lambda update: float(shares[update.ticket.client_id]))


def _without_counts(inputs: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in inputs.items() if name != "num_examples"}


def _nova_round(
    inputs: Mapping[str, Any], start: Tensor, shares: Tensor, mu: float, rule: str
) -> tuple[Tensor, list[ClientUpdate], ServerState]:
    """Train everybody; return tau_eff, the updates, and the state that they lead to."""
    strategy = compose(make_strategy("fednova", {"tau_eff": rule}), prox(mu=mu))
    strategy = replace(strategy, weigher=_by_shares(shares))
    clients = clients_of(inputs, start, strategy)
    spec, server = beginning(strategy, start)
    count = len(clients.quadratics)
    updates = [clients.train(k, server, strategy, {})[0] for k in range(count)]
    accumulators = Accumulators(strategy, spec)
    for update in updates:
        accumulators.add(update)
    context = RoundContext(round=1, population=count, selected=count, completed=count)
    aggregate = accumulators.finish(context)
    after = step(strategy, spec, server, aggregate, context)
    return aggregate[EFFECTIVE] / inputs["lr"], updates, after


def _a_vector(optimizer: OptimizerSpec, steps: int, mu: float) -> Tensor:
    """Return by how much each step's gradient moves the end, over the learning rate."""
    moved = []
    for place in range(steps):
        point = nn.Parameter(torch.zeros(1, dtype=torch.float64))
        stepper = optimizer.build([point])
        for number in range(steps):
            point.grad = mu * point.detach() + float(number == place)
            stepper.step(point.sum)
        moved.append(-point.detach() / optimizer.lr)
    return torch.cat(moved)


def _feddyn(case: Case) -> dict[str, Any]:
    inputs = dict(case.inputs)
    needed = {"global_params", "client_quadratics", "alpha"}
    known = needed | {"num_clients", "participants_per_round", "rounds", "lr", "local_steps"}
    known |= {"h_init", "h_i_init", "h_k_init"}
    _check(inputs, known, needed)
    strategy = make_strategy("feddyn", {"alpha": inputs["alpha"], "reports": "mean"})
    start = vector(inputs["global_params"])
    if not {"lr", "local_steps"} & inputs.keys():  # to the minimum, then
        steepest = max(float(vector(q["a"]).max()) for q in inputs["client_quadratics"])
        inputs |= {"lr": 1 / (steepest + inputs["alpha"]), "local_steps": _ENOUGH_STEPS}
    _check(inputs, known, {"lr", "local_steps"})
    clients = clients_of(inputs, start, strategy)
    everybody = list(range(len(clients.quadratics)))
    cohorts = inputs.get("participants_per_round", [everybody] * inputs.get("rounds", 1))
    spec, server = beginning(strategy, start)
    zero = torch.zeros_like(start)
    h = vector(inputs.get("h_init", zero.tolist()))
    server = replace(server, transforms={**server.transforms, "feddyn": {"h": h, "mean": start}})
    kept = inputs.get("h_k_init", inputs.get("h_i_init", [zero.tolist()] * len(everybody)))
    states: dict[int, ClientState] = {k: {_GRADIENT: vector(own)} for k, own in enumerate(kept)}
    rounds: list[dict[str, Any]] = []
    for cohort in cohorts:
        sent = server.params
        answers = {k: clients.train(k, server, strategy, states[k]) for k in cohort}
        updates = [update for update, _ in answers.values()]
        population = inputs.get("num_clients", len(everybody))
        server = aggregate_updates(strategy, spec, server, updates, population)
        states |= {k: state for k, (_, state) in answers.items()}
        own = [sent + update.channels[PARAMS] for update in updates]
        kept = [states[k][_GRADIENT] for k in everybody]
        rounds.append(
            {
                "participants": cohort,
                "client_params": own,
                "global_params": server.params,
                "mean_params": reported(strategy, spec, server),
                "h": server.transforms["feddyn"]["h"],
                **dict.fromkeys(("h_k", "h_i"), kept),
            }
        )
    points = [one["global_params"] for one in rounds]
    return {**rounds[-1], "rounds": rounds, "global_params_per_round": points}


_ALGORITHMS: Mapping[str, Callable[[Case], dict[str, Any]]] = {
    "FedSGD": _fedsgd,
    "q-FedAvg": _qfedavg,
    "FedExP": _fedexp,
    "MOON": _moon,
    "FedNova": _fednova,
    "FedDyn": _feddyn,
}
