"""`roundel diff` says in what two runs differ, and from which round on."""

import json

from tests.commands import TINY, call
from tests.reports.made_runs import make_run, record


def test_two_runs_of_one_experiment_are_the_same_and_the_code_is_0(tmp_path):
    for name in ("a", "b"):
        call("simulate", *TINY, "-s", "rounds=2", "--out", tmp_path / name)
    ended = call("diff", tmp_path / "a", tmp_path / "b")
    assert (ended.code, ended.err) == (0, "")
    assert "the same parameters through round 2\n" in ended.out
    assert "that differ" not in ended.out


def test_runs_with_other_parameters_have_code_1_and_the_round_is_named(tmp_path):
    make_run(tmp_path / "a", record(1), record(2))
    make_run(tmp_path / "b", record(1), record(2, params_sha256="ff"), settings=["client.lr=0.5"])
    ended = call("diff", tmp_path / "a", tmp_path / "b")
    assert (ended.code, ended.err) == (1, "")
    assert "the same parameters through round 1; different from round 2 on\n" in ended.out
    assert "  client.lr  0.2  0.5\n" in ended.out


def test_json_is_one_object_and_has_the_same_code(tmp_path):
    make_run(tmp_path / "a", record(1))
    make_run(tmp_path / "b", record(1), record(2))
    ended = call("diff", tmp_path / "a", tmp_path / "b", "--json")
    assert ended.code == 1
    found = json.loads(ended.out)
    assert found["identical"] is False
    assert found["rounds"] == {"done": [1, 2], "common": 1, "first": None, "different": 0}


def test_a_run_that_is_not_there_is_one_sentence_and_code_2(tmp_path):
    make_run(tmp_path / "a", record(1))
    ended = call("diff", tmp_path / "a", tmp_path / "b")
    assert (ended.code, ended.out) == (2, "")
    assert ended.err == f"roundel: there is no run directory {tmp_path / 'b'}; check the path\n"
