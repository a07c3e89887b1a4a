"""The vectorized executor gives what the loop gives, up to rounding, for whatever one composes."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from roundel.simulations import simulate
from roundel.strategies.registry import STRATEGIES

SETTINGS = (
    *("rounds=1", "partition.clients=8", "cohort.size=7", "client.lr=0.05", "client.steps=4"),
    *("evaluation.clients=0", "partition.alpha=1.0"),
)
NEEDS = {
    "fedbn": ("task.model=mlp-norm",),
    # What dropout draws is another draw on a stack.
    "fedit": ("strategy.dropout=0",),
    "ffa_lora": ("strategy.dropout=0",),
    "dp_fedavg": ("strategy.noise=seeded",),
    "dp_adaptive": ("strategy.noise=seeded",),
    "local_dp": ("strategy.noise=seeded",),
}


def after_one_round(path: Path, *settings: str) -> tuple[torch.Tensor, str]:
    """Return the final parameters as one vector, and which executor made them."""
    run = simulate(settings=[*SETTINGS, *settings], out=path)
    tensors = load_file(path / "model.safetensors")
    vector = torch.cat([tensors[name].double().flatten() for name in sorted(tensors)])
    return vector, run.environment["engine"]["executor"]


@pytest.mark.parametrize("name", sorted(STRATEGIES))
def test_a_round_of_any_strategy_is_the_loops_up_to_rounding(name, tmp_path):
    chosen = (f"strategy.name={name}", *NEEDS.get(name, ()))
    loop, _ = after_one_round(tmp_path / "loop", *chosen, "engine.executor=loop")
    stack, executor = after_one_round(tmp_path / "stack", *chosen, "engine.executor=vectorized")
    assert executor == ("loop" if name == "pfedme" else "vectorized")
    torch.testing.assert_close(stack, loop, rtol=1e-5, atol=1e-5 * float(loop.abs().max()))
