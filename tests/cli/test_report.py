"""`roundel report` writes what there is to see of a comparison or of runs."""

import sys

import pytest

from roundel.core.comparisonfile import FILE, dump_comparison
from tests.commands import TINY, call
from tests.reports.made_reports import made_comparison
from tests.reports.made_runs import make_run, record


def test_a_real_run_gets_a_page_with_its_clients_and_its_partition(tmp_path):
    run = tmp_path / "run"
    call("simulate", *TINY, "-s", "rounds=2", "-s", "faults.fail=0.5", "--out", run)
    ended = call("report", run)
    assert (ended.code, ended.err) == (0, "")
    assert ended.out == f"the report is {run / 'report.html'}; open it in a browser\n"
    page = (run / "report.html").read_text()
    assert "Clients, round by round" in page
    assert "Who has which examples" in page
    assert "it failed on purpose (faults.fail)" in page
    assert call("show", run).code == 0  # a report is in nobody's way


def test_a_comparison_is_known_by_its_file(tmp_path):
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / FILE).write_text(dump_comparison(made_comparison()))
    ended = call("report", tmp_path / "c", "--out", tmp_path / "elsewhere")
    assert (ended.code, ended.err) == (0, "")
    assert (tmp_path / "elsewhere" / "table.csv").exists()
    assert not (tmp_path / "c" / "report.html").exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["absent"], "there is no run directory absent; check the path"),
        (["run", "c"], "c is a comparison, whose report is its own; give it alone, or only runs"),
        (["run", "run"], "2 runs make one report, which belongs to none of them"),
        ([], "Missing argument 'DIR...'"),
    ],
)
def test_what_cannot_be_reported_is_one_sentence_and_code_2(
    tmp_path, monkeypatch, arguments, sentence
):
    monkeypatch.chdir(tmp_path)
    make_run(tmp_path / "run", record(1))
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / FILE).write_text(dump_comparison(made_comparison()))
    ended = call("report", *arguments)
    assert (ended.code, ended.out) == (2, "")
    assert sentence in ended.err


def test_without_the_packages_it_says_how_to_get_them(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    ended = call("report", tmp_path)
    assert ended.code == 2
    assert "pip install 'roundel[report]'" in ended.err
