"""A small transformer over characters."""

import torch
from torch import Tensor, nn
from torch.nn import functional


class Transformer(nn.Module):
    """Scores for the character after each one: a decoder with two blocks that look back only.

    Each block is ``x + attention(norm(x))``, then ``x + feed_forward(norm(x))``. Its linear layers
    are plain ``nn.Linear`` that are called, so that adapters can be put on them.

    Args:
        vocabulary: How many characters there are.
        width: Of a character's embedding and of what blocks pass on; a multiple of `HEADS`.
        hidden: Width of the feed-forward layers.
        positions: The longest input.
    """

    def __init__(self, vocabulary: int, width: int, hidden: int, positions: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.positions = nn.Embedding(positions, width)
        self.blocks = nn.Sequential(*(_Block(width, hidden) for _ in range(BLOCKS)))
        self.norm = nn.LayerNorm(width)
        self.scores = nn.Linear(width, vocabulary)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return scores.

        Args:
            inputs: Numbers of characters, int64, shape ``(B, T)``, T at most `positions`.

        Returns:
            Shape ``(B, T, V)``.
        """
        places = torch.arange(inputs.shape[1], device=inputs.device)
        states = self.embedding(inputs) + self.positions(places)
        scores: Tensor = self.scores(self.norm(self.blocks(states)))
        return scores


BLOCKS = 2
HEADS = 4


class _Block(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = _Attention(width)
        self.feed_norm = nn.LayerNorm(width)
        self.widen = nn.Linear(width, hidden)
        self.narrow = nn.Linear(hidden, width)

    def forward(self, states: Tensor) -> Tensor:
        states = states + self.attention(self.attention_norm(states))
        fed: Tensor = self.narrow(functional.gelu(self.widen(self.feed_norm(states))))
        return states + fed


class _Attention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def forward(self, states: Tensor) -> Tensor:
        projected = (layer(states) for layer in (self.query, self.key, self.value))
        # (B, T, W) to (B, heads, T, W / heads)
        query, key, value = (x.unflatten(-1, (HEADS, -1)).transpose(-3, -2) for x in projected)
        seen = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        mixed: Tensor = self.out(seen.transpose(-3, -2).flatten(-2))
        return mixed
