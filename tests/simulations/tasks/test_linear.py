"""The optimum of linear regression is known, and federated learning gets there."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from roundel.core.data import Examples
from roundel.core.errors import ConfigError, DataError
from roundel.simulations import simulate
from roundel.simulations.tasks.linear import linear, optimum


def pool_of(**knobs: Any) -> Examples:
    load = linear(**knobs).load
    assert load is not None
    return load(None)


def test_the_optimum_of_three_points_is_worked_out_by_hand():
    """The line through (0, 1), (1, 3), (2, 2): slope 1/2, and intercept 2 - 1/2."""
    examples = Examples(torch.tensor([[0.0], [1.0], [2.0]]), torch.tensor([[1.0], [3.0], [2.0]]))
    assert optimum(examples).tolist() == pytest.approx([0.5, 1.5])


def test_the_gradient_is_zero_at_the_optimum():
    examples = pool_of(dimension=4, examples=50)
    weights = optimum(examples)
    errors = examples.inputs.double() @ weights[:-1] + weights[-1] - examples.targets[:, 0].double()
    assert float(errors.mean()) == pytest.approx(0, abs=1e-12)
    assert float((errors @ examples.inputs.double()).abs().max()) == pytest.approx(0, abs=1e-11)


def test_of_several_optima_it_is_the_one_of_smallest_norm():
    examples = Examples(torch.tensor([[1.0]]), torch.tensor([[4.0]]))
    assert optimum(examples).tolist() == pytest.approx([2.0, 2.0])


def test_no_examples_have_no_optimum():
    with pytest.raises(DataError, match=r"^there are no examples to fit; give at least one$"):
        optimum(Examples(torch.zeros(0, 2), torch.zeros(0, 1)))


def test_the_noise_is_what_is_left_at_the_optimum():
    pool = pool_of(dimension=3, examples=20_000, noise=0.5)
    weights = optimum(pool)
    errors = pool.inputs.double() @ weights[:-1] + weights[-1] - pool.targets[:, 0].double()
    assert float(errors.std()) == pytest.approx(0.5, rel=0.02)


def test_pool_and_test_set_have_one_truth_and_different_draws():
    task = linear(dimension=5, noise=0.0)
    assert task.load is not None
    assert task.load_test is not None
    pool, test = task.load(None), task.load_test(None)
    assert optimum(pool).tolist() == pytest.approx(optimum(test).tolist(), abs=1e-5)
    assert not torch.equal(pool.inputs, test.inputs)
    assert (pool.inputs.shape, pool.targets.shape) == ((1_000, 5), (1_000, 1))
    assert (pool.inputs.dtype, pool.targets.dtype) == (torch.float32, torch.float32)


def test_the_seed_chooses_the_problem():
    assert torch.equal(pool_of(seed=3).targets, pool_of(seed=3).targets)
    assert not torch.allclose(optimum(pool_of(seed=3)), optimum(pool_of(seed=4)), atol=0.1)


def test_full_batches_of_all_clients_lead_to_the_optimum(tmp_path: Path):
    """FedSGD with everyone is gradient descent on the pool, however it is divided."""
    simulate(
        settings=[
            "task.name=linear",
            "partition.kind=iid",
            "partition.clients=10",
            "partition.test=0.0",
            "cohort.size=10",
            "client.steps=1",
            "client.batch_size=full",
            "client.lr=0.4",
            "rounds=20",
            "evaluation.every=20",
            "evaluation.clients=0",
        ],
        out=tmp_path / "run",
    )
    model = load_file(tmp_path / "run" / "model.safetensors")
    reached = torch.cat([model["weight"].flatten(), model["bias"]])
    assert reached.tolist() == pytest.approx(optimum(pool_of()).tolist(), abs=1e-5)


@pytest.mark.parametrize("part", ["load", "load_test"])
def test_a_path_is_refused(part):
    with pytest.raises(DataError, match=r"^the examples of linear are generated and cannot be re"):
        getattr(linear(), part)(Path("some/file"))


@pytest.mark.parametrize(("knob", "value"), [("dimension", 0), ("examples", 0), ("noise", -0.1)])
def test_a_knob_out_of_range_is_an_error(knob, value):
    with pytest.raises(ConfigError, match=rf"^task.{knob} = {value} is out of range"):
        linear(**{knob: value})
