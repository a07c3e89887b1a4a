"""Models with each kind of normalisation train in a federation."""

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from roundel.core.config import Experiment
from roundel.core.data import Examples, InMemoryPopulation
from roundel.core.task import Task
from roundel.simulations import Pieces, simulate
from roundel.simulations.tasks.cifar10 import resnet
from roundel.simulations.tasks.norms import norm_layer

KINDS = ("group", "batch", "layer")
MAPS = torch.randn(5, 16, 4, 4, generator=torch.Generator().manual_seed(0)) * 3 + 2


def federate(out, task, clients, **changes):
    """Run a federation in which every client takes part in every round."""
    experiment = Experiment.model_validate(
        {
            "rounds": 3,
            "cohort": {"size": len(clients)},
            "client": {"lr": 0.1, "epochs": 1, "batch_size": 4},
            "evaluation": {"clients": 0},
        }
        | changes
    )
    pieces = Pieces(task=task, population=InMemoryPopulation.of(clients))
    return simulate(experiment, pieces=pieces, out=out)


def bright_or_dark(count, seed, side):
    """Square images; those of class 1 are brighter than those of class 0."""
    labels = torch.arange(count) % 2
    noise = torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(seed))
    return Examples(noise + 2 * labels[:, None, None, None], labels)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_a_scale_and_a_shift_for_each_channel(kind):
    assert [tuple(p.shape) for p in norm_layer(kind, 16).parameters()] == [(16,), (16,)]


def test_a_batch_layer_normalises_each_channel_over_the_batch():
    out = norm_layer("batch", 16)(MAPS)
    assert out.mean(dim=(0, 2, 3)).abs().max() < 1e-5
    assert out.var(dim=(0, 2, 3), correction=0).sub(1).abs().max() < 1e-3


@pytest.mark.parametrize(("kind", "groups"), [("group", 8), ("layer", 1)])
def test_the_other_layers_normalise_groups_of_channels_of_each_example(kind, groups):
    out = norm_layer(kind, 16)(MAPS).reshape(5, groups, -1)
    assert out.mean(dim=2).abs().max() < 1e-5
    assert out.var(dim=2, correction=0).sub(1).abs().max() < 1e-3


@pytest.mark.parametrize(("channels", "groups"), [(6, 2), (7, 1), (12, 4), (64, 8)])
def test_groups_divide_the_channels_evenly(channels, groups):
    layer = norm_layer("group", channels)
    assert isinstance(layer, nn.GroupNorm)
    assert layer.num_groups == groups


@pytest.mark.parametrize("kind", KINDS)
def test_a_residual_network_learns_in_a_federation(tmp_path, kind):
    task = Task(name="bright", model=lambda: resnet(kind))
    clients = [bright_or_dark(5, seed, side=8) for seed in range(2)]
    local = {"lr": 0.01, "epochs": 2, "batch_size": 4}
    run = federate(tmp_path / "run", task, clients, client=local)
    assert [line["completed"] for line in run.rounds] == [2, 2, 2]
    assert len(set(run.hashes)) == 3
    losses = run.series("train_loss")
    assert losses[2] < 0.75 * losses[0]


def test_a_client_whose_last_batch_would_be_one_example_trains_with_batch_norm(tmp_path):
    """The last stage has maps of 1x1 here, where one example is one value a channel."""
    task = Task(name="bright", model=lambda: resnet("batch"))
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        task.model()(bright_or_dark(1, 0, side=4).inputs)
    run = federate(tmp_path / "run", task, [bright_or_dark(5, 0, side=4)], rounds=1)
    assert [(row["status"], row["num_examples"]) for row in run.clients()] == [("accepted", 5)]


def test_running_statistics_are_averaged_by_the_number_of_examples(tmp_path):
    """A step moves the running mean a tenth of the way from 0 to the batch's mean.

    Client 0 has two images of twos and client 1 four of sixes, so that theirs become 0.2 and 0.6,
    and the average (2 * 0.2 + 4 * 0.6) / 6. The batches do not vary, so that 0.9 is left of the
    running variance of 1. The counter of batches is no average: it is 1 at both.
    """

    def model():
        return nn.Sequential(norm_layer("batch", 1), nn.Flatten(), nn.Linear(4, 2))

    clients = [
        Examples(torch.full((count, 1, 2, 2), value), torch.zeros(count, dtype=torch.int64))
        for count, value in ((2, 2.0), (4, 6.0))
    ]
    federate(tmp_path / "run", Task(name="flat", model=model), clients, rounds=1)
    tensors = load_file(tmp_path / "run" / "model.safetensors")
    assert tensors["0.running_mean"].tolist() == pytest.approx([2.8 / 6])
    assert tensors["0.running_var"].tolist() == pytest.approx([0.9])
    assert int(tensors["0.num_batches_tracked"]) == 1


def test_the_averaged_statistics_are_what_evaluation_uses(tmp_path):
    """With a running mean of (0.2 + 0.6) / 2, inputs of 0.4 leave the layer as its shift."""

    def model():
        return nn.Sequential(norm_layer("batch", 1), nn.Flatten(), nn.Linear(4, 2))

    clients = [
        Examples(torch.full((2, 1, 2, 2), value), torch.zeros(2, dtype=torch.int64))
        for value in (2.0, 6.0)
    ]
    federate(tmp_path / "run", Task(name="flat", model=model), clients, rounds=1)
    tensors = load_file(tmp_path / "run" / "model.safetensors")
    trained = model()
    trained.load_state_dict(tensors)
    trained.eval()
    expected = tensors["2.bias"] + tensors["0.bias"] * tensors["2.weight"].sum(dim=1)
    assert trained(torch.full((1, 1, 2, 2), 0.4))[0].tolist() == pytest.approx(expected.tolist())
