"""The tables of a page of runs."""

from roundel.core.records import ClientRecord
from roundel.reports.run_report import read_runs
from roundel.reports.run_tables import by_class, lost_updates, overview, own_examples
from tests.reports.made_runs import make_run, record


def test_each_run_has_a_row_with_its_last_figures(tmp_path):
    make_run(tmp_path / "one", record(1), record(2), settings=["rounds=2"])
    make_run(tmp_path / "other", record(1), settings=["rounds=9"], finished=False)
    table = overview(read_runs([tmp_path / "one", tmp_path / "other"]))
    assert [head.text for head in table.heads][:5] == [
        *("run", "accuracy", "loss", "train_loss", "rounds"),
    ]
    first, second = ([cell.text for cell in line.cells] for line in table.lines)
    assert first == ["one", "0.2000", "0.5000", "0.7500", "2", "2.0 kB", "4.0 kB", "2", "1"]
    assert second == ["other", "0.1000", "1.0000", "0.7500", "1", "1.0 kB", "2.0 kB", "1", "0.5"]
    assert table.lines[1].cells[0].small == "unfinished"
    assert table.lines[1].cells[4].small == "of 9"


def test_clients_failures_and_classes_are_tables_if_there_are_any(tmp_path):
    clients = [
        ClientRecord(round=1, client=4, status="failed", reason="boom", location="mine.py:3"),
    ]
    own = {"asked": 3, "answered": 2, "accuracy": {"mean": 0.5, "p10": 0.25}}
    last = record(1, confusion=[[1, 0], [1, 2]], clients=own)
    make_run(tmp_path / "run", last, clients=clients)
    (run,) = read_runs([tmp_path / "run"])
    theirs = own_examples(run.found["clients"])
    assert theirs is not None
    assert theirs.caption.endswith("after round 1: 2 of 3 answered")
    assert [cell.text for cell in theirs.lines[0].cells] == ["accuracy", "0.5000", "0.2500"]
    lost = lost_updates(run.found["failures"])
    assert lost is not None
    assert [cell.text for cell in lost.lines[0].cells] == ["failed", "1", "1", "4", "boom"]
    assert lost.lines[0].cells[-1].small == "mine.py:3"
    classes = by_class(run.found["classes"])
    assert classes is not None
    assert [cell.text for cell in classes.lines[1].cells] == ["1", "3", "1.0000", "0.6667", "0"]


def test_what_is_not_there_is_no_table():
    assert own_examples(None) is None
    assert own_examples({"round": 1, "asked": 3}) is None
    assert lost_updates([]) is None
    assert by_class([]) is None
