"""`roundel resume` goes on with a run the way it began."""

import json

import pytest

from roundel.core.history import read_history
from roundel.simulations import deployed
from tests.commands import TINY, call, nodes_from_the_zygote

SETTINGS = (*TINY, "-s", "rounds=3", "-s", "checkpoint.every_s=0")


@pytest.fixture
def finished(tmp_path):
    path = tmp_path / "run"
    assert call("simulate", *SETTINGS, "--out", path).code == 0
    return path


def interrupt(path):
    """Leave the run as a kill in the last round would."""
    (path / "model.safetensors").unlink()
    (path / "checkpoints" / "round-000003.safetensors").unlink()
    for name in ("metrics.jsonl", "clients.jsonl"):
        lines = (path / name).read_text().splitlines(keepends=True)
        (path / name).write_text("".join(x for x in lines if json.loads(x)["round"] < 3))


def test_it_shows_the_rounds_that_were_left_and_the_summary(finished):
    hashes = read_history(finished).hashes
    interrupt(finished)
    ended = call("resume", finished)
    assert (ended.code, ended.err) == (0, "")
    first, *_, last = ended.out.splitlines()
    assert first.startswith("round 3/3  accuracy")
    assert last == f"results are in {finished}"
    assert read_history(finished).hashes == hashes


def test_json_prints_the_rounds_that_were_left_and_nothing_else(finished):
    interrupt(finished)
    ended = call("resume", finished, "--json")
    assert ended.code == 0
    assert [json.loads(line)["round"] for line in ended.out.splitlines()] == [3]
    assert f"results are in {finished}" in ended.err


def test_a_finished_run_is_left_as_it_is_and_summed_up(finished):
    before = {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()}
    ended = call("resume", finished)
    assert ended.code == 0
    assert "after 3 rounds" in ended.out
    assert {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()} == before


def test_rounds_after_the_checkpoint_are_computed_again_and_not_shown_again(finished):
    hashes = read_history(finished).hashes
    (finished / "model.safetensors").unlink()
    (finished / "checkpoints" / "round-000003.safetensors").unlink()
    ended = call("resume", finished)
    assert ended.code == 0
    assert "round 3/3" not in ended.out
    assert read_history(finished).hashes == hashes
    assert (finished / "model.safetensors").exists()


def test_a_run_over_node_processes_goes_on_over_as_many_of_them(tmp_path, monkeypatch):
    nodes_from_the_zygote(monkeypatch, deployed, tmp_path)
    path = tmp_path / "run"
    assert call("simulate", *SETTINGS, "--out", path, "--as-deployed", "--nodes", "2").code == 0
    hashes = read_history(path).hashes
    interrupt(path)
    for log in (path / "nodes").glob("*.log"):
        log.unlink()
    ended = call("resume", path)
    assert (ended.code, ended.err) == (0, "")
    assert read_history(path).hashes == hashes
    assert len(list((path / "nodes").glob("*.log"))) == 2
