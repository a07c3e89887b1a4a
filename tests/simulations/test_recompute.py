"""Rounds of a recorded run, computed again from its directory."""

import pytest

from roundel.core.errors import ConfigError
from roundel.core.params import params_sha256
from roundel.simulations import simulate
from roundel.simulations.recompute import Recorded, Rerun


def test_every_round_comes_out_as_recorded(tmp_path):
    history = simulate(
        settings=["rounds=3", "strategy.name=scaffold", "faults.drop=0.3", "evaluation.clients=0"],
        out=tmp_path / "run",
    )
    recorded = Recorded.read(tmp_path / "run", "this")
    assert recorded.last_round == 3
    rerun = Rerun.of(recorded, 3, load_test=False)
    with rerun.computing():
        states = list(rerun.rounds(rerun.clients(rerun.store({})), rerun.server.initial_state()))
    assert [params_sha256(s.params, s.integers) for s, _ in states] == history.hashes


def test_a_run_without_a_server_is_refused(tmp_path):
    settings = ["rounds=1", "topology.kind=local", "cohort.size=2", "partition.clients=2"]
    simulate(settings=[*settings, "client.steps=1"], out=tmp_path / "run")
    with pytest.raises(ConfigError, match="a landscape knows only a server and its clients"):
        Recorded.read(tmp_path / "run", "a landscape")
