"""Reports are written from files alone, as often as one likes."""

from pathlib import Path

import pytest

from roundel.core.comparison import Comparison
from roundel.core.comparisonfile import FILE, dump_comparison
from roundel.core.errors import ConfigError, RunDirectoryError
from roundel.reports.write import write_comparison, write_runs
from tests.reports.made_reports import made_comparison
from tests.reports.made_runs import make_run, record

OF_A_COMPARISON = {
    *("table.csv", "table.md", "table.tex"),
    *("curves.png", "curves.pdf", "report.html"),
}


def begin(place: Path) -> Comparison:
    """A comparison of which nothing has run."""
    comparison = made_comparison(["fedavg", "fedprox"], seeds="2", settings=["rounds=2"])
    place.mkdir()
    (place / FILE).write_text(dump_comparison(comparison))
    return comparison


def content(place: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in place.iterdir() if path.is_file()}


def test_a_comparison_is_written_beside_its_files_and_the_same_again_elsewhere(tmp_path):
    comparison = begin(tmp_path / "c")
    for cell in list(comparison.cells())[:3]:
        path = tmp_path / "c" / cell.path
        path.parent.mkdir(parents=True, exist_ok=True)
        make_run(path, record(1), record(2), settings=["rounds=2", f"seed={cell.seed}"])
    report = write_comparison(tmp_path / "c")
    assert (report.finished, report.cells) == (3, 4)
    written = content(tmp_path / "c")
    assert written.keys() == OF_A_COMPARISON | {FILE}
    assert b"3 of 4 runs have finished" in written["report.html"]
    write_comparison(tmp_path / "c", tmp_path / "new" / "place")
    again = content(tmp_path / "new" / "place")
    assert again.keys() == OF_A_COMPARISON
    assert {name: written[name] for name in again} == again


def test_a_comparison_of_which_nothing_has_run_is_a_page_without_curves(tmp_path):
    begin(tmp_path / "c")
    assert write_comparison(tmp_path / "c").finished == 0
    curves = {"curves.png", "curves.pdf"}
    assert content(tmp_path / "c").keys() == {FILE, *OF_A_COMPARISON} - curves


def test_a_run_is_written_into_its_directory_and_several_where_it_is_said(tmp_path):
    for name in ("one", "two"):
        make_run(tmp_path / name, record(1, metrics={"accuracy": 0.5}, train_loss=None))
    assert write_runs([tmp_path / "one"]) == tmp_path / "one" / "report.html"
    assert (tmp_path / "one" / "curves.pdf").exists()
    both = [tmp_path / "one", tmp_path / "two"]
    with pytest.raises(ConfigError, match=r"2 runs make one report.*with --out DIR"):
        write_runs(both)
    assert write_runs(both, tmp_path / "both") == tmp_path / "both" / "report.html"
    assert content(tmp_path / "both").keys() == {"report.html", "curves.png", "curves.pdf"}


def test_what_cannot_be_read_or_written_is_one_sentence(tmp_path):
    with pytest.raises(RunDirectoryError, match="is not the directory of a comparison"):
        write_comparison(tmp_path)
    make_run(tmp_path / "run", record(1))
    (tmp_path / "file").touch()
    with pytest.raises(RunDirectoryError, match=r"cannot write .*file"):
        write_runs([tmp_path / "run"], tmp_path / "file")
