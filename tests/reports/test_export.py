"""Runs in the forms of other tools, each in a directory of its own."""

import pytest
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from roundel.core.errors import ConfigError, RunDirectoryError
from roundel.reports import trackers
from roundel.reports.export import export
from tests.reports.made_exports import BEGAN_S, made, made_comparison


def test_tensorboard_has_a_folder_for_each_run(tmp_path):
    assert export([made_comparison(tmp_path / "both")], "tensorboard", tmp_path / "out") == 3
    files = sorted(path for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert [str(file.relative_to(tmp_path / "out").parent) for file in files] == [
        "both/fedavg/seed-0",
        "both/fedavg/seed-1",
        "both/fedprox-mu=0.1/seed-0",
    ]
    _, *events = EventFileLoader(str(files[0])).Load()
    assert [(event.step, event.wall_time) for event in events] == [
        (1, BEGAN_S + 0.5),
        (2, BEGAN_S + 1.0),
    ]


def test_a_directory_that_is_taken_stays_as_it_is(tmp_path):
    path = made(tmp_path / "run")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    with pytest.raises(ConfigError, match="out is not empty; choose another directory with --out"):
        export([path], "csv", tmp_path / "out")
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["mine"]


def test_a_damaged_run_is_found_before_anything_is_written(tmp_path):
    paths = [made(tmp_path / name) for name in ("a", "b")]
    (paths[1] / "metrics.jsonl").write_text("nonsense\n")
    with pytest.raises(RunDirectoryError, match="is damaged in line 1"):
        export(paths, "csv", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_missing_package_is_found_first(tmp_path, monkeypatch):
    monkeypatch.setattr(trackers, "find_spec", lambda _name: None)
    with pytest.raises(ConfigError, match="--to wandb needs the package wandb"):
        export([tmp_path / "nowhere"], "wandb", tmp_path / "out")
    assert not (tmp_path / "out").exists()
