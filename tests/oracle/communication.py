"""Cases of quantisation, sparsification and signs, through the codecs and the server's step."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from roundel.core.job import LocalContext
from roundel.core.messages import PARAMS, ClientUpdate, Ticket
from roundel.core.params import ParamSpec
from roundel.server.aggregation import aggregate_updates, initial_state
from roundel.strategies.compose import Strategy, compose
from roundel.strategies.fedavg import fedavg
from roundel.strategies.quantisation import between_levels, quantise
from roundel.strategies.signsgd import signsgd
from roundel.strategies.sites import Decoding
from roundel.strategies.topk import topk
from tests.federations import Point
from tests.oracle.cases import Case, UnknownCase, vector

_ERROR = "topk.params"


def run(case: Case) -> dict[str, Any]:
    """Return what Roundel makes of a case.

    Raises:
        UnknownCase: The algorithm, its convention or an input is not ours.
    """
    name = case.algorithm.lower().replace("-", "").replace(" ", "")
    if case.kind == "compression" and name == "qsgd":
        return _qsgd(case)
    if case.kind in {"compression", "multi_round"} and name in {"topk", "topk+errorfeedback"}:
        return _topk(case, error_feedback=name != "topk")
    if case.kind in {"compression", "aggregation", "multi_round"} and name.startswith("signsgd"):
        return _signsgd(case, name)
    raise UnknownCase(f"there is no {case.kind} of {case.algorithm!r}")


def _check(case: Case, needed: set[str], known: set[str]) -> None:
    if missing := needed - case.inputs.keys():
        raise UnknownCase(f"it lacks {', '.join(sorted(missing))}")
    if strange := case.inputs.keys() - needed - known:
        raise UnknownCase(f"its inputs {', '.join(sorted(strange))} mean nothing here")


def _qsgd(case: Case) -> dict[str, Any]:
    _check(case, {"v", "levels", "uniforms"}, set())
    if "rounds up" not in case.convention or "||v||_2" not in case.convention:
        raise UnknownCase(f"{case.convention!r} may round in another direction, or by another norm")
    v, uniforms = vector(case.inputs["v"]), vector(case.inputs["uniforms"])
    levels, norm = case.inputs["levels"], v.norm()
    lower, up = between_levels(v, norm, levels)
    drawn = quantise(v, norm, levels, uniforms)
    return {"norm": float(norm), "l": lower, "prob_up": up, "quantised": norm * drawn / levels}


def _topk(case: Case, *, error_feedback: bool) -> dict[str, Any]:
    _check(
        case,
        {"global_params", "deltas_per_round", "k"},
        {"error_init", "num_examples", "server_lr"},
    )
    inputs, start = case.inputs, vector(case.inputs["global_params"])
    if not error_feedback and inputs.get("error_init"):
        raise UnknownCase("without error feedback there is no error to begin with")
    share = inputs["k"] / len(start)
    strategy = compose(
        fedavg(server_lr=inputs.get("server_lr", 1.0)),
        topk(share=share, error_feedback=error_feedback),
    )
    if "server mean" not in case.convention:
        raise UnknownCase(f"{case.convention!r} does not say that the server takes the mean")
    clients = len(inputs["deltas_per_round"][0])
    errors = _errors(inputs.get("error_init", 0), clients, start)
    computed = []
    federation = _Federation(strategy, start, inputs.get("num_examples", [1] * clients))
    for deltas in inputs["deltas_per_round"]:
        states = [{_ERROR: error} for error in errors] if error_feedback else [{}] * clients
        sent, after = federation.round([vector(delta) for delta in deltas], states)
        one = {"sent": sent, "global_params": federation.state.params}
        if error_feedback:
            errors = [state[_ERROR] for state in after]
            one["error"] = errors
        computed.append(one)
    return {
        **computed[-1],
        "rounds": computed,
        "global_params_per_round": [one["global_params"] for one in computed],
    }


def _errors(first: Any, clients: int, start: Tensor) -> list[Tensor]:
    if isinstance(first, int | float):
        return [torch.full_like(start, first)] * clients
    if len(first) != clients:
        raise UnknownCase("it does not say with which error each client begins")
    return [vector(error) for error in first]


def _signsgd(case: Case, name: str) -> dict[str, Any]:
    if "majority" not in f"{name} {case.convention}".lower():
        raise UnknownCase(f"{case.convention!r} does not say that the majority decides")
    inputs = case.inputs
    _check(case, {"global_params"}, {"client_deltas", "client_gradients", "server_lr", "lr"})
    if ("client_deltas" in inputs) == ("client_gradients" in inputs):
        raise UnknownCase("it does not say what the clients send")
    if ("server_lr" in inputs) == ("lr" in inputs):
        raise UnknownCase("it does not say how long the step is")
    along = [vector(delta) for delta in inputs.get("client_deltas", ())]
    deltas = along or [-vector(gradient) for gradient in inputs["client_gradients"]]
    if any(bool((delta == 0).any()) for delta in deltas):
        raise UnknownCase("it says nothing about coins, which we throw for zeros")
    rate = inputs.get("server_lr", inputs.get("lr"))
    federation = _Federation(
        compose(signsgd(server_lr=rate)), vector(inputs["global_params"]), [1] * len(deltas)
    )
    sent, _ = federation.round(deltas, [{}] * len(deltas))
    return {"sent": sent, "global_params": federation.state.params}


class _Federation:
    """Clients whose deltas are given, and a server."""

    def __init__(self, strategy: Strategy, start: Tensor, examples: list[int]) -> None:
        self._strategy = strategy
        self._spec = ParamSpec.of(Point(start))
        self._examples = examples
        self.state = initial_state(strategy, self._spec, start, torch.empty(0, dtype=torch.int64))

    def round(
        self, deltas: list[Tensor], states: list[Any]
    ) -> tuple[list[Tensor], list[Mapping[str, Tensor]]]:
        """Encode, decode and aggregate; return what arrived and what clients keep."""
        (codec,) = self._strategy.codecs
        decoding = Decoding(spec=self._spec, kinds=self._strategy.channels(self._spec))
        context = LocalContext(spec=self._spec, sent=self.state.params)
        updates, after = [], []
        for client_id, (delta, state) in enumerate(zip(deltas, states, strict=True)):
            encoded, kept = codec.encode({PARAMS: delta}, replace(context, state=state), client_id)
            after.append(kept)
            updates.append(
                ClientUpdate(
                    ticket=Ticket(run="oracle", round=1, client_id=client_id),
                    base_version=self.state.round,
                    num_examples=self._examples[client_id],
                    num_steps=1,
                    channels=codec.decode(encoded, decoding),
                )
            )
        self.state = aggregate_updates(
            self._strategy, self._spec, self.state, updates, population=len(updates)
        )
        return [update.channels[PARAMS] for update in updates], after
