"""What the FedProx paper shows on Synthetic(alpha, beta), in its setting with fewer rounds.

T. Li et al., "Federated Optimization in Heterogeneous Networks" (MLSys 2020), figure 2: FedAvg does
worse the more the clients differ, and mu = 1 calms it. ``benchmarks/fedprox_synthetic.py`` measures
more seeds, rounds and degrees of heterogeneity.
"""

from pathlib import Path

import numpy as np
import pytest

from roundel.simulations import simulate

SETTING = [
    "task.name=synthetic",
    "partition.clients=30",
    "cohort.size=10",
    "client.lr=0.01",
    "client.batch_size=10",
    "client.epochs=20",
]
IID = ["task.iid=true"]
FEDPROX = ["strategy.name=fedprox", "strategy.mu=1.0"]


def series(out: Path, rounds: int, seed: int, *settings: str) -> tuple[list[float], list[float]]:
    """Return the loss and the accuracy on the clients' test examples after each round."""
    run = simulate(settings=[*SETTING, f"rounds={rounds}", f"seed={seed}", *settings], out=out)
    return run.series("loss"), run.series("accuracy")


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", [0, 1])
def test_iid_clients_are_easier_than_those_of_synthetic_1_1(tmp_path, seed):
    losses, accuracies = series(tmp_path / "iid", 3, seed, *IID)
    other_losses, other_accuracies = series(tmp_path / "1-1", 3, seed)
    assert losses[-1] < other_losses[-1]
    assert accuracies[-1] > other_accuracies[-1]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_loss_on_synthetic_1_1_jumps_less_with_mu_1(tmp_path):
    fedavg, _ = series(tmp_path / "fedavg", 12, 0)
    fedprox, _ = series(tmp_path / "fedprox", 12, 0, *FEDPROX)
    jumps = [np.abs(np.diff(losses[4:])).mean() for losses in (fedavg, fedprox)]
    assert jumps[1] < jumps[0]
