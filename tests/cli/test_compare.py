"""`roundel compare`: a plan, the runs, a table and a page; what was begun goes on."""

import json
import os
import signal
from importlib import import_module
from pathlib import Path

import pytest

from roundel.cli import extras
from roundel.cli.compare import split
from roundel.core.comparisonfile import FILE, read_comparison
from roundel.core.runfiles import MODEL
from roundel.reports import write
from roundel.reports.comparison import read_report
from tests.commands import TINY, call, on_terminal, start

TWO = ("fedavg", "scaffold", *TINY, "-s", "rounds=2", "--seeds", "2", "--jobs", "1")


@pytest.fixture
def no_figures(monkeypatch):
    """Read the report and draw nothing, which takes seconds."""
    monkeypatch.setattr(write, "write_comparison", read_report)


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    path = tmp_path_factory.mktemp("compare") / "both"
    return path, call("compare", *TWO, "--out", path)


def test_it_shows_the_plan_the_partition_each_run_and_the_table(both):
    path, ended = both
    assert (ended.code, ended.err) == (0, "")
    plan, _, rest = ended.out.partition("partition with seed 0: dirichlet: 4 clients")
    assert plan.startswith(
        "2 arms x 2 seeds = 4 runs of 2 rounds\narms: fedavg (baseline), scaffold"
    )
    assert f"directory: {path}" in plan
    assert "one after another; how long that takes is said after the first rounds" in plan
    assert "[4/4] scaffold, seed 1  accuracy 0." in rest
    assert "difference from fedavg" in rest
    assert rest.endswith(f"results are in {path}; open {path / 'report.html'}\n")


def test_it_leaves_tables_figures_and_a_page(both):
    path, _ = both
    names = {file.name for file in path.iterdir()} - {".lock"}
    assert names == {
        *(FILE, "cells", "table.csv", "table.md", "table.tex"),
        *("curves.png", "curves.pdf", "report.html"),
    }


def test_the_command_that_the_report_prints_makes_the_same_figures(both, tmp_path, no_figures):
    import shlex

    from roundel.core.comparisonfile import command

    path, _ = both
    words = shlex.split(command(read_comparison(path)))[1:]
    assert call(*words, "--jobs", "2", "--out", tmp_path / "again").code == 0
    for run in path.glob("cells/*/seed-*"):
        again = tmp_path / "again" / run.relative_to(path)
        assert (again / MODEL).read_bytes() == (run / MODEL).read_bytes()


def test_a_comparison_that_has_ended_is_shown_again_and_nothing_is_run(both, no_figures):
    path, _ = both
    before = {file: file.stat().st_mtime_ns for file in path.rglob(MODEL)}
    ended = call("compare", "--out", path)
    assert ended.code == 0
    assert "already finished: 4; to go: 0" in ended.out
    assert "difference from fedavg" in ended.out
    assert {file: file.stat().st_mtime_ns for file in path.rglob(MODEL)} == before


def test_json_prints_one_object_a_run_and_nothing_else(tmp_path, no_figures):
    ended = call("compare", *TWO, "--json", "--out", tmp_path / "it")
    assert ended.code == 0
    lines = [json.loads(line) for line in ended.out.splitlines()]
    assert [(line["arm"], line["seed"], line["status"]) for line in lines] == [
        ("fedavg", 0, "finished"),
        ("scaffold", 0, "finished"),
        ("fedavg", 1, "finished"),
        ("scaffold", 1, "finished"),
    ]
    assert all(0 <= line["accuracy"] <= 1 and line["rounds"] == 2 for line in lines)
    assert "results are in" in ended.err


def test_a_run_that_crashes_is_reported_and_the_others_go_on(tmp_path, monkeypatch, no_figures):
    cells = import_module("roundel.simulations.cells")
    simulate = cells.simulate

    def crashing(experiment, **how):
        if experiment.strategy.name == "scaffold" and experiment.seed == 0:
            raise ValueError("no such thing")
        return simulate(experiment, **how)

    monkeypatch.setattr(cells, "simulate", crashing)
    ended = call("compare", *TWO, "--out", tmp_path / "it")
    assert ended.code == 1
    assert ended.err.startswith("[2/4] scaffold, seed 0 failed: ValueError: no such thing (")
    assert "[4/4] scaffold, seed 1  accuracy" in ended.out
    assert "ValueError: no such thing" in " ".join(ended.out.split())
    monkeypatch.setattr(cells, "simulate", simulate)
    ended = call("compare", "--out", tmp_path / "it")
    assert ended.code == 0
    assert "already finished: 3; to go: 1" in ended.out


def test_shards_leave_the_report_to_the_last(tmp_path, no_figures):
    first = call("compare", *TWO, "--shard", "1/2", "--out", tmp_path / "it")
    assert first.code == 0
    assert "here: 2 runs of this shard" in first.out
    assert first.out.endswith(
        f"2 runs are left to other processes; then `roundel report {tmp_path / 'it'}`\n"
    )
    assert "difference from fedavg" not in first.out
    last = call("compare", *TWO, "--shard", "2/2", "--out", tmp_path / "it")
    assert last.code == 0
    assert "difference from fedavg" in last.out


@pytest.mark.parametrize("jobs", [1, 2])
def test_who_interrupts_is_told_how_to_go_on(tmp_path, jobs):
    path = tmp_path / "it"
    words = (*TWO[:-2], "-s", "rounds=400", "--jobs", jobs, "--out", path)
    command = start("compare", *words, cwd=tmp_path)
    command.wait_for("to go")
    command.send(signal.SIGINT)
    ended = command.wait()
    assert ended.code == 130
    assert ended.err == f"roundel: interrupted; go on with `roundel compare --out {path}`\n"


@pytest.mark.slow
def test_a_killed_comparison_goes_on_where_it_stopped(tmp_path, no_figures):
    path = tmp_path / "it"
    words = (*TWO[:-2], "-s", "rounds=60", "--jobs", "2", "--out", path)
    command = start("compare", *words, cwd=tmp_path)
    command.wait_for(r"\[1/4\]")
    command.send(signal.SIGKILL)
    assert command.wait().code == -signal.SIGKILL
    ended = call("compare", "--out", path, "--jobs", "1")
    assert ended.code == 0
    assert "already finished: " in ended.out
    assert len(list(path.glob(f"cells/*/*/{MODEL}"))) == 4


def test_a_worker_that_is_killed_costs_its_run(tmp_path, monkeypatch, no_figures):
    cells = import_module("roundel.simulations.cells")
    simulate = cells.simulate

    def dying(experiment, **how):
        if experiment.strategy.name == "fedavg" and experiment.seed == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return simulate(experiment, **how)

    monkeypatch.setattr(cells, "simulate", dying)
    ended = call("compare", *TWO[:-1], "2", "--out", tmp_path / "it")
    assert ended.code == 1
    assert "fedavg, seed 1 failed: its process was ended by the signal SIGKILL" in ended.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["fedprox", "mu=0.1"], "to set a knob of fedprox, quote both: 'fedprox mu=0.1'"),
        (["one.toml", "two.toml"], "one.toml and two.toml are two files, and one is read"),
        (["fedavg", "--shard", "3"], "--shard '3' is no part; write which of how many, as in 3/8"),
        (["fedavg", "--shard", "3/2"], "there is no shard 3 of 2"),
        (["fedavg", "--grid", "partition.alpha="], "grid.partition.alpha = [] has no values"),
        (["fedavg nu=1"], "strategy.nu is not a knob of fedavg"),
        (["fedavg", "-s", "cohort.sise=3"], "cohort.sise is not a key; did you mean 'size'"),
        (["fedavg", "--target", "acuracy=0.9"], "the metric 'acuracy' is not among the figures"),
        (["fedavg", "--metric", "f2"], "the metric 'f2' is not among the figures of a round"),
        (["fedavg", "--baseline", "scaffold"], "the baseline 'scaffold' is no arm"),
        (["fedavg", "fedavg"], "two arms are called 'fedavg'"),
    ],
)
def test_bad_grids_fail_before_the_first_run_with_one_sentence(workplace, words, said):
    ended = call("compare", *words)
    assert ended.code == 2
    assert ended.out == ""
    assert ended.err.count("\n") == 1
    assert said in ended.err
    assert list(workplace.iterdir()) == []


def test_an_arm_may_end_like_a_file():
    words = ["fedavg label=plain.toml", "my file.toml"]
    assert split(words) == (Path("my file.toml"), ("fedavg label=plain.toml",))


def test_a_missing_package_is_said_before_anything_is_run(workplace, monkeypatch):
    monkeypatch.setattr(extras, "find_spec", lambda name: None if name == "scipy" else object())
    ended = call("compare")
    assert ended.code == 2
    assert "roundel compare needs the package scipy" in ended.err
    assert "`pip install 'roundel[report]'`" in ended.err
    assert list(workplace.iterdir()) == []


@pytest.mark.slow
def test_on_a_terminal_it_shows_each_run_and_what_is_left(tmp_path):
    words = (*TWO, "--shard", "1/2", "--out", tmp_path / "it")
    shown = on_terminal("compare", *words, cwd=tmp_path)
    assert shown.code == 0
    assert "partition with seed 0" in shown.text
    assert "runs 2/2" in shown.text
    assert "fedavg, seed 1  accuracy" in shown.text
    assert "2 runs are left to other processes" in shown.text


def test_a_file_says_what_is_compared(workplace, no_figures):
    settings = [word.replace("=", " = ") for word in TINY[1::2]]
    (workplace / "mine.toml").write_text(
        "\n".join(
            [*settings, "rounds = 1", "[grid]", "seeds = [7]", "[grid.fedprox]", "mu = [1, 2]"]
        )
        + "\n[[arms]]\nstrategy.name = 'fedprox'\n"
    )
    ended = call("compare", "mine.toml", "--jobs", "1", "--out", "it")
    assert (ended.code, ended.err) == (0, "")
    assert sorted(run.parent.name for run in workplace.glob("it/cells/*/seed-7")) == [
        "fedprox-mu=1",
        "fedprox-mu=2",
    ]


@pytest.mark.slow
def test_without_arguments_four_strategies_are_compared_within_90_seconds(tmp_path):
    import time

    began = time.monotonic()
    ended = start("compare", "--out", tmp_path / "it", cwd=tmp_path).wait()
    assert ended.code == 0
    assert time.monotonic() - began < 90
    assert [arm.label for arm in read_comparison(tmp_path / "it").arms] == [
        *("fedavg", "fedprox", "scaffold", "fedadam")
    ]
    assert "until accuracy 0.9 was reached" in ended.out
