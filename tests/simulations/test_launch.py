"""Runs whose ranks somebody else has started, as torchrun does."""

import json
import socket
from pathlib import Path

import pytest
import torch

from roundel.core.config import Experiment
from roundel.core.errors import ConfigError
from roundel.core.history import read_history
from roundel.core.ranks import Alone
from roundel.server.aggregation import ServerState
from roundel.server.run import Start
from roundel.simulations.engine import Legacy
from roundel.simulations.launch import check_can_share, heard, packed, unpacked
from roundel.simulations.prepare import prepare
from roundel.simulations.share import Opening
from tests.commands import TINY, call, settings, start

SCAFFOLD = (*TINY, *settings(strategy__name="scaffold", engine__executor="loop", rounds=3))


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


def launched(cwd: Path, *args: object):
    """Run a command on two ranks; return what each left behind."""
    where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2"}
    commands = [start(*args, cwd=cwd, env={**where, "RANK": str(rank)}) for rank in range(2)]
    return [command.wait() for command in commands]


def test_two_launched_ranks_record_what_one_process_does_and_only_the_first_speaks(tmp_path):
    assert call("simulate", *SCAFFOLD, "--out", tmp_path / "alone").code == 0
    first, second = launched(tmp_path, "simulate", *SCAFFOLD, "--out", "run")
    assert (first.code, second.code) == (0, 0), first.err + second.err
    assert "after 3 rounds" in first.out
    assert second.out == second.err == ""
    history = read_history(tmp_path / "run")
    assert history.hashes == read_history(tmp_path / "alone").hashes
    assert history.environment["engine"]["workers"] == 2
    (tmp_path / "run" / "model.safetensors").unlink()
    max((tmp_path / "run" / "checkpoints").iterdir()).unlink()
    first, second = launched(tmp_path, "resume", "run")
    assert (first.code, second.code, second.out) == (0, 0, "")
    assert "after 3 rounds" in first.out
    assert read_history(tmp_path / "run").hashes == history.hashes


def test_an_opening_survives_its_way_to_another_machine():
    state = ServerState(
        round=4,
        params=torch.tensor([0.1, -0.0]),
        integers=torch.tensor([7]),
        transforms={"adam": {"m/v": torch.ones(2)}, "plain": {}},
    )
    opening = Opening(
        path=Path("runs/one"),
        environment={"run_id": "abc", "engine": {"workers": 2}},
        start=Start(state=state, clients={3: {}}, past=[{"round": 1, "loss": 0.1}]),
        legacy=Legacy(stateful=True, narrowed={2: 16, 5: 8}),
        key=b"\x00\xff",
    )
    back = unpacked(packed(opening))
    assert (back.path, back.environment, back.legacy, back.key) == (
        opening.path,
        opening.environment,
        opening.legacy,
        b"\x00\xff",
    )
    assert back.start.clients == {}
    assert json.dumps(list(back.start.past)) == json.dumps(list(opening.start.past))
    assert back.start.state.round == 4
    assert torch.equal(back.start.state.params, state.params)
    assert torch.equal(back.start.state.integers, state.integers)
    assert back.start.state.transforms.keys() == {"adam", "plain"}
    assert torch.equal(back.start.state.transforms["adam"]["m/v"], torch.ones(2))


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        ({"topology": {"kind": "local"}}, "topology.kind = 'local' is computed by one process"),
        ({"attack": {"kind": "alie", "share": 0.2}}, "attack.kind = 'alie' is computed by one"),
    ],
)
def test_what_one_process_computes_is_refused_to_several(said, sentence):
    with pytest.raises(ConfigError, match=sentence):
        check_can_share(prepare(Experiment.model_validate(said)))
    check_can_share(prepare(Experiment()))


def test_a_rank_computes_with_the_engine_and_the_data_of_rank_0(tmp_path):
    stacked = (*TINY, *settings(engine__executor="vectorized", rounds=2))
    assert call("simulate", *stacked, "--out", tmp_path / "alone").code == 0
    where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2"}
    other = (*TINY, *settings(engine__executor="loop", rounds=2))
    commands = [
        start("simulate", *sets, "--out", "run", cwd=tmp_path, env={**where, "RANK": str(rank)})
        for rank, sets in enumerate((stacked, other))
    ]
    assert [command.wait().code for command in commands] == [0, 0]
    assert read_history(tmp_path / "run").hashes == read_history(tmp_path / "alone").hashes


def test_a_rank_with_other_data_is_refused():
    state = ServerState(round=0, params=torch.zeros(2), integers=torch.zeros(0, dtype=torch.int64))
    opening = Opening(
        path=Path("run"),
        environment={"fingerprint": "another"},
        start=Start(state=state, clients={}),
        legacy=Legacy(),
        key=b"",
    )

    class Told(Alone):
        rank, size = 1, 2

        def gathered(self, own: bytes) -> list[bytes]:
            return [packed(opening), own]

    simulation = prepare(Experiment.model_validate({"partition": {"clients": 10}}))
    with pytest.raises(ConfigError, match="rank 1 has another model or other data than rank 0"):
        heard(simulation, Told())
