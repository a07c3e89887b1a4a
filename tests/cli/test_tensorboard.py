"""`--tensorboard` logs each round, and never stands in a run's way."""

import pytest
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from roundel.cli.tensorboard import logged
from roundel.core.history import read_history
from roundel.core.records import RoundReport
from roundel.reports import tensorboard
from tests.commands import TINY, call
from tests.reports.made_runs import record


def report(round: int, *, recomputed: bool = False) -> RoundReport:
    return RoundReport(record=record(round), recomputed=recomputed)


def logs(folder) -> list[tuple[int, dict[str, float]]]:
    """Step and figures of each event of each log in a folder, as TensorBoard reads them."""
    events = [e for file in sorted(folder.iterdir()) for e in EventFileLoader(str(file)).Load()]
    return [
        (event.step, {v.tag: round(v.tensor.float_val[0], 6) for v in event.summary.value})
        for event in events
        if event.summary.value
    ]


def test_each_round_is_in_the_log_as_soon_as_it_is_done(tmp_path):
    shown = []
    with logged(tmp_path, shown.append, wanted=True) as on_round:
        assert not (tmp_path / "tensorboard").exists()
        on_round(report(1))
        (first,) = logs(tmp_path / "tensorboard")
        assert first[0] == 1
        assert first[1]["test/accuracy"] == 0.1
        on_round(report(2))
        assert [step for step, _ in logs(tmp_path / "tensorboard")] == [1, 2]
    assert [one.record.round for one in shown] == [1, 2]


def test_a_round_that_was_logged_before_an_interruption_is_not_logged_again(tmp_path):
    for recomputed in (False, True):
        with logged(tmp_path, lambda _: None, wanted=True) as on_round:
            on_round(report(1, recomputed=recomputed))
    assert [step for step, _ in logs(tmp_path / "tensorboard")] == [1]


def test_without_the_option_nothing_is_logged(tmp_path):
    def show(_report):
        pass

    with logged(tmp_path, show, wanted=False) as on_round:
        assert on_round is show


def test_a_log_that_cannot_be_written_is_said_once_and_the_run_goes_on(tmp_path, capsys):
    (tmp_path / "tensorboard").touch()  # a file where the folder should be
    shown = []
    with logged(tmp_path, shown.append, wanted=True) as on_round:
        for number in (1, 2):
            on_round(report(number))
    assert [one.record.round for one in shown] == [1, 2]
    assert capsys.readouterr().err == (
        f"roundel: the log in {tmp_path / 'tensorboard'} cannot be written (File exists); the run "
        "goes on without it\n"
    )


def test_a_run_is_logged_from_the_command_line_and_ends_with_the_same_parameters(tmp_path):
    for options in ((), ("--tensorboard",)):
        out = tmp_path / f"run{len(options)}"
        ended = call("simulate", *TINY, "-s", "rounds=2", "--out", out, *options)
        assert (ended.code, ended.err) == (0, "")
    assert not (tmp_path / "run0" / "tensorboard").exists()
    assert [step for step, _ in logs(tmp_path / "run1" / "tensorboard")] == [1, 2]
    assert read_history(tmp_path / "run0").hashes == read_history(tmp_path / "run1").hashes


@pytest.mark.parametrize("verb", ["simulate", "serve"])
def test_a_missing_package_is_one_sentence_before_anything_runs(verb, tmp_path, monkeypatch):
    monkeypatch.setattr(tensorboard, "find_spec", lambda _name: None)
    ended = call(verb, *TINY, "--out", tmp_path / "run", "--tensorboard")
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith("roundel: --tensorboard needs the package tensorboard")
    assert "pip install 'roundel[tensorboard]'" in ended.err
    assert ended.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
