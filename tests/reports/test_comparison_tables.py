"""The tables of a comparison's page."""

from dataclasses import replace

from roundel.reports.arms import Versus
from roundel.reports.comparison_tables import (
    every_seed,
    failed_runs,
    results,
    spreads,
    to_targets,
)
from roundel.reports.page_table import PageTable
from tests.reports.made_reports import made_report

ARMS = ("fedavg", "fedprox mu=0.1", "scaffold", "fedadam")


def texts(table: PageTable | None) -> list[list[str]]:
    assert table is not None
    return [[cell.text for cell in line.cells] for line in table.lines]


def heads(table: PageTable) -> list[str]:
    return [head.text for head in table.heads]


def test_results_have_a_row_for_each_arm_with_its_difference_from_the_baseline():
    report = made_report(seeds="3")
    table = results(report.rows, report.comparison.report, "Every arm")
    assert heads(table) == [
        *("arm", "accuracy", "minus fedavg"),
        *("bytes a round", "seconds a round *", "seeds"),
    ]
    # the finals of fedavg are 0.80, 0.81, 0.82: t = 4.303, half = 4.303 * 0.01 / sqrt(3) = 0.025
    assert texts(table)[0] == ["fedavg", "0.810", "-", "100.0 kB", "0.1", "3"]
    assert table.lines[0].cells[1].small == "[0.785, 0.835]"
    assert texts(table)[3][:3] == ["fedadam", "0.840", "+0.0300"]
    assert [line.first for line in table.lines] == [True, False, False, False]
    assert table.lines[0].cells[0].small == "baseline"
    assert table.lines[1].cells[0].small == "tuned"


def test_p_values_have_a_column_once_there_are_any():
    report = made_report(["fedavg", "fedprox"], seeds="3")
    versus = report.rows[1].versus["accuracy"]
    assert versus is not None
    tested = replace(
        report.rows[1], versus={"accuracy": Versus(paired=versus.paired, holm=0.0042)}, best=True
    )
    table = results([report.rows[0], tested], report.comparison.report, "Every arm")
    assert heads(table)[3] == "p (Holm)"
    assert [line[3] for line in texts(table)] == ["-", "0.004"]
    assert [line.cells[1].strong for line in table.lines] == [False, True]


def test_with_several_metrics_each_difference_says_of_what():
    report = made_report(["fedavg", "fedprox"], metrics=["accuracy", "loss"])
    table = results(report.rows, report.comparison.report, "Every arm")
    assert heads(table)[1:5] == [
        *("accuracy", "accuracy minus fedavg", "loss", "loss minus fedavg"),
    ]


def test_one_arm_alone_has_nothing_to_be_compared_with():
    report = made_report(["fedavg"], seeds="3")
    table = results(report.rows, report.comparison.report, "Every arm")
    assert heads(table)[:3] == ["arm", "accuracy", "bytes a round"]


def test_a_target_that_was_not_reached_says_so_and_sorts_last():
    rows = made_report(seeds="3").rows
    table = to_targets(rows, "Until the target")
    assert texts(table)[1] == ["fedprox mu=0.1", "accuracy 0.75", "13", "1.2 MB", "1.5", "3 of 3"]
    assert texts(table)[3][2:] == ["not reached", "-", "-", "0 of 3"]
    assert table is not None
    assert table.lines[3].cells[2].value is None
    assert to_targets([replace(row, targets=()) for row in rows], "Until the target") is None


def test_clients_are_told_by_arm_if_they_were_measured():
    rows = made_report(seeds="3").rows
    assert texts(spreads(rows, "Clients"))[0] == [
        *("fedavg", "0.3000", "0.5000", "0.8000", "0.9500", "0.0400"),
    ]
    assert spreads([replace(row, spread=None) for row in rows], "Clients") is None


def test_every_run_is_told_with_what_became_of_it():
    row = made_report(["fedavg"], seeds="3").rows[0]
    row = replace(
        row,
        finals={"accuracy": {0: 0.8, 1: None}},
        diverged=(1,),
        unfinished=(2,),
        failed={3: "out of memory"},
        seeds=2,
    )
    table = every_seed([row], "accuracy", [0, 1, 2, 3], "Every seed")
    assert [(cell.text, cell.small) for cell in table.lines[0].cells[1:]] == [
        *(("0.8000", ""), ("-", "diverged"), ("-", "unfinished"), ("-", "failed")),
    ]
    spec = made_report(["fedavg"]).comparison.report
    last = results([row], spec, "Every arm").lines[0].cells[-1]
    assert (last.text, last.small) == ("2", "1 failed, 1 diverged, 1 unfinished")
    assert texts(failed_runs([row])) == [["fedavg", "3", "out of memory"]]
    assert failed_runs([replace(row, failed={})]) is None
