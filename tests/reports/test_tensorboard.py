"""Files of events, as TensorBoard itself reads them."""

import pytest
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from roundel.core.errors import ConfigError
from roundel.reports import tensorboard
from roundel.reports.tensorboard import EventFile, need_tensorboard


def test_tensorboard_reads_steps_figures_and_times(tmp_path):
    path = tmp_path / "events.out.tfevents.0"
    file = EventFile(path, 100.0)
    file.add(1, {"test/accuracy": 0.5, "test/loss": 2.0}, 101.5)
    file.add(3, {"test/loss": 1.0}, 103.0)
    file.close()
    begin, *events = EventFileLoader(str(path)).Load()
    assert (begin.wall_time, begin.file_version) == (100.0, "brain.Event:2")
    assert [
        (event.step, event.wall_time, {v.tag: v.tensor.float_val[0] for v in event.summary.value})
        for event in events
    ] == [(1, 101.5, {"test/accuracy": 0.5, "test/loss": 2.0}), (3, 103.0, {"test/loss": 1.0})]


def test_a_file_that_is_there_is_not_written_over(tmp_path):
    (tmp_path / "events").write_text("mine")
    with pytest.raises(FileExistsError):
        EventFile(tmp_path / "events", 0.0)
    assert (tmp_path / "events").read_text() == "mine"


def test_a_missing_package_is_one_sentence(monkeypatch):
    need_tensorboard("this")
    monkeypatch.setattr(tensorboard, "find_spec", lambda _name: None)
    with pytest.raises(ConfigError, match="this needs the package tensorboard, which is not inst"):
        need_tensorboard("this")
