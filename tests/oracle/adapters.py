"""Cases of low-rank adapters: what averaging their factors gives."""

import re
from collections.abc import Sequence
from fractions import Fraction
from math import lcm
from typing import Any

import torch
from torch import Tensor, nn

from roundel.core.learning import Learner
from roundel.core.messages import PARAMS, ClientUpdate, Ticket
from roundel.core.task import Task
from roundel.server.aggregation import aggregate_updates, initial_state
from roundel.strategies.lora import LoraLinear, averaging_error, mean_adapter, stacked_adapters
from roundel.strategies.registry import make_strategy
from tests.oracle.cases import Case, UnknownCase

_SEPARATE = {"FedIT", "FedLoRA", "FLoRA", "FedEx-LoRA", "LoRA"}


def run(case: Case) -> dict[str, Any]:
    """Return what Roundel makes of a case.

    Raises:
        UnknownCase: The algorithm, its convention or an input is not ours.
    """
    names = set(re.split(r"\s*/\s*", case.algorithm))
    if case.kind != "peft" or not (names <= _SEPARATE or names == {"FFA-LoRA"}):
        raise UnknownCase(f"there is no {case.kind} of {case.algorithm!r}")
    frozen = names == {"FFA-LoRA"}
    needed = {"B", "weights", "A_shared" if frozen else "A"}
    if case.inputs.keys() != needed:
        raise UnknownCase(f"its inputs are not {', '.join(sorted(needed))}")
    weights = case.inputs["weights"]
    factors_b = [_matrix(factor) for factor in case.inputs["B"]]
    if frozen:
        shared = _matrix(case.inputs["A_shared"])
        merged = _federated("ffa_lora", factors_b, [shared] * len(factors_b), weights)
        return {"delta": merged.tolist()}
    factors_a = [_matrix(factor) for factor in case.inputs["A"]]
    stacked_b, stacked_a = stacked_adapters(factors_b, factors_a, weights)
    computed = {
        "delta_exact": mean_adapter(factors_b, factors_a, weights),
        "flora_stacked_B": stacked_b,
        "flora_stacked_A": stacked_a,
    }
    if len({factor.shape for factor in factors_a}) == 1:
        computed["delta_fedit"] = _federated("fedit", factors_b, factors_a, weights)
        computed["residual"] = averaging_error(factors_b, factors_a, weights)
    return {name: value.tolist() for name, value in computed.items()}


def _matrix(numbers: Any) -> Tensor:
    try:
        matrix = torch.tensor(numbers, dtype=torch.float64)
    except (TypeError, ValueError) as error:
        raise UnknownCase(f"it holds no plain numbers where they are needed: {error}") from error
    if matrix.dim() != 2:
        raise UnknownCase(f"a factor has the shape {tuple(matrix.shape)}")
    return matrix


def _federated(
    name: str, factors_b: Sequence[Tensor], factors_a: Sequence[Tensor], weights: Sequence[float]
) -> Tensor:
    """Send factors as clients would; return what the averaged adapter adds to the weights."""
    rank, inputs = factors_a[0].shape
    outputs = len(factors_b[0])
    strategy = make_strategy(name, {"rank": rank, "alpha": float(rank), "dropout": 0.0})
    task = strategy.adapted(Task(name="oracle", model=lambda: _empty(inputs, outputs)))
    learner = Learner(task, seed=0)
    model, spec = learner.model, learner.spec
    assert isinstance(model, LoraLinear)
    if name == "ffa_lora":
        model.lora_a.data.copy_(factors_a[0])  # frozen, and the same at every client
    server = initial_state(strategy, spec, learner.initial, learner.initial_integers)
    updates = []
    counts = _counts(weights)
    for client_id, (a, b) in enumerate(zip(factors_a, factors_b, strict=True)):
        ends = {"lora_a": a, "lora_b": b}
        end = torch.cat([ends[entry.name].flatten() for entry in spec.entries])
        updates.append(_update(client_id, end - server.params, counts[client_id]))
    after = aggregate_updates(strategy, spec, server, updates, population=len(updates))
    learner.load(after.params, after.integers, training=False)
    return (model.merged().weight - model.weight).detach()


def _update(client_id: int, delta: Tensor, count: int) -> ClientUpdate:
    return ClientUpdate(
        ticket=Ticket(run="oracle", round=1, client_id=client_id),
        base_version=0,
        num_examples=count,
        num_steps=1,
        channels={PARAMS: delta},
    )


def _counts(weights: Sequence[float]) -> list[int]:
    """Return numbers of examples that are to each other as the weights are."""
    shares = [Fraction(weight).limit_denominator(10_000) for weight in weights]
    if any(abs(float(s) - w) > 1e-15 * w or s <= 0 for s, w in zip(shares, weights, strict=True)):
        raise UnknownCase(f"no numbers of examples are to each other as {list(weights)}")
    whole = lcm(*(share.denominator for share in shares))
    return [int(share * whole) for share in shares]


def _empty(inputs: int, outputs: int) -> nn.Module:
    layer = nn.Linear(inputs, outputs, bias=False, dtype=torch.float64)
    nn.init.zeros_(layer.weight)
    return layer
