"""What is computed on a GPU, held against the CPU on a GPU that is simulated."""

import subprocess
import sys
from pathlib import Path

import pytest
from torch.utils import backend_registration

SMALL = "rounds=2 partition.clients=8 cohort.size=5 client.steps=3 evaluation.clients_every=1"
CASES = [
    *("strategy.name=scaffold engine.executor=loop", "strategy.name=scaffold"),
    *("strategy.name=ditto engine.executor=loop", "strategy.name=fltrust"),
    "strategy.name=pfedme",
    "strategy.name=fedbn task.model=mlp-norm engine.executor=vectorized",
    "strategy.name=moon engine.executor=vectorized",
    "strategy.name=topk client.optimizer=adam client.clip_norm=1.0",
]


@pytest.mark.slow
@pytest.mark.skipif(
    not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"),
    reason="this torch cannot have a device that is written in Python",
)
def test_an_experiment_has_the_same_bits_on_a_gpu_of_the_same_arithmetic():
    ran = subprocess.run(
        [sys.executable, "-m", "tests.simulated_gpu", *(f"{SMALL} {case}" for case in CASES)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.stdout.splitlines() == ["True cuda"] * len(CASES), ran.stderr
