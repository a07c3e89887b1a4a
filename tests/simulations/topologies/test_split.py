"""Split learning: the two halves take the very steps that the whole takes."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from roundel.core.config import Experiment
from roundel.core.data import Examples, InMemoryPopulation
from roundel.core.errors import ConfigError
from roundel.core.job import LocalContext, LocalJob, Phase
from roundel.core.learning import Learner
from roundel.core.optimizers import OptimizerSpec
from roundel.core.task import Task
from roundel.simulations import Pieces, simulate
from roundel.simulations.topologies.split import Cut, exchange, halves
from tests.simulations.topologies.runs import TINY, tiny


def whole() -> nn.Module:
    return nn.Sequential(
        nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)
    ).double()


TASK = Task(name="small", model=whole)


def examples(count: int, seed: int = 0) -> Examples:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(count, 4, dtype=torch.float64, generator=generator)
    return Examples(inputs, torch.randint(3, (count,), generator=generator))


def job(learner: Learner, start: Tensor, data: Examples, **optimizer: object) -> LocalJob:
    spec = OptimizerSpec(**{"lr": 0.1, **optimizer})  # type: ignore[arg-type]
    return LocalJob(
        context=LocalContext(spec=learner.spec, sent=start),
        integers=learner.initial_integers,
        examples=data,
        phases=[Phase(optimizer=spec, epochs=3, batch_size=4)],
        seed=7,
    )


@pytest.mark.parametrize("cut", [None, 1, 2, 3, 4, 5, "0", "3"])
def test_what_crosses_the_cut_gives_the_gradients_of_the_whole(cut):
    model, batch = whole(), examples(8)
    loss = nn.functional.cross_entropy
    front, back = halves(model, cut)
    passed = exchange(front, back, loss, batch)
    value = loss(model(batch.inputs), batch.targets)
    gradients = torch.autograd.grad(value, list(model.parameters()))
    torch.testing.assert_close(passed.loss, value.detach(), rtol=1e-12, atol=1e-12)
    for one, other in zip([*passed.client, *passed.server], gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
    assert not passed.smashed.requires_grad


@pytest.mark.parametrize("cut", [None, 1, 4])
@pytest.mark.parametrize(
    "optimizer",
    [{}, {"momentum": 0.9}, {"weight_decay": 0.1}, {"name": "adam"}],
    ids=str,
)
def test_both_halves_together_train_as_the_whole_model_does(cut, optimizer):
    data = examples(18)
    one, other = Learner(TASK, seed=3), Learner(TASK, seed=3)
    turn = Cut(one, cut).train(job(one, one.initial, data, **optimizer))
    trained = other.train(job(other, other.initial, data, **optimizer))
    torch.testing.assert_close(turn.model[0], trained.vector, rtol=1e-12, atol=1e-12)
    assert torch.equal(turn.model[1], trained.integers)
    assert turn.steps == trained.steps[0]
    assert turn.metrics.count == trained.metrics.count
    assert turn.metrics.sums["loss"] == pytest.approx(trained.metrics.sums["loss"], rel=1e-12)
    assert not torch.equal(turn.model[0], one.initial)


def test_bytes_are_activations_and_targets_up_and_gradients_down():
    learner = Learner(TASK, seed=0)
    turn = Cut(learner, 3).train(job(learner, learner.initial, examples(10)))
    # 3 epochs of 10 examples; 6 activations of 8 bytes and one target of 8.
    assert (turn.up, turn.down) == (30 * (6 * 8 + 8), 30 * 6 * 8)


@pytest.mark.parametrize(("cut", "kept"), [(None, 3), (1, 1), (5, 5), ("0", 1), ("2", 3), ("4", 5)])
def test_where_the_cut_lies(cut, kept):
    front, back = halves(whole(), cut)
    assert (len(front), len(back)) == (kept, 6 - kept)


@pytest.mark.parametrize("cut", [6, 9, "5x", "-1"])
def test_a_cut_that_is_nowhere_names_the_layers(cut):
    with pytest.raises(ConfigError, match="is no place in the model, whose 6 layers are 0, 1, 2"):
        halves(whole(), cut)


def test_a_side_without_anything_to_train_is_refused():
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.Tanh())
    with pytest.raises(ConfigError, match="leaves the client nothing to train"):
        halves(model, 1)
    with pytest.raises(ConfigError, match="leaves the server nothing to train"):
        halves(model, "1")
    with pytest.raises(ConfigError, match="needs two layers with parameters"):
        halves(model, None)


def test_a_model_that_is_no_sequence_is_refused():
    with pytest.raises(ConfigError, match=r"cuts an nn.Sequential, and the model is Linear"):
        halves(nn.Linear(2, 2), None)


def losses(run):
    return [line["loss"] for line in run.rounds]


def test_splitfed_v1_is_federated_averaging_with_other_traffic(tmp_path):
    star = simulate(settings=list(TINY), out=tmp_path / "star")
    fed = tiny(tmp_path / "fed", kind="split", handover="splitfed-v1")
    assert losses(fed) == pytest.approx(losses(star), rel=1e-5)
    assert fed.series("train_loss") == pytest.approx(star.series("train_loss"), rel=1e-5)


def test_clients_in_turn_are_sgd_on_all_their_batches_in_turn(tmp_path):
    """A cohort of one client a round hands over what the next one starts from, as a star does."""
    settings = ("cohort.size=1", "rounds=4")
    split = tiny(tmp_path / "split", *settings, kind="split")
    star = tiny(tmp_path / "star", *settings)
    assert losses(split) == pytest.approx(losses(star), rel=1e-5)


def test_handovers_differ_once_there_is_more_than_one_client(tmp_path):
    ways = ("sequential", "splitfed-v1", "splitfed-v2")
    runs = [tiny(tmp_path / way, "rounds=1", kind="split", handover=way) for way in ways]
    assert len({run.rounds[0]["params_sha256"] for run in runs}) == 3
    # mlp: 64-64-10. Two batches of 10 from 3 clients: 64 activations of 4 bytes, targets of 8.
    handed = (64 * 64 + 64) * 4 * 3
    for run in runs:
        assert run.rounds[0]["bytes_up"] == 60 * (64 * 4 + 8) + handed
        assert run.rounds[0]["bytes_down"] == 60 * 64 * 4 + handed


def on_small(out, *sizes, task=TASK, **topology):
    """One round of two steps on full batches, with clients that hold so many examples."""
    experiment = Experiment.model_validate(
        {
            "rounds": 1,
            "cohort": {"size": len(sizes)},
            "client": {"steps": 2, "batch_size": "full", "lr": 0.1},
            "evaluation": {"clients": 0},
            "topology": {"kind": "split", **topology},
        }
    )
    population = InMemoryPopulation.of([examples(size, seed=size) for size in sizes])
    return simulate(experiment, pieces=Pieces(task=task, population=population), out=out)


@pytest.mark.parametrize("handover", ["sequential", "splitfed-v1", "splitfed-v2"])
def test_what_is_handed_on_and_what_is_averaged(handover, tmp_path):
    """The same turns one by one, with the halves put together name by name."""
    run = on_small(tmp_path / "run", 6, 14, handover=handover)
    learner = Learner(TASK, seed=0)
    spec, began = learner.spec, learner.spec.views(learner.initial)
    ends, now = [], dict(began)
    for size in (6, 14):
        fresh = {"sequential": (), "splitfed-v1": "012345", "splitfed-v2": "012"}[handover]
        start = {name: began[name] if name[0] in fresh else now[name] for name in began}
        vector = torch.cat([start[entry.name].flatten() for entry in spec.entries])
        phases = [Phase(optimizer=OptimizerSpec(lr=0.1), epochs=None, steps=2, batch_size=None)]
        turn = Cut(learner, None).train(
            replace(job(learner, vector, examples(size, seed=size)), phases=phases)
        )
        now = {name: value.clone() for name, value in spec.views(turn.model[0]).items()}
        ends.append(now)
    final = load_file(run.path / "model.safetensors")
    for name in began:
        mean = 0.3 * ends[0][name] + 0.7 * ends[1][name]
        expected = mean if name[0] in fresh else now[name]
        torch.testing.assert_close(final[name], expected, rtol=1e-12, atol=1e-12)


def test_a_client_that_fails_changes_nothing_and_is_named(tmp_path):
    def loss(outputs, targets):
        if len(targets) == 9:
            raise ValueError("nine are too many")
        return nn.functional.cross_entropy(outputs, targets)

    task = replace(TASK, loss=loss)
    with_it = on_small(tmp_path / "with", 6, 7, 9, task=task)
    without = on_small(tmp_path / "without", 6, 7, task=task)
    assert with_it.hashes == without.hashes
    (failed,) = (row for row in with_it.clients() if row["status"] == "failed")
    assert (failed["client"], failed["reason"]) == (2, "ValueError: nine are too many")
    assert (with_it.path / "failures" / "round-000001-client-2.txt").exists()
