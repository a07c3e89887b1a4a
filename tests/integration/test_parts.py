"""Strategies composed in the experiment file: written down, shown, resumed, deployed."""

import json
import tomllib

import pytest

from roundel.core.history import read_history
from roundel.simulations import deployed
from tests.commands import TINY, call, nodes_from_the_zygote

PARTS = 'strategy.parts=["scaffold", {name="prox", mu=0.25}]'
COMPOSED = (
    *TINY,
    "-s",
    "rounds=3",
    "-s",
    "client.steps=3",
    "-s",
    "checkpoint.every_s=0",
    "-s",
    "engine.executor=loop",
    "-s",
    PARTS,
)


@pytest.fixture
def finished(tmp_path):
    path = tmp_path / "run"
    ended = call("simulate", *COMPOSED, "--out", path)
    assert ended.code == 0, ended.err
    return path


def test_the_run_says_every_part_with_every_knob_and_the_file_reads_back(finished):
    said = tomllib.loads((finished / "config.toml").read_text())["strategy"]
    assert said["name"] == "fedavg"
    scaffold, prox = said["parts"]
    assert scaffold["name"] == "scaffold"
    assert scaffold["server_lr"] == 1.0
    assert prox == {"name": "prox", "mu": 0.25}
    again = finished.with_name("again")
    assert call("simulate", finished / "config.toml", "--out", again).code == 0
    assert read_history(again).hashes == read_history(finished).hashes


def test_the_parts_change_what_is_learned(finished):
    for name, parts in (("alone", "[]"), ("one", '["scaffold"]')):
        other = finished.with_name(name)
        settings = (*COMPOSED[:-1], f"strategy.parts={parts}")
        assert call("simulate", *settings, "--out", other).code == 0
        assert read_history(other).hashes[-1] != read_history(finished).hashes[-1]


def test_a_resumed_run_goes_on_with_its_parts(finished):
    hashes = read_history(finished).hashes
    (finished / "model.safetensors").unlink()
    (finished / "checkpoints" / "round-000003.safetensors").unlink()
    for name in ("metrics.jsonl", "clients.jsonl"):
        lines = (finished / name).read_text().splitlines(keepends=True)
        (finished / name).write_text("".join(x for x in lines if json.loads(x)["round"] < 3))
    assert call("resume", finished).code == 0
    assert read_history(finished).hashes == hashes


def test_runs_show_and_diff_name_the_composition(finished):
    (row,) = map(json.loads, call("runs", finished.parent, "--json").out.splitlines())
    assert row["strategy"] == "fedavg+scaffold+prox"
    first, *_ = call("show", finished).out.splitlines()
    assert first.startswith("experiment: fedavg (server_lr = 1.0) + scaffold (")
    assert " + prox (mu = 0.25) on digits" in first
    other = finished.with_name("other")
    stronger = COMPOSED[-1].replace("0.25", "0.5")
    assert call("simulate", *COMPOSED[:-1], stronger, "--out", other).code == 0
    found = json.loads(call("diff", finished, other, "--json").out)
    assert found["settings"] == {"strategy.parts[1].mu": [0.25, 0.5]}


def test_a_deployed_run_has_the_same_parts_and_the_same_bits(finished, tmp_path, monkeypatch):
    nodes_from_the_zygote(monkeypatch, deployed, tmp_path)
    over_grpc = tmp_path / "deployed"
    ended = call("simulate", *COMPOSED, "--as-deployed", "--nodes", 2, "--out", over_grpc)
    assert ended.code == 0, ended.err
    assert read_history(over_grpc).hashes == read_history(finished).hashes
    assert read_history(over_grpc).experiment.strategy == read_history(finished).experiment.strategy


@pytest.mark.parametrize(
    ("parts", "sentence"),
    [
        (
            "prox",
            "strategy.parts = 'prox' is not a list of names and tables; write '[\"prox\"]'",
        ),
        (
            "[3]",
            (
                "strategy.parts[0] = 3 is no part; write a name, or a table such as "
                '{name = "prox", mu = 0.1}'
            ),
        ),
        (
            '["prox", {nam="prox"}]',
            (
                "strategy.parts[1] = {'nam': 'prox'} does not say its name; write a name, or a "
                'table such as {name = "prox", mu = 0.1}'
            ),
        ),
        (
            '["scaffold", "proxx"]',
            "strategy.parts[1].name = 'proxx' is unknown; did you mean 'prox'?",
        ),
        (
            '["scaffold", {name="prox", mu="a"}]',
            (
                "strategy.parts[1].mu = 'a' does not fit: Input should be a valid number, unable "
                "to parse string as a number"
            ),
        ),
        (
            '[{name="scaffold", server=1}]',
            "strategy.parts[0].server is not a knob of scaffold; did you mean 'server_lr'?",
        ),
        (
            '[{name="prox", mu=-1}]',
            "strategy.parts[0].mu = -1.0 must be a finite number of at least 0",
        ),
    ],
)
def test_what_is_wrong_with_a_part_is_one_sentence_that_says_where(parts, sentence, tmp_path):
    ended = call("simulate", *TINY, "-s", f"strategy.parts={parts}", "--out", tmp_path / "run")
    assert (ended.code, ended.err) == (2, f"roundel: {sentence}\n")
