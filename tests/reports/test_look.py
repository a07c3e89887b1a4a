"""Figures look the same everywhere, and can be read in grey and on dark pages."""

import warnings

import matplotlib as mpl
import pytest
from PIL import Image

from roundel.reports.curves import Strip, column_figure
from roundel.reports.look import INK, legend_columns, looking, save, shown, styles, svg
from tests.reports.made_reports import made_band


def drawn(*labels: str):
    bands = tuple(made_band(label, 0.8, rounds=4) for label in labels)
    return column_figure(Strip(title="", metric="accuracy", bands=bands), styles(labels))


def test_eighteen_lines_differ_even_without_their_colours():
    found = styles([str(i) for i in range(18)])
    assert len({(str(style.dash), style.marker) for style in found.values()}) == 18
    assert found["0"].colour == INK
    assert (found["0"].dash, found["0"].marker) == ("-", "o")


def test_a_picture_is_as_wide_as_a_column_and_a_pdf_has_letters_that_journals_take(tmp_path):
    save(drawn("fedavg", "fedprox"), tmp_path / "curves")
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.width == 680  # 3.4 inches of 200 dots
    document = (tmp_path / "curves.pdf").read_bytes()
    assert b"/FontFile2" in document
    assert b"/Type3" not in document


@pytest.mark.slow
def test_neither_the_time_nor_the_settings_of_a_user_change_a_byte(tmp_path):
    before = dict(mpl.rcParams)
    save(drawn("fedavg"), tmp_path / "one")
    assert dict(mpl.rcParams) == before
    with mpl.rc_context({"lines.linewidth": 9.0, "font.size": 30.0, "pdf.fonttype": 3}):
        save(drawn("fedavg"), tmp_path / "other")
        assert mpl.rcParams["lines.linewidth"] == 9.0
    for suffix in (".png", ".pdf"):
        one, other = (tmp_path / (name + suffix) for name in ("one", "other"))
        assert one.read_bytes() == other.read_bytes()


def test_on_a_page_ink_follows_the_reader_and_titles_are_escaped():
    text = svg(drawn("fedavg"), "a < b & c")
    assert text.startswith("<svg ")
    assert "<title>a &lt; b &amp; c</title>" in text
    assert INK not in text.partition("</style>")[2]
    assert "currentColor" in text
    assert svg(drawn("fedavg"), "a < b & c") == text


def test_any_label_can_be_written():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        text = svg(drawn("_hidden", "cost $5 to $10", "a\nb", "学习", "<script>&"), "title")
    for written in ("_hidden", "cost $5 to $10", "a b", "学习", "&lt;script&gt;&amp;"):
        assert written in text
    assert "<script>" not in text


def test_labels_are_cut_before_they_leave_the_page():
    assert shown("fedprox mu=0.1") == "fedprox mu=0.1"
    assert shown("x" * 100) == "x" * 47 + "…"
    assert legend_columns(["short", "long"], 3.4) == 2
    assert legend_columns(["x" * 60, "y"], 3.4) == 1
    assert legend_columns(["six letters"] * 6, 5.9) == 3  # five would fit, and leave one below


def test_settings_are_put_back_if_drawing_fails():
    size = mpl.rcParams["font.size"]
    with pytest.raises(ZeroDivisionError), looking():
        _ = 1 / 0
    assert mpl.rcParams["font.size"] == size
