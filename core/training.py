"""A user's own local training, in place of the learning loop.

A task may bring a function ``train(model, examples, context) -> TrainingResult``. It gets the model
in training mode with the parameters of the round, changes them in place by whatever means, and says
how many steps it took:

    def train(model, examples, context):
        optimizer = torch.optim.SGD(model.parameters(), lr=context.config.client.lr)
        for _ in range(10):
            optimizer.zero_grad()
            loss = cross_entropy(model(examples.inputs), examples.targets)
            loss.backward()
            optimizer.step()
        return TrainingResult(steps=10, loss=loss.item())

Torch's, numpy's and Python's global generators are seeded around it, so it may draw from them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from roundel.core.config import Experiment
from roundel.core.data import Examples


@dataclass(frozen=True, kw_only=True)
class TrainingContext:
    """What a training function may know.

    Attributes:
        round: The round, from 1.
        client_id: Whose examples these are.
        seed: For generators of its own; another one for each client and round.
        state: What the function returned as state when this client's update last counted; empty
            before.
        device: Where the model and its tensors live.
        config: The experiment.
    """

    round: int
    client_id: int
    seed: int
    state: Mapping[str, Tensor]
    device: torch.device
    config: Experiment


@dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """What a training function has to say; the trained parameters are in the model.

    Attributes:
        steps: How many steps it took, at least 1.
        loss: The mean loss over what it trained on, if it knows.
        state: Tensors that this client shall get back the next time, by name.
    """

    steps: int
    loss: float | None = None
    state: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])


TrainFunction = Callable[[nn.Module, Examples, TrainingContext], TrainingResult]
"""A model with the round's parameters and a client's training examples to what became of them."""
