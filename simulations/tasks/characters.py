"""Characters: which one comes next? A model of a text, one client a speaker.

The text is the file that `task.path` names, or William Shakespeare's "As You Like It", which ships
(``data/as-you-like-it.txt``). A play, see `roundel.simulations.tasks.texts`, has a user for each of
its speakers, so ``partition.kind = "natural"`` makes every speaker a client, as in McMahan et al.,
"Communication-Efficient Learning of Deep Networks from Decentralized Data" (AISTATS 2017,
arXiv:1602.05629), and in LEAF (arXiv:1812.01097). Every fifth speech of a speaker is test text, the
others are to learn from; a speaker whose speeches to learn from do not fill one window is left out.
Of a text that is no play, the last fifth is test text, and there are no users.

An example is a window of characters; its target is the same window one character later. Windows lie
within one part of one speaker's text, so that no character is in both the pool and the test set.
What is left over at the end of a part and does not fill a window is not used.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from roundel.core.data import Examples
from roundel.core.errors import ConfigError, DataError
from roundel.core.metrics import accuracy
from roundel.core.task import Task
from roundel.simulations.tasks.about import About, choose
from roundel.simulations.tasks.checks import at_least
from roundel.simulations.tasks.texts import VOCABULARY, Numbers, encode, read_text, speeches
from roundel.simulations.tasks.transformer import HEADS, Transformer

TEST_EVERY = 5
"""One speech in so many of each speaker is test text, and such a share of a text without any."""
MOST_POSITIONS = 1 << 26
"""Windows hold so many characters at most, counted as often as they occur: 1 GiB of numbers."""


def characters(
    *,
    path: Path | None = None,
    model: str = "lstm",
    embedding: int | None = None,
    hidden: int | None = None,
    window: int = 80,
) -> Task:
    """Return the task of guessing the next character of a text.

    Inputs and targets are int64 of shape ``(N, window)``, outputs scores of shape
    ``(N, window, 97)``. The loss is the mean cross-entropy over all characters.

    Args:
        path: A text of your own, in which the default partition is IID; None for the shipped play,
            whose speakers are the clients.
        model: ``"lstm"`` or ``"gru"``: an embedding, one recurrent layer, one linear layer; or
            ``"transformer"``: two blocks of attention and feed-forward layers.
        embedding: Width of a character's embedding; None for 16, and for 64 in a transformer, where
            it is the width of everything between blocks and a multiple of 4.
        hidden: Width of the recurrent layer, or of a transformer's feed-forward layers; None for
            128, and for 256 in a transformer.
        window: Characters an example; a transformer takes no longer ones.

    Raises:
        ConfigError: There is no such model, or a knob is out of range.
    """
    widths = _WIDTHS[choose(MODELS, model, "characters")]
    embedding = widths[0] if embedding is None else embedding
    hidden = widths[1] if hidden is None else hidden
    at_least(1, embedding=embedding, hidden=hidden, window=window)
    if model == "transformer" and embedding % HEADS:
        raise ConfigError(
            f"task.embedding = {embedding} does not divide among the transformer's {HEADS} heads; "
            f"make it a multiple of {HEADS}"
        )
    cut = partial(_load, window=window)
    return Task(
        name="characters",
        partition="natural" if path is None else "iid",
        model=partial(MODELS[model], embedding, hidden, window),
        loss=mean_cross_entropy,
        metrics=accuracy,
        load=partial(cut, test=False),
        load_test=partial(cut, test=True),
        load_all=partial(_load_all, window=window),
        knobs={"embedding": embedding, "hidden": hidden},
    )


def lstm(embedding: int, hidden: int, _window: int) -> nn.Module:
    """Return a model with an LSTM layer."""
    return NextCharacter(nn.LSTM, embedding, hidden)


def gru(embedding: int, hidden: int, _window: int) -> nn.Module:
    """Return a model with a GRU layer."""
    return NextCharacter(nn.GRU, embedding, hidden)


def transformer(embedding: int, hidden: int, window: int) -> nn.Module:
    """Return a model with two blocks of attention."""
    return Transformer(VOCABULARY, embedding, hidden, positions=window)


MODELS: Mapping[str, Callable[[int, int, int], nn.Module]] = MappingProxyType(
    {"lstm": lstm, "gru": gru, "transformer": transformer}
)
"""Name to what makes a model of an embedding's width, a hidden width and a window; the first is the
default."""

_WIDTHS = {"lstm": (16, 128), "gru": (16, 128), "transformer": (64, 256)}


class NextCharacter(nn.Module):
    """Scores for the character after each one: an embedding, a recurrent and a linear layer.

    Args:
        cell: Makes the recurrent layer.
        embedding: Width of a character's embedding.
        hidden: Width of the recurrent layer.
    """

    def __init__(self, cell: Callable[..., nn.RNNBase], embedding: int, hidden: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, embedding)
        self.recurrent = cell(embedding, hidden, batch_first=True)
        self.scores = nn.Linear(hidden, VOCABULARY)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return scores.

        Args:
            inputs: Numbers of characters, int64, shape ``(B, T)``.

        Returns:
            Shape ``(B, T, 97)``.
        """
        states, _ = self.recurrent(self.embedding(inputs))
        scores: Tensor = self.scores(states)
        return scores


def mean_cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the mean cross-entropy over all characters of a batch.

    Args:
        outputs: Scores, shape ``(B, T, V)``.
        targets: Numbers of characters, shape ``(B, T)``.
    """
    return functional.cross_entropy(outputs.flatten(0, 1), targets.flatten())


def _load_all(path: Path | None, *, window: int) -> Examples:
    """Return the windows of a whole text, one after another, to predict."""
    return _cut([encode(read_text(path))], path, window, "predict")


def _load(path: Path | None, *, window: int, test: bool) -> Examples:
    text = read_text(path)
    play = speeches(text)
    parts = [_part_of_text(text, test=test)] if play is None else _parts_of_play(play, test=test)
    by_user = play is not None and not test
    return _cut(parts, path, window, "test on" if test else "learn from", by_user=by_user)


def _cut(
    parts: Sequence[Numbers],
    path: Path | None,
    window: int,
    purpose: str,
    *,
    by_user: bool = False,
) -> Examples:
    """Cut texts into windows; if it is by user, each text is a user's."""
    starts = [np.arange(0, len(part) - window, window) for part in parts]
    filled = [(s, p) for s, p in zip(starts, parts, strict=True) if len(s)]
    source = "the text" if path is None else f"the text {path}"
    if not filled:
        longest = max(map(len, parts))
        raise DataError(
            f"{source} is too short: the longest part to {purpose} has "
            f"{longest} characters, and a window needs {window + 1}; lower task.window or give "
            "more text"
        )
    sizes = [len(s) for s, _ in filled]
    if sum(sizes) * window > MOST_POSITIONS:
        raise DataError(
            f"{source} gives {sum(sizes)} windows of {window} characters, more than memory should "
            "hold; give less text"
        )
    windows = torch.from_numpy(np.concatenate([_windows(s, p, window) for s, p in filled]))
    users = None
    if by_user:
        users = torch.from_numpy(np.repeat(np.arange(len(filled)), sizes))
    return Examples(windows[:, :-1].contiguous(), windows[:, 1:].contiguous(), users)


def _parts_of_play(play: Mapping[str, Sequence[str]], *, test: bool) -> list[Numbers]:
    """Return each speaker's text to learn from or to test on."""
    return [
        encode(
            "\n".join(
                speech
                for place, speech in enumerate(said, start=1)
                if (place % TEST_EVERY == 0) == test
            )
        )
        for said in play.values()
    ]


def _part_of_text(text: str, *, test: bool) -> Numbers:
    numbers = encode(text)
    cut = len(numbers) - len(numbers) // TEST_EVERY
    return numbers[cut:] if test else numbers[:cut]


def _windows(starts: Numbers, part: Numbers, window: int) -> Numbers:
    """Return windows with the character after each, shape ``(windows, window + 1)``."""
    windows: Numbers = part[starts[:, None] + np.arange(window + 1)]
    return windows


ABOUT = About(
    make=characters,
    summary="which character comes next? Shakespeare, one client a speaker, or your own text",
    size="1,112 windows of 80 characters by 26 speakers, 245 to test on; ship with Roundel",
    models={"lstm": 88_817, "gru": 70_129, "transformer": 117_729},
    licence="public domain",
    source="W. Shakespeare, As You Like It; the Canterbury corpus",
    figure='accuracy 0.42 or more after 20 rounds with partition.kind = "natural", '
    'client.epochs = 1, client.optimizer = "Adam" and client.lr = 0.01; the best guess from one '
    "character has 0.28",
)
