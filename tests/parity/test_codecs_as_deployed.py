"""What codecs make of an update crosses a real wire, and is counted as it was sent."""

import pytest

from roundel.core.config import Experiment
from roundel.core.configfile import load_experiment
from roundel.simulations import deployed
from roundel.simulations.deployed import simulate_as_deployed
from roundel.simulations.simulate import simulate
from tests import commands

D = 4810  # what the digits' model has to train


@pytest.fixture(autouse=True)
def _nodes(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    commands.nodes_from_the_zygote(monkeypatch, deployed, tmp_path)


def experiment_of(strategy: str, *parts: str) -> Experiment:
    return load_experiment(
        None,
        [
            f"strategy.name={strategy}",
            f"strategy.parts=[{', '.join(parts)}]",
            *("rounds=3", "partition.clients=6", "cohort.size=4"),
            *("client.epochs=1", "client.lr=0.05", "evaluation.clients=0"),
            "engine.executor=loop",
        ],
    )


@pytest.mark.parametrize(
    ("strategy", "parts", "bytes_of_a_client"),
    [
        # Two channels of 481 numbers: 4 bytes a place, 4 bits a level, and one norm.
        ("scaffold", ['{name="topk", share=0.1}', '"qsgd"'], 2 * (481 * 4 + 241 + 4)),
        # Everything is sent, in more bytes than without codecs.
        ("fedavg", ['{name="topk", share=1.0}'], D * 8),
        ("fedavg", ['{name="half", dtype="bfloat16"}'], D * 2),
        ("fedavg", ['"int8"'], D + 10 * 4),
        ("fedadam", ['"signsgd"'], 602),
    ],
)
def test_a_federation_over_grpc_gives_the_bits_of_the_simulation(
    tmp_path, strategy, parts, bytes_of_a_client
):
    experiment = experiment_of(strategy, *parts)
    simulated = simulate(experiment, out=tmp_path / "simulated")
    ran = simulate_as_deployed(
        experiment, nodes=2, out=tmp_path / "deployed", on_round=lambda _report: None
    )
    assert ran.hashes == simulated.hashes
    assert ran.series("completed") == simulated.series("completed") == [4, 4, 4]
    assert ran.series("bytes_up") == simulated.series("bytes_up") == [4 * bytes_of_a_client] * 3
