"""The same figures on a terminal, in a spreadsheet, in Markdown and in LaTeX."""

import csv
import io
import re
from dataclasses import replace

import pytest
from rich.console import Console

from roundel.reports.arms import make_rows
from roundel.reports.comparison import ComparisonReport
from roundel.reports.findings import findings
from roundel.reports.tables import csv_text, latex, markdown, sheets, terminal
from tests.reports.made_cells import accuracies, comparison
from tests.reports.made_reports import made_report

FINALS = {
    "fedavg": [0.80, 0.82, 0.78, 0.81, 0.79],
    "fedprox mu=0.1": [0.81, 0.81, 0.78, 0.80, 0.80],
    "scaffold": [0.90, 0.93, 0.87, 0.91, 0.90],
    "fedadam server_lr=0.03": [0.84, 0.80, 0.81, 0.83, 0.77],
}


def report(**said: object) -> ComparisonReport:
    """Five seeds of four arms."""
    made = comparison(*FINALS, seeds="5", **said)
    rows = make_rows(made, accuracies(made, FINALS))
    return replace(
        made_report(), comparison=made, rows=rows, findings=findings(made, rows), notes=("mind",)
    )


REPORT = report()


def shown(report: ComparisonReport, width: int = 80) -> str:
    console = Console(width=width, file=io.StringIO(), color_system=None)
    with console.capture() as captured:
        console.print(terminal(report))
    return captured.get()


def test_the_terminal_shows_figures_with_intervals_in_80_columns() -> None:
    lines = [line.rstrip() for line in shown(REPORT).splitlines()]
    assert lines[:6] == [
        "accuracy, mean of the last 5% of the rounds; 95% intervals over 5 seeds",
        "arm                                 accuracy   difference from fedavg   Holm p",
        "fedavg                  0.800 [0.780, 0.820]                 baseline        -",
        "fedprox mu=0.1          0.800 [0.785, 0.815]   0.000 [-0.012, +0.012]    1.000",
        "scaffold                0.902 [0.875, 0.929]  +0.102 [+0.092, +0.112]  < 0.001",
        "fedadam server_lr=0.03  0.810 [0.776, 0.844]  +0.010 [-0.025, +0.045]    0.947",
    ]


def test_the_terminal_ends_with_what_was_found() -> None:
    assert "scaffold is better than fedavg by 0.102 [0.092, 0.112]" in shown(REPORT)
    assert shown(REPORT).rstrip().endswith("note: mind")


def test_long_labels_break_and_figures_do_not() -> None:
    made = made_report([f"fedprox label={'x' * 60}", "fedavg"], seeds="3")
    assert "0.810 [0.785, 0.835]" in shown(made)


def test_only_what_is_shown_to_be_best_is_bold() -> None:
    bold = re.findall(r"\*\*(.+?)\*\*", markdown(REPORT))
    assert bold == ["scaffold", "0.902 [0.875, 0.929]"]
    assert re.findall(r"\\textbf\{(.+?)\}", latex(REPORT)) == bold
    assert "**" not in markdown(made_report(seeds="3"))


def test_there_is_a_table_for_each_metric_cost_target_and_the_clients() -> None:
    made = made_report(seeds="3", metrics=["accuracy", "loss"], targets=["accuracy=0.75"])
    titles = [sheet.title.split(",")[0] for sheet in sheets(made)]
    assert titles == [
        "accuracy",
        "loss",
        "what it took",
        "until accuracy 0.75 was reached",
        "accuracy over clients",
    ]
    target = next(sheet for sheet in sheets(made) if sheet.title.startswith("until"))
    assert target.head == ("arm", "reached", "rounds", "bytes", "seconds")
    assert target.rows[0] == ("fedavg", "3 of 3", "12", "1.2 MB", "1.5")
    assert target.rows[3] == ("fedadam", "0 of 3", "-", "-", "-")


def test_what_is_missing_stands_beside_the_number_of_seeds() -> None:
    made = made_report(seeds="3", failed={1: "broken"})
    costs = next(sheet for sheet in sheets(made) if sheet.title == "what it took")
    assert costs.rows[2][:4] == ("scaffold", "3, 1 failed", "40", "200.0 kB")


def test_one_arm_is_compared_with_nothing() -> None:
    alone = made_report(["fedavg"], seeds="1")
    assert next(sheets(alone)).head == ("arm", "accuracy")
    assert next(sheets(alone)).rows == (("fedavg", "0.8000"),)


def test_several_problems_have_tables_of_their_own() -> None:
    several = made_report(seeds="3", grid=["partition.alpha=0.1,1.0"])
    captions = [sheet.caption for sheet in sheets(several) if "took" in sheet.title]
    assert captions == ["alpha=0.1: what it took", "alpha=1.0: what it took"]


def test_csv_has_a_row_for_each_arm_with_all_digits() -> None:
    rows = list(csv.DictReader(io.StringIO(csv_text(REPORT))))
    assert [row["arm"] for row in rows] == list(FINALS)
    scaffold = rows[2]
    row = REPORT.rows[2]
    assert row.figures["accuracy"] is not None
    assert row.versus["accuracy"] is not None
    assert float(scaffold["accuracy"]) == row.figures["accuracy"].mean
    assert float(scaffold["accuracy_low"]) == row.figures["accuracy"].low
    assert float(scaffold["accuracy_p_holm"]) == row.versus["accuracy"].holm
    assert scaffold["accuracy_seed_4"] == "0.9"
    assert (scaffold["best"], scaffold["baseline"], rows[0]["baseline"]) == ("1", "0", "1")
    assert rows[0]["accuracy_difference"] == ""


def test_what_a_clock_measured_has_seconds_in_its_name() -> None:
    made = made_report(seeds="3", targets=["accuracy=0.75"])
    (head, *_) = csv.reader(io.StringIO(csv_text(made)))
    assert [name for name in head if "second" in name] == [
        "seconds_to_accuracy_0.75",
        "seconds_per_round",
    ]


def test_markdown_has_as_many_cells_in_each_row_and_escapes_labels() -> None:
    text = markdown(made_report(["fedavg label=a|b", "scaffold label=s_1*"], seeds="3"))
    assert r"| a\|b |" in text
    assert r"| s\_1\* |" in text
    for table in re.findall(r"(?:^\|.*\|\n)+", text, re.MULTILINE):
        cells = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
        assert len(cells) == 1


def test_markdown_ends_with_the_command_that_makes_it_again() -> None:
    made = made_report(seeds="3")
    assert markdown(made).endswith(f"Made again by:\n\n    {made.command}\n")


def parsed(text: str) -> list[list[list[str]]]:
    """The cells of each tabular; what LaTeX would stumble over fails."""
    text = "\n".join(line for line in text.splitlines() if not line.startswith("%"))
    tables = []
    form = r"\\begin\{tabular\}\{(l?r*)\}\n\\toprule\n(.*?)\n\\bottomrule\n\\end\{tabular\}"
    for columns, body in re.findall(form, text, re.DOTALL):
        rows = [line for line in body.splitlines() if line != r"\midrule"]
        assert all(row.endswith(r" \\") for row in rows)
        assert not any(row.startswith("[") for row in rows)
        cells = [re.split(r"(?<!\\)&", row.removesuffix(r" \\")) for row in rows]
        assert {len(row) for row in cells} == {len(columns)}
        for cell in (cell for row in cells for cell in row):
            assert not re.search(r"(?<!\\)[%#_]", cell)
            assert cell.count("{") - cell.count(r"\{") == cell.count("}") - cell.count(r"\}")
            assert (cell.count("$") - cell.count(r"\$")) % 2 == 0
        tables.append([[cell.strip() for cell in row] for row in cells])
    assert len(tables) == text.count(r"\begin{tabular}")
    return tables


@pytest.mark.parametrize("label", ["a_b", "50%", "x&y", "[a]", "#1", "a^b~c", "c:\\d", "{x}", "$5"])
def test_latex_is_sound_whatever_an_arm_is_called(label: str) -> None:
    made = made_report(seeds="3")
    (sheet, *_) = parsed(latex(replace(made, rows=(replace(made.rows[0], arm=label),))))
    assert sheet[1][1].startswith("0.810 [")


def test_latex_has_the_figures_and_real_minus_signs() -> None:
    figures, costs = parsed(latex(REPORT))
    assert figures[2][1:3] == ["0.800 [0.785, 0.815]", "0.000 [$-$0.012, +0.012]"]
    assert figures[4][0] == r"fedadam server\_lr=0.03"
    assert len(costs) == 5
