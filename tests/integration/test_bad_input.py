"""Bad input is one clear sentence and an honest exit code, and leaves nothing half-written."""

import json
import re
import shutil
import signal
from pathlib import Path

import pytest

from roundel.core.history import read_history
from roundel.core.rundir import RunDirectory
from roundel.core.runfiles import read_run
from tests.commands import TINY, Ended, call, run, settings, start

SPACE = 15_000
"""Enough for the pictures of a partition and not for the lines of many rounds."""
ENDLESS = (*TINY, "-s", "rounds=100000", "-s", "checkpoint.every_s=0.05")


def told(ended: Ended, sentence: str, code: int = 2) -> None:
    """Check that exactly one sentence was said, on stderr, and that it matches."""
    assert ended.code == code
    assert ended.out == ""
    assert ended.err.startswith("roundel: ")
    assert ended.err.count("\n") == 1
    assert re.search(sentence, ended.err), ended.err


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def _finished(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("finished") / "run"
    assert call("simulate", *TINY, "-s", "rounds=3", "--out", path).code == 0
    return path


@pytest.fixture
def finished(_finished, tmp_path) -> Path:
    """A run of three rounds, to do with as one likes."""
    return shutil.copytree(_finished, tmp_path / "run")


def contents(path: Path) -> dict[Path, bytes]:
    return {p: p.read_bytes() for p in path.rglob("*") if p.is_file() and p.name != ".lock"}


# ---- the experiment


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ("clint.lr=1", "clint is not a key; did you mean 'client'"),
        ("client.epoch=1", "client.epoch is not a key; did you mean 'epochs'"),
        ("rounds", "'rounds' is not a setting; write -s section.key=value"),
        ("rounds=0", "rounds = 0 is not allowed: it should be greater than 0"),
        ("rounds=many", "rounds = 'many' is not allowed"),
        ("cohort=5", "cohort = 5 is not allowed: set a key of it, such as cohort.size"),
        ("partition.alpha=0", "partition.alpha = 0 is not allowed: it should be greater than 0"),
        ("partition.alpha=-0.5", "partition.alpha = -0.5 is not allowed"),
        ("partition.alpha=nan", "partition.alpha = nan is not allowed"),
        ("partition.clients=4 cohort.size=5", "cohort.size = 5 is more than the population of 4"),
        ("partition.clients=5000", "need 5000 examples and the pool has 1442"),
        ("partition.test=0.6 partition.validation=0.4", "leaves no example to train on"),
        ("cohort.size=5 cohort.quorum=6", "cohort.quorum = 6 cannot be reached by a cohort of 5"),
        ("task.name=digit", "task.name = 'digit' is neither .* did you mean 'digits'"),
        ("task.name=nowhere:task", "there is no module 'nowhere'"),
        ("task.model=cn", "task.model = 'cn' is not a model of digits; did you mean 'cnn'"),
        ("strategy.name=scafold", "'scafold' is unknown; did you mean 'scaffold'"),
        ("strategy.server_rl=1", "server_rl is not a knob of fedavg; did you mean 'server_lr'"),
        ("strategy.name=fedprox strategy.mu=big", "strategy.mu = 'big' does not fit"),
        ("strategy.name=fedprox strategy.mu=-1", "mu = -1.0 must be a finite number"),
        ("client.optimizer=sdg", "client.optimizer = 'sdg' is not in torch.optim; did you mean"),
        ("client.optimizer=muon", "client.optimizer = 'muon' refuses its options: .* 2D"),
        ("client.optimizer=adam client.options.beta=1", "'adam' has no option 'beta'; did you"),
        (
            "strategy.name=scaffold client.optimizer=adam",
            "scaffold .* set client.optimizer = 'sgd'",
        ),
        ("client.epochs=1 client.steps=1", "both say how long to train; set one of them"),
        ("client.nesterov=true", "client.nesterov = true needs client.momentum above 0"),
    ],
)
def test_an_experiment_that_cannot_run_is_refused_before_anything_is_written(
    here, settings, sentence
):
    options = [part for setting in settings.split() for part in ("-s", setting)]
    told(call("simulate", *options), sentence)
    assert list(here.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"rounds = = 3", r"bad.toml is not a TOML file: .*line 1"),
        (b"\xff\xfe", r"cannot read the experiment file bad.toml: it is not text in UTF-8"),
        (b"[client]\nlearning = 1\n", r"client.learning is not a key"),
        (None, r"cannot read the experiment file bad.toml: No such file or directory"),
    ],
)
def test_an_experiment_file_that_cannot_be_read_is_refused(here, content, sentence):
    if content is not None:
        (here / "bad.toml").write_bytes(content)
    told(call("simulate", "bad.toml"), sentence)
    assert not (here / "runs").exists()


def test_more_nodes_than_clients_are_refused_before_anything_is_written(here):
    ended = call("simulate", *TINY, "--as-deployed", "--nodes", "5")
    told(ended, "--nodes 5 is more than the 4 clients to host")
    assert list(here.iterdir()) == []


# ---- where a run goes


def test_a_directory_that_holds_a_run_is_not_overwritten(finished):
    before = contents(finished)
    ended = call("simulate", *TINY, "--out", finished)
    told(ended, f"{finished} already holds a run; go on with it by `roundel resume {finished}`")
    assert contents(finished) == before


def test_a_directory_that_holds_something_else_is_left_alone(here):
    (here / "thesis.tex").write_text("years of work")
    told(call("simulate", *TINY, "--out", here), "is not an empty directory")
    assert [path.name for path in here.iterdir()] == ["thesis.tex"]


def test_an_empty_directory_is_good_enough(here):
    (here / "run").mkdir()
    assert call("simulate", *TINY, "-s", "rounds=1", "--out", here / "run").code == 0


@pytest.mark.parametrize("place", ["file", "file/run", "file/deeper/run"])
def test_a_run_cannot_go_where_a_file_is(here, place):
    (here / "file").write_text("a file")
    told(call("simulate", *TINY, "--out", place), f"{place}")
    assert contents(here) == {here / "file": b"a file"}


def test_a_run_cannot_go_into_a_directory_that_is_read_only(here):
    (here / "place").mkdir(mode=0o555)
    ended = run("simulate", *TINY, "--out", "place/run", cwd=here, obeys_permissions=True)
    told(ended, "cannot write place/run: Permission denied; .* choose another place with --out")
    assert list((here / "place").iterdir()) == []


def test_a_run_cannot_go_into_a_directory_that_is_closed(here):
    (here / "place").mkdir(mode=0o000)
    ended = run("simulate", *TINY, "--out", "place/run", cwd=here, obeys_permissions=True)
    told(ended, "cannot write place/run: Permission denied")


def test_a_disk_that_is_full_from_the_start_leaves_no_directory(here):
    ended = run("simulate", *TINY, "--out", "run", cwd=here, file_limit=300)
    told(ended, "cannot write run/environment.json: File too large; free some space")
    assert not (here / "run").exists()


# ---- going on with a run


def test_a_path_that_does_not_exist_cannot_be_resumed(here):
    told(call("resume", "nowhere"), "there is no run directory nowhere; check the path")
    assert list(here.iterdir()) == []


def test_a_directory_that_is_not_a_run_cannot_be_resumed(here):
    told(call("resume", here), "is not a run directory: it has no config.toml")
    assert list(here.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("config.toml", "rounds = = 3", "run is damaged: .*config.toml is not a TOML file"),
        ("config.toml", "rouns = 3", "run is damaged: rouns is not a key"),
        ("environment.json", "{", "run is damaged: environment.json cannot be read"),
        ("environment.json", "[]", "run is damaged: environment.json cannot be read"),
        ("environment.json", '{"schema_version": 1}', "environment.json cannot be read"),
        (
            "environment.json",
            '{"schema_version": 99, "run_id": "x", "engine": {}}',
            "was written in format 99, and this version of Roundel reads format 1",
        ),
        ("metrics.jsonl", "not json\n", "metrics.jsonl is damaged in line 1"),
        ("metrics.jsonl", "[1]\n", "metrics.jsonl is damaged in line 1"),
        ("metrics.jsonl", '{"round": 2, "params_sha256": "x"}\n', "damaged in line 1"),
        ("metrics.jsonl", '{"round": 1}\n', "metrics.jsonl is damaged in line 1"),
        ("clients.jsonl", "not json\n", "clients.jsonl is damaged in line 1"),
    ],
)
def test_a_damaged_run_is_not_gone_on_with(finished, name, content, sentence):
    (finished / name).write_text(content)
    (finished / "model.safetensors").unlink()
    before = contents(finished)
    told(call("resume", finished), sentence)
    assert contents(finished) == before


def test_a_run_is_not_gone_on_with_as_another_model(finished):
    config = finished / "config.toml"
    config.write_text(config.read_text().replace('model = "mlp"', 'model = "cnn"'))
    (finished / "model.safetensors").unlink()
    told(call("resume", finished), "began with another model or with other data")


def test_a_run_that_another_process_holds_is_refused(finished):
    (finished / "model.safetensors").unlink()
    with RunDirectory.open(finished):
        told(call("resume", finished), f"{finished} is in use by another process")
    assert call("resume", finished).code == 0


def test_of_two_processes_that_resume_a_run_the_second_is_refused(here):
    first = start("simulate", *ENDLESS, "--out", "run", cwd=here)
    first.wait_for("round 2/")
    first.send(signal.SIGKILL)
    first.wait()
    going_on = start("resume", "run", cwd=here)
    going_on.wait_for("round ")
    told(run("resume", "run", cwd=here), "run is in use by another process; wait for it or end it")
    assert going_on.poll() is None
    going_on.send(signal.SIGKILL)
    assert going_on.wait().code == -signal.SIGKILL


# ---- runs that are cut short


def whole(*sets: str, path: Path) -> list[str]:
    """The hashes of the same run when nothing happens to it."""
    assert call("simulate", *sets, "--out", path).code == 0
    return read_history(path).hashes


def test_a_disk_that_fills_up_keeps_whole_lines_and_the_run_goes_on_once_there_is_space(here):
    sets = (*TINY, *settings(rounds=40, cohort__size=1, checkpoint__every_s=3600))
    expected = whole(*sets, path=here / "whole")
    ended = run("simulate", *sets, "--out", "run", cwd=here, file_limit=SPACE)
    assert ended.code == 2
    assert re.fullmatch(
        r"roundel: cannot write run/(metrics|clients)\.jsonl: File too large; free some space.*\n",
        ended.err,
    )
    for name in ("metrics.jsonl", "clients.jsonl"):
        text = (here / "run" / name).read_text()
        assert text.endswith("\n")
        rounds = [json.loads(line)["round"] for line in text.splitlines()]
        assert rounds == list(range(1, len(rounds) + 1))
        assert 0 < len(rounds) < 40
    assert call("resume", "run").code == 0
    assert read_history(here / "run").hashes == expected


def test_a_checkpoint_that_does_not_fit_is_not_left_behind_in_pieces(here):
    sets = (*TINY, *settings(rounds=3, checkpoint__every_s=0))
    expected = whole(*sets, path=here / "whole")
    ended = run("simulate", *sets, "--out", "run", cwd=here, file_limit=10_000)
    assert ended.code == 2
    assert "cannot write run/checkpoints/round-000001.safetensors: File too large" in ended.err
    assert list((here / "run" / "checkpoints").iterdir()) == []
    assert call("resume", "run").code == 0
    assert read_history(here / "run").hashes == expected


def test_an_interrupted_run_says_how_to_go_on_and_ends_as_if_it_had_not_been(here):
    running = start("simulate", *ENDLESS, "--out", "run", cwd=here)
    running.wait_for("round 3/")
    running.send(signal.SIGINT)
    ended = running.wait()
    assert ended.code == 130
    assert ended.err == "roundel: interrupted; go on with `roundel resume run`\n"
    done = len(read_history(here / "run").rounds)
    shorten(here / "run", rounds=done + 2)
    resumed = call("resume", "run")
    assert (resumed.code, resumed.err) == (0, "")
    expected = whole(*TINY, "-s", f"rounds={done + 2}", path=here / "whole")
    assert read_history(here / "run").hashes == expected


def shorten(path: Path, rounds: int) -> None:
    """Let a run have so many rounds; nothing in these depends on how many are to come."""
    config = path / "config.toml"
    config.write_text(re.sub(r"(?m)^rounds = \d+", f"rounds = {rounds}", config.read_text()))
    assert read_run(path)[0].rounds == rounds


def test_a_run_of_which_every_client_fails_exits_with_1_and_the_traceback(here):
    (here / "mine.py").write_text(
        "from dataclasses import replace\n"
        "import torch\n"
        "from roundel.simulations.tasks.digits import digits\n"
        "def loss(outputs, targets):\n"
        "    if torch.is_grad_enabled():\n"
        "        raise ValueError('bad pixel')\n"
        "    return torch.nn.functional.cross_entropy(outputs, targets)\n"
        "def task():\n"
        "    return replace(digits(), loss=loss)\n"
    )
    ended = run("simulate", *TINY, "-s", "task.name=mine:task", "--out", "run", cwd=here)
    assert ended.code == 1
    assert "round 1" not in ended.out
    why, first, *rest = ended.err.splitlines()
    assert why == (
        "roundel: clients are trained one after another because a trial of it failed "
        "(ValueError: bad pixel)"
    )
    assert first.startswith("roundel: round 1 has 0 accepted of 2 updates and needs 1")
    assert f"ValueError: bad pixel ({here / 'mine.py'}:6)" in first
    assert "Traceback (most recent call last):" in rest
    assert rest[-1] == "ValueError: bad pixel"
