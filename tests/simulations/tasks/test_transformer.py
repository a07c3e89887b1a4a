"""The transformer against its formulas."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from roundel.core.seeds import isolated_rng
from roundel.simulations.tasks.transformer import BLOCKS, HEADS, Transformer


def small() -> Transformer:
    with isolated_rng(3):
        return Transformer(vocabulary=11, width=8, hidden=12, positions=6).double()


def linear(state: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def normed(state: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    centred = x - x.mean(dim=-1, keepdim=True)
    scaled = centred / (centred.square().mean(dim=-1, keepdim=True) + 1e-5).sqrt()
    return scaled * state[f"{name}.weight"] + state[f"{name}.bias"]


def by_hand(state: dict[str, Tensor], text: Tensor) -> Tensor:
    """Score one text, character by character and head by head."""
    x = state["embedding.weight"][text] + state["positions.weight"][: len(text)]
    for block in (f"blocks.{place}" for place in range(BLOCKS)):
        inside = normed(state, f"{block}.attention_norm", x)
        q, k, v = (
            linear(state, f"{block}.attention.{n}", inside) for n in ("query", "key", "value")
        )
        size = x.shape[-1] // HEADS
        mixed = torch.zeros_like(x)
        for head in range(HEADS):
            of = slice(head * size, (head + 1) * size)
            for t in range(len(text)):
                shares = (k[: t + 1, of] @ q[t, of] / size**0.5).softmax(dim=0)
                mixed[t, of] = shares @ v[: t + 1, of]
        x = x + linear(state, f"{block}.attention.out", mixed)
        wide = functional.gelu(
            linear(state, f"{block}.widen", normed(state, f"{block}.feed_norm", x))
        )
        x = x + linear(state, f"{block}.narrow", wide)
    return linear(state, "scores", normed(state, "norm", x))


def test_scores_are_those_of_the_formulas():
    model = small()
    texts = torch.tensor([[1, 2, 3, 4, 5], [9, 9, 0, 10, 7]])
    state = dict(model.state_dict())
    expected = torch.stack([by_hand(state, text) for text in texts])
    torch.testing.assert_close(model(texts), expected, rtol=1e-10, atol=1e-10)


def test_a_text_longer_than_its_positions_is_refused():
    with pytest.raises(IndexError):
        small()(torch.zeros(1, 7, dtype=torch.int64))
