"""Cases of rounds: averaging, server optimizers, and clients on quadratics.

What a case says decides how it is run: its algorithm names the strategy's constructor, its inputs
are the knobs, and where it brings quadratics the clients are trained for real. An input that means
nothing to us makes a case unknown; it is never left out of the account.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import Any

import torch
from torch import Tensor

from roundel.client.trainer import Trainer
from roundel.core.clientstate import ClientState
from roundel.core.config import Experiment
from roundel.core.errors import CompositionError, ConfigError
from roundel.core.learning import Learner
from roundel.core.messages import PARAMS, ClientUpdate, Ticket, TrainRequest
from roundel.core.params import ParamSpec
from roundel.server.aggregation import (
    ServerState,
    aggregate_updates,
    broadcast_channels,
    initial_state,
)
from roundel.strategies.compose import Strategy
from roundel.strategies.plan import Plan
from roundel.strategies.registry import make_strategy
from tests.federations import Point, Quadratic, quadratic_task
from tests.oracle.cases import Case, UnknownCase, vector

_ADAPTIVE = {"eta": "server_lr", "beta_1": "beta_1", "tau": "tau", "v_init": "v_init"}

# Algorithm to the strategy's name, and the case's inputs to its knobs.
_ALGORITHMS: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "FedAvg": ("fedavg", {"server_lr": "server_lr"}),
    "FedProx": ("fedprox", {"mu": "mu", "server_lr": "server_lr"}),
    "FedAvgM": (
        "fedavgm",
        {"server_momentum": "momentum", "nesterov": "nesterov", "server_lr": "server_lr"},
    ),
    "FedAdagrad": ("fedadagrad", _ADAPTIVE),
    "FedAdam": (
        "fedadam",
        {**_ADAPTIVE, "beta_2": "beta_2", "bias_correction": "bias_correction"},
    ),
    "FedYogi": (
        "fedyogi",
        {**_ADAPTIVE, "beta_2": "beta_2", "bias_correction": "bias_correction"},
    ),
    "SCAFFOLD": ("scaffold", {"server_lr": "server_lr", "option": "option"}),
}
_KINDS = {"aggregation", "multi_round", "client_step"}
_MODIFIERS = re.compile(r"[\s+(),]|server lr|nesterov|option\s*(i+|[12])\b", re.IGNORECASE)
_ROUND = {"client_params", "client_deltas", "num_examples"}
_SERVER = {*_ROUND, "global_params", "rounds", "weighting"}
_CLIENT = {"global_params", "client_quadratics", "lr", "local_steps", "num_clients", "rounds"} | {
    "participants_per_round",
    "weighting",
}
_CONTROL = "scaffold.control"
_MOST_STEPS = 20_000


def run(case: Case) -> dict[str, Any]:
    """Return what Roundel makes of a case, under the names that cases use.

    Raises:
        UnknownCase: The algorithm, its convention or an input is not ours.
    """
    algorithm, strategy = _strategy(case)
    if "client_quadratics" in case.inputs:
        return _with_clients(case, algorithm, strategy)
    return _on_the_server(case, strategy)


def _strategy(case: Case) -> tuple[str, Strategy]:
    algorithm = re.split(r"[\s+(]", case.algorithm, maxsplit=1)[0]
    rest = case.algorithm.removeprefix(algorithm)
    if case.kind not in _KINDS or algorithm not in _ALGORITHMS or _MODIFIERS.sub("", rest):
        raise UnknownCase(f"there is no {case.kind} of {case.algorithm!r}")
    name, knobs = _ALGORITHMS[algorithm]
    chosen = {knob: case.inputs[name] for name, knob in knobs.items() if name in case.inputs}
    if algorithm == "SCAFFOLD":
        chosen["option"] = _scaffold_option(case)
    if chosen.get("bias_correction") == "textbook":
        chosen.setdefault("v_init", 0.0)
    if algorithm == "FedAvgM" and _says_nesterov(case):
        chosen.setdefault("nesterov", True)
    if algorithm != "SCAFFOLD" and "weighting" in case.inputs:
        chosen["weights"] = case.inputs["weighting"].replace("num_examples", "examples")
    _check_inputs(case, algorithm, set(knobs))
    try:
        return algorithm, make_strategy(name, chosen)
    except (ConfigError, CompositionError) as error:
        raise UnknownCase(str(error)) from error


def _scaffold_option(case: Case) -> str:
    """Return the option that a case names in words or as an input, in Roman numerals."""
    named = re.search(r"\boption[\s_]*(\w+)", f"{case.algorithm} {case.convention}", re.IGNORECASE)
    said = str(case.inputs.get("option", named[1] if named else "II")).upper()
    return {"1": "I", "2": "II"}.get(said, said)


def _says_nesterov(case: Case) -> bool:
    text = f"{case.algorithm} {case.convention}".lower()
    return re.search(r"(?<!no )(?<!not )(?<!without )\bnesterov", text) is not None


def _check_inputs(case: Case, algorithm: str, known: set[str]) -> None:
    """Raise `UnknownCase` if an input would be left out of the account."""
    if "client_quadratics" in case.inputs:
        known |= _CLIENT
        known |= {"c_init", "c_i_init"} if algorithm == "SCAFFOLD" else {"num_examples", "momentum"}
    else:
        known |= _SERVER
    if algorithm == "FedAdagrad":
        known |= {"beta_2"}  # it has no such thing, so whatever is written there does nothing
        known |= {"bias_correction"} if case.inputs.get("bias_correction") == "none" else set()
    strange = case.inputs.keys() - known
    rounds = case.inputs.get("rounds")
    for one in rounds if isinstance(rounds, list) else ():
        strange |= one.keys() - _ROUND
    if strange:
        raise UnknownCase(f"its inputs {', '.join(sorted(strange))} mean nothing here")


# ---- the server alone, with updates that the case writes out


def _on_the_server(case: Case, strategy: Strategy) -> dict[str, Any]:
    rounds = case.inputs.get("rounds", [case.inputs])
    if not isinstance(rounds, list) or "global_params" not in case.inputs:
        raise UnknownCase("it does not say what the server holds and is sent")
    spec, state = beginning(strategy, vector(case.inputs["global_params"]))
    states: list[ServerState] = []
    for one in rounds:
        updates = updates_of(one, state)
        state = aggregate_updates(strategy, spec, state, updates, population=len(updates))
        states.append(state)
    moments = [{n: v for link in s.transforms.values() for n, v in link.items()} for s in states]
    computed: dict[str, Any] = {
        "global_params": states[-1].params,
        "global_params_per_round": [s.params for s in states],
        "m_per_round": [each.get("m") for each in moments],
        "v_per_round": [each.get("v") for each in moments],
        # Our steps go along the updates; papers that descend along gradients have the other sign.
        "momentum_per_round": [-each["velocity"] for each in moments if "velocity" in each],
    }
    return {name: value for name, value in computed.items() if _has_numbers(value)}


def _has_numbers(value: Tensor | list[Tensor | None]) -> bool:
    return isinstance(value, Tensor) or (len(value) > 0 and all(v is not None for v in value))


def beginning(strategy: Strategy, start: Tensor) -> tuple[ParamSpec, ServerState]:
    spec = ParamSpec.of(Point(start))
    return spec, initial_state(strategy, spec, start, torch.empty(0, dtype=torch.int64))


def updates_of(one: Mapping[str, Any], state: ServerState) -> list[ClientUpdate]:
    if "client_deltas" in one:
        deltas = [vector(delta) for delta in one["client_deltas"]]
    elif "client_params" in one:
        deltas = [vector(params) - state.params for params in one["client_params"]]
    else:
        raise UnknownCase("it does not say what the clients send")
    counts = one.get("num_examples", [1] * len(deltas))
    return [
        ClientUpdate(
            ticket=Ticket(run="oracle", round=state.round + 1, client_id=client_id),
            base_version=state.round,
            num_examples=_whole(count),
            num_steps=1,
            channels={PARAMS: delta},
        )
        for client_id, (delta, count) in enumerate(zip(deltas, counts, strict=True))
    ]


def _whole(count: float) -> int:
    if count != int(count) or count < 1:
        raise UnknownCase(f"{count} is no number of examples")
    return int(count)


# ---- clients trained for real


@dataclass(frozen=True, kw_only=True)
class Clients:
    """All clients of a case, each with a trainer of its own, since step counts may differ."""

    quadratics: Sequence[Quadratic]
    trainers: Sequence[Trainer]
    counts: Sequence[int]

    def train(
        self, client_id: int, server: ServerState, strategy: Strategy, state: ClientState
    ) -> tuple[ClientUpdate, ClientState]:
        request = TrainRequest(
            ticket=Ticket(run="oracle", round=server.round + 1, client_id=client_id),
            base_version=server.round,
            params=server.params,
            integers=server.integers,
            channels=broadcast_channels(strategy, server),
        )
        examples = self.quadratics[client_id].examples(self.counts[client_id])
        return self.trainers[client_id].train(request, examples, state)


def _with_clients(case: Case, algorithm: str, strategy: Strategy) -> dict[str, Any]:
    inputs = case.inputs
    if missing := {"global_params", "lr", "local_steps"} - inputs.keys():
        raise UnknownCase(f"it lacks {', '.join(sorted(missing))}")
    start = vector(inputs["global_params"])
    clients = clients_of(inputs, start, strategy)
    everybody = list(range(len(clients.quadratics)))
    participants = inputs.get("participants_per_round", [everybody] * inputs.get("rounds", 1))
    population = inputs.get("num_clients", len(everybody))
    spec, server = beginning(strategy, start)
    states: dict[int, ClientState] = {}
    if algorithm == "SCAFFOLD":
        zero = torch.zeros_like(start)
        control = vector(inputs.get("c_init", zero.tolist()))
        server = replace(server, transforms={**server.transforms, "scaffold": {"control": control}})
        controls = inputs.get("c_i_init", [zero.tolist()] * len(everybody))
        states = {k: {_CONTROL: vector(own)} for k, own in enumerate(controls)}
    rounds: list[dict[str, Any]] = []
    for cohort in participants:
        sent = server.params
        answers = {k: clients.train(k, server, strategy, states.get(k, {})) for k in cohort}
        updates = [update for update, _ in answers.values()]
        server = aggregate_updates(strategy, spec, server, updates, population)
        states |= {k: state for k, (_, state) in answers.items()}
        rounds.append(
            {
                "participants": cohort,
                "client_params": [sent + update.channels[PARAMS] for update in updates],
                "global_params": server.params,
            }
        )
        if algorithm == "SCAFFOLD":
            rounds[-1] |= {
                "delta_c": [update.channels["control"] for update in updates],
                "c": server.transforms["scaffold"]["control"],
                "c_i": [states[k][_CONTROL] for k in everybody],
            }
    computed = {
        **rounds[-1],
        "rounds": rounds,
        "global_params_per_round": [one["global_params"] for one in rounds],
    }
    if algorithm == "FedProx" and "exact_prox_minimiser" in case.expected:
        computed |= _prox_minimisers(clients.quadratics, start, strategy, inputs.get("mu", 0.0))
    return computed


def clients_of(inputs: Mapping[str, Any], start: Tensor, strategy: Strategy) -> Clients:
    if any(q.keys() != {"a", "b"} for q in inputs["client_quadratics"]):
        raise UnknownCase("its quadratics are not of the form a (w - b)**2 / 2")
    quadratics = [
        Quadratic(vector(q["a"]).diag(), vector(q["b"])) for q in inputs["client_quadratics"]
    ]
    steps = inputs["local_steps"]
    each = steps if isinstance(steps, list) else [steps] * len(quadratics)
    client = {name: inputs[name] for name in ("lr", "momentum", "nesterov") if name in inputs}
    trainers = {count: trainer_of(start, strategy, steps=count, **client) for count in set(each)}
    counts = inputs.get("num_examples", [1] * len(quadratics))
    return Clients(
        quadratics=quadratics,
        trainers=[trainers[count] for count in each],
        counts=[_whole(count) for count in counts],
    )


def trainer_of(start: Tensor, strategy: Strategy, **client: float) -> Trainer:
    task = quadratic_task(start)
    experiment = Experiment.model_validate({"client": {"batch_size": "full", **client}})
    return Trainer(Plan.of(experiment, task, strategy), Learner(task, seed=0))


def _prox_minimisers(
    quadratics: Iterable[Quadratic], start: Tensor, strategy: Strategy, mu: float
) -> dict[str, Any]:
    """Train each client until nothing moves any more, with steps of its own choice."""
    _, server = beginning(strategy, start)
    found = []
    for quadratic in quadratics:
        curvatures = quadratic.A.diag() + mu
        smallest, largest = float(curvatures.min()), float(curvatures.max())
        if not 0 < 40 * largest / smallest < _MOST_STEPS:
            return {}
        trainer = trainer_of(start, strategy, lr=1 / largest, steps=ceil(40 * largest / smallest))
        alone = Clients(quadratics=[quadratic], trainers=[trainer], counts=[1])
        update, _ = alone.train(0, server, strategy, {})
        found.append(start + update.channels[PARAMS])
    return {"exact_prox_minimiser": found}
