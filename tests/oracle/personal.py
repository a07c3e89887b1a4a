"""Cases of personal models: what stays at a client, and what clients train for themselves."""

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from roundel.client.trainer import Trainer
from roundel.core.config import Experiment
from roundel.core.data import Examples
from roundel.core.errors import CompositionError, ConfigError
from roundel.core.learning import Learner
from roundel.core.messages import PARAMS, Ticket, TrainRequest
from roundel.core.task import Task
from roundel.core.training import TrainingContext, TrainingResult
from roundel.server.aggregation import aggregate_updates, initial_state
from roundel.strategies.plan import Plan
from roundel.strategies.registry import make_strategy
from tests.federations import Quadratic
from tests.oracle.cases import Case, UnknownCase, vector
from tests.oracle.rounds import beginning, trainer_of, updates_of

_DIVIDED = {"FedPer", "FedRep", "FedBN", "LG-FedAvg"}
_NO_INTEGERS = torch.empty(0, dtype=torch.int64)


def run(case: Case) -> dict[str, Any]:
    """Return what Roundel makes of a case.

    Raises:
        UnknownCase: The algorithm, its convention or an input is not ours.
    """
    names = set(re.split(r"\s*/\s*", case.algorithm))
    try:
        match case.kind:
            case "client_step" if names == {"Ditto"}:
                return _ditto(case)
            case "client_step" if names == {"pFedMe"}:
                return _pfedme(case)
            case "aggregation" if names == {"pFedMe"}:
                return _pfedme_server(case)
            case "aggregation" if names == {"FedBN"} and "state_dict_keys" in case.inputs:
                return _fedbn(case)
            case "aggregation" if names <= _DIVIDED:
                return _divided(case)
            case _:
                raise UnknownCase(f"there is no {case.kind} of {case.algorithm!r}")
    except (ConfigError, CompositionError) as error:
        raise UnknownCase(str(error)) from error


def _check(inputs: Mapping[str, Any], needed: set[str], allowed: Collection[str] = ()) -> None:
    if strange := inputs.keys() - needed - set(allowed):
        raise UnknownCase(f"its inputs {', '.join(sorted(strange))} mean nothing here")
    if missing := needed - inputs.keys():
        raise UnknownCase(f"it lacks {', '.join(sorted(missing))}")


def _quadratic(said: Mapping[str, Any]) -> Examples:
    if said.keys() != {"a", "b"}:
        raise UnknownCase("its quadratic is not of the form a (w - b)**2 / 2")
    return Quadratic(vector(said["a"]).diag(), vector(said["b"])).examples()


def _request(params: Tensor) -> TrainRequest:
    ticket = Ticket(run="oracle", round=1, client_id=0)
    return TrainRequest(ticket=ticket, base_version=0, params=params, integers=_NO_INTEGERS)


# ---- clients trained for real


def _ditto(case: Case) -> dict[str, Any]:
    inputs = case.inputs
    needed = {"global_params", "client_quadratic", "lambda", "lr", "steps"}
    _check(inputs, needed, {"personal_params"})
    if re.search(r"pulled? to(wards)? the (trained|local|new|updated|aggregated)", case.convention):
        raise UnknownCase("the personal model is pulled to what was received")
    start = vector(inputs["global_params"])
    own = {"ditto.personal": vector(inputs.get("personal_params", inputs["global_params"]))}
    strategy = make_strategy("ditto", {"lam": inputs["lambda"]})
    each = []
    for steps in range(1, inputs["steps"] + 1):
        trainer = trainer_of(start, strategy, lr=inputs["lr"], steps=steps)
        update, state = trainer.train(_request(start), _quadratic(inputs["client_quadratic"]), own)
        each.append((state["ditto.personal"], start + update.channels[PARAMS]))
    return {
        "personal_params_per_step": [personal for personal, _ in each],
        "personal_params": each[-1][0],
        "client_params_per_step": [params for _, params in each],
        "client_params": each[-1][1],
    }


def _pfedme(case: Case) -> dict[str, Any]:
    inputs = case.inputs
    needed = {"global_params", "client_quadratic", "lambda", "inner_lr", "inner_steps"}
    _check(inputs, needed | {"local_rounds"}, {"eta", "lr", "mu", "warm_start"})
    if inputs.get("mu", 0.0) or ("eta" in inputs) == ("lr" in inputs):
        raise UnknownCase("there is no weight decay, and one learning rate of w")
    start = vector(inputs["global_params"])
    knobs = {
        "lam": inputs["lambda"],
        "inner_lr": inputs["inner_lr"],
        "inner_steps": inputs["inner_steps"],
        "lr": inputs.get("eta", inputs.get("lr")),
        "warm_start": inputs.get("warm_start", _goes_on_from_theta(case.convention)),
    }
    strategy = make_strategy("pfedme", knobs)
    rounds = []
    for steps in range(1, inputs["local_rounds"] + 1):
        trainer = trainer_of(start, strategy, steps=steps)
        update, state = trainer.train(_request(start), _quadratic(inputs["client_quadratic"]), {})
        rounds.append({"theta": state["pfedme.theta"], "w": start + update.channels[PARAMS]})
    return {"rounds": rounds, **rounds[-1]}


def _goes_on_from_theta(convention: str) -> bool:
    said = re.search(r"warm[- ]start(?:s|ed|ing)?\s+(?:\w+~?\s+)?(?:at|from)\s+(.*)", convention)
    return said is not None and re.match(r"(the )?(previous |last )?theta", said[1]) is not None


def _pfedme_server(case: Case) -> dict[str, Any]:
    _check(case.inputs, {"global_params", "client_params"}, {"beta", "num_examples"})
    strategy = make_strategy("pfedme", {"beta": case.inputs.get("beta", 1.0)})
    spec, state = beginning(strategy, vector(case.inputs["global_params"]))
    updates = updates_of(case.inputs, state)
    after = aggregate_updates(strategy, spec, state, updates, population=len(updates))
    return {"global_params": after.params}


# ---- what stays


def _fedbn(case: Case) -> dict[str, Any]:
    _check(case.inputs, {"state_dict_keys", "batchnorm_modules"}, {"model"})
    keys, norms = case.inputs["state_dict_keys"], case.inputs["batchnorm_modules"]
    task = make_strategy("fedbn", {}).adapted(
        Task(name="oracle", model=lambda: _with_norms(keys, norms))
    )
    spec = Learner(task, seed=0).spec
    entries = (*spec.entries, *spec.integers)
    if {entry.name for entry in entries} != set(keys):
        raise UnknownCase("its names are not those that BatchNorm layers give")
    personal = {entry.name for entry in entries if entry.personal}
    return {
        "shared": [key for key in keys if key not in personal],
        "personal": [key for key in keys if key in personal],
        "wrongly_shared_by_name_match": [k for k in keys if k in personal and "bn" not in k],
    }


def _with_norms(keys: Sequence[str], norms: Sequence[str]) -> nn.Module:
    """Return a model with BatchNorm layers of these names and single parameters of the others."""
    model = nn.Module()
    for norm in norms:
        layer = nn.BatchNorm2d(
            1,
            affine=f"{norm}.weight" in keys,
            track_running_stats=f"{norm}.running_mean" in keys,
        )
        _put(model, norm, layer)
    for key in keys:
        module, _, name = key.rpartition(".")
        if module not in norms:
            _at(model, module).register_parameter(name, nn.Parameter(torch.zeros(1)))
    return model


def _at(model: nn.Module, path: str) -> nn.Module:
    """Return the part of a model with a dotted name, made where there is none."""
    for name in filter(None, path.split(".")):
        if name not in dict(model.named_children()):
            model.add_module(name, nn.Module())
        model = model.get_submodule(name)
    return model


def _put(model: nn.Module, path: str, part: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    _at(model, parent).add_module(name, part)


def _divided(case: Case) -> dict[str, Any]:
    """Let clients end where the case says, and see what of it reaches the server."""
    _check(case.inputs, {"client_state_dicts", "num_examples", "shared_keys"})
    ends, shared = case.inputs["client_state_dicts"], set(case.inputs["shared_keys"])
    tensors = [{name: torch.tensor(v, dtype=torch.float64) for name, v in e.items()} for e in ends]
    personal = [name for name in tensors[0] if name not in shared]

    def end_there(
        model: nn.Module, _examples: Examples, context: TrainingContext
    ) -> TrainingResult:
        model.load_state_dict(tensors[context.client_id])
        return TrainingResult(steps=1)

    strategy = make_strategy("fedper", {"head": personal})
    task = Task(name="oracle", model=lambda: _of_zeros(tensors[0]), train=end_there)
    plan = Plan.of(Experiment(), task, strategy)
    learner = Learner(plan.task, seed=0)
    trainer, spec = Trainer(plan, learner), learner.spec
    server = initial_state(strategy, spec, learner.initial, learner.initial_integers)
    updates, states = [], []
    for client_id, count in enumerate(case.inputs["num_examples"]):
        request = TrainRequest(
            ticket=Ticket(run="oracle", round=1, client_id=client_id),
            base_version=0,
            params=server.params,
            integers=server.integers,
        )
        examples = Examples(torch.zeros(count, 1), torch.zeros(count))
        update, state = trainer.train(request, examples, {})
        updates.append(update)
        states.append(state)
    after = aggregate_updates(strategy, spec, server, updates, population=len(updates))
    wholes = [spec.views(torch.cat([after.params, state["personal"]])) for state in states]
    return {
        "global_shared": {name: wholes[0][name].flatten() for name in shared},
        "client_heads_unchanged": [
            torch.cat([whole[name].flatten() for name in personal]) for whole in wholes
        ],
    }


def _of_zeros(tensors: Mapping[str, Tensor]) -> nn.Module:
    model = nn.Module()
    for key, value in tensors.items():
        module, _, name = key.rpartition(".")
        _at(model, module).register_parameter(name, nn.Parameter(torch.zeros_like(value)))
    return model
