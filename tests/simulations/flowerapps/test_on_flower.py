"""The same apps on Flower's own engine end with the same arrays.

With Ray if the interpreter that ROUNDEL_FLOWER_PYTHON names has it, else without.
"""

import os
import subprocess
import sys

import numpy as np
import pytest

from tests.flowerapps.running import APPS, NAMES, arrays, run

ORDERED = ("custom-strategy", "secure-aggregation")
"""Apps that add up in an order of their own, or integers: these agree to the bit."""


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", [*NAMES, "every-strategy"])
def test_an_app_ends_with_the_arrays_that_it_ends_with_on_flower(name, tmp_path):
    clients = 7 if name == "every-strategy" else 4
    run(APPS / name, tmp_path / "run", clients=clients, workers=2)
    ours, theirs = arrays(tmp_path / "run"), flower(name, clients, tmp_path)
    assert ours.keys() == theirs.keys()
    for key, array in theirs.items():
        np.testing.assert_allclose(ours[key], array, rtol=0, atol=1e-6)
        if name in ORDERED:
            assert (ours[key] == array).all()


def flower(name, clients, folder):
    """Return what an app ends with on Flower's engine."""
    python = os.environ.get("ROUNDEL_FLOWER_PYTHON", sys.executable)
    out = folder / "flower.npz"
    environment = {
        **os.environ,
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_HOME": str(folder / "home"),
        "PYTHONPATH": str(APPS / name),
    }
    command = [python, APPS / "on_flower.py", APPS / name, str(clients), out]
    ended = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, timeout=500
    )
    assert out.exists(), ended.stderr[-3000:]
    return dict(np.load(out))
