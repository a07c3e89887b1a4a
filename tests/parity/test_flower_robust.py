"""Robust rules against those of Flower: on the oracle's numbers and on others.

Flower takes the rules of the parameters themselves and in their own dtype; given 64 bits they agree
with ours, which see updates, wherever both follow the same convention.
"""

import random

import numpy as np
import pytest
import torch
from torch import Tensor

from roundel.core.errors import CompositionError
from roundel.strategies.bulyan import bulyan
from roundel.strategies.compose import Part, compose
from roundel.strategies.coordinatewise import median, trimmed_mean
from roundel.strategies.krum import krum, multi_krum
from tests.oracle.cases import read_cases
from tests.parity.flower_strategies import flower_aggregate
from tests.strategies.rules import drawn
from tests.strategies.updates import points, update
from tests.test_oracle import BUNDLED

pytest.importorskip("flwr")

SEEDS = pytest.mark.parametrize("seed", range(4))


def ours(part: Part, start: Tensor, client_params: Tensor, counts: list[int]) -> Tensor:
    each = [
        update(k, *(params - start).tolist(), examples=count)
        for k, (params, count) in enumerate(zip(client_params, counts, strict=True))
    ]
    return torch.tensor(points(compose(part), start, each)[0], dtype=torch.float64)


def theirs(strategy, start: Tensor, client_params: Tensor, counts: list[int]) -> Tensor:
    found = flower_aggregate(strategy, start.numpy(), list(client_params.numpy()), counts)
    return torch.from_numpy(np.asarray(found, dtype=np.float64))


def some_round(seed: int, clients: int | None = None):
    """Return parameters, what clients made of them, and how many examples they have."""
    draw = random.Random(seed)
    count = draw.randint(7, 15) if clients is None else clients
    start = drawn(1, 6, seed + 100)[0]
    return start, start + drawn(count, 6, seed), [draw.randint(1, 50) for _ in range(count)]


def legacy_bulyan(client_params: Tensor, f: int) -> Tensor:
    from flwr.server.strategy.aggregate import aggregate_bulyan, aggregate_krum

    results = [([params.numpy()], 1) for params in client_params]
    (found,) = aggregate_bulyan(results, f, aggregate_krum, to_keep=0)
    return torch.from_numpy(found)


@SEEDS
def test_the_median_is_that_of_fed_median(seed):
    from flwr.serverapp.strategy import FedMedian

    told = some_round(seed)
    torch.testing.assert_close(ours(median(), *told), theirs(FedMedian(), *told))


@SEEDS
@pytest.mark.parametrize("beta", [0.0, 0.05, 0.2, 0.29, 0.45])
def test_the_trimmed_mean_is_that_of_fed_trimmed_avg(beta, seed):
    from flwr.serverapp.strategy import FedTrimmedAvg

    told = some_round(seed)
    torch.testing.assert_close(
        ours(trimmed_mean(fraction=beta, if_nothing="mean"), *told),
        theirs(FedTrimmedAvg(beta=beta), *told),
    )


@SEEDS
@pytest.mark.parametrize("f", [0, 1, 2])
def test_krum_is_that_of_flower(f, seed):
    from flwr.serverapp.strategy import Krum

    told = some_round(seed)
    expected = theirs(Krum(num_malicious_nodes=f), *told)
    torch.testing.assert_close(ours(krum(f=f), *told), expected)
    torch.testing.assert_close(ours(krum(f=f, convention="flower"), *told), expected)


def test_flowers_krum_runs_where_the_papers_must_not():
    from flwr.serverapp.strategy import Krum

    told = some_round(seed=5, clients=4)
    torch.testing.assert_close(
        ours(krum(f=2, convention="flower"), *told), theirs(Krum(num_malicious_nodes=2), *told)
    )
    with pytest.raises(CompositionError, match="needs at least 7 updates, and 4 arrived"):
        ours(krum(f=2), *told)


@SEEDS
@pytest.mark.parametrize("m", [1, 3, 5])
def test_multi_krum_is_that_of_flower_and_weighs_by_examples_as_it_does(m, seed):
    from flwr.serverapp.strategy import MultiKrum

    told = some_round(seed)
    torch.testing.assert_close(
        ours(multi_krum(f=1, m=m, convention="flower"), *told),
        theirs(MultiKrum(num_malicious_nodes=1, num_nodes_to_select=m), *told),
    )


@SEEDS
@pytest.mark.parametrize("f", [0, 1, 2])
def test_bulyan_in_one_shot_is_that_of_flower(f, seed):
    from flwr.serverapp.strategy import Bulyan

    told = some_round(seed, clients=4 * f + 3 + seed)
    torch.testing.assert_close(
        ours(bulyan(f=f, selection="one-shot"), *told), theirs(Bulyan(num_malicious_nodes=f), *told)
    )


@SEEDS
@pytest.mark.parametrize("f", [1, 2, 3])
def test_iterated_bulyan_is_flowers_older_one(f, seed):
    start, client_params, counts = some_round(seed, clients=4 * f + 3 + seed)
    torch.testing.assert_close(
        ours(bulyan(f=f), start, client_params, counts), legacy_bulyan(client_params, f)
    )


def test_the_oracles_numbers_are_flowers():
    from flwr.serverapp.strategy import Bulyan, FedMedian, FedTrimmedAvg, Krum, MultiKrum

    flower = {
        "median_odd": lambda _: FedMedian(),
        "trimmed_n5_b02": lambda inputs: FedTrimmedAvg(beta=inputs["beta"]),
        "trimmed_n5_b01_nothing_trimmed": lambda inputs: FedTrimmedAvg(beta=inputs["beta"]),
        "trimmed_n10_b029_floor": lambda inputs: FedTrimmedAvg(beta=inputs["beta"]),
        "krum_n7_f2": lambda inputs: Krum(num_malicious_nodes=inputs["f"]),
        "multikrum_n7_f2_m3_weighted": lambda inputs: MultiKrum(
            num_malicious_nodes=inputs["f"], num_nodes_to_select=inputs["m"]
        ),
        "bulyan_iterative_vs_oneshot": lambda inputs: Bulyan(num_malicious_nodes=inputs["f"]),
    }
    cases = {case.id: case for case in read_cases(BUNDLED)}
    for name, make in flower.items():
        case = cases[name]
        sent = torch.tensor(case.inputs["client_params"], dtype=torch.float64)
        counts = case.inputs.get("num_examples", [1] * len(sent))
        expected = case.expected.get("oneshot_flower_serverapp", case.expected)["global_params"]
        found = theirs(make(case.inputs), torch.zeros(sent.shape[1]).double(), sent, counts)
        torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))
    case = cases["bulyan_iterative_vs_oneshot"]
    sent = torch.tensor(case.inputs["client_params"], dtype=torch.float64)
    torch.testing.assert_close(
        legacy_bulyan(sent, case.inputs["f"]),
        torch.tensor(case.expected["iterative"]["global_params"], dtype=torch.float64),
    )
