"""The pictures of pages."""

from base64 import b64decode
from dataclasses import replace

from roundel.core.comparisonfile import FILE, dump_comparison
from roundel.reports.pictures import (
    Picture,
    comparison_pictures,
    run_pictures,
    run_strips,
)
from roundel.reports.run_report import read_runs
from tests.reports.made_reports import made_report
from tests.reports.made_runs import make_run, record


def test_the_address_of_a_picture_is_the_picture():
    found = Picture(svg="<svg>é</svg>", words="w")
    kind, _, content = found.source.partition(",")
    assert kind == "data:image/svg+xml;base64"
    assert b64decode(content).decode() == "<svg>é</svg>"
    assert found.narrow_source == ""
    assert replace(found, narrow="<svg/>").narrow_source.startswith("data:image/svg+xml;base64,")


def test_a_comparison_has_curves_differences_clients_and_the_first_partition(tmp_path):
    report = made_report(["fedavg", "fedprox"], path=tmp_path, targets=["accuracy=0.75"])
    (tmp_path / FILE).write_text(dump_comparison(report.comparison))
    cells = list(report.comparison.cells())
    place = tmp_path / cells[3].path  # the first ones have left nothing
    place.mkdir(parents=True)
    (place / "partition.svg").write_text("<svg>mine</svg>")
    found = comparison_pictures(report)
    assert [picture.caption for picture in found.curves] == [
        "accuracy: mean over seeds, with its 95 % interval; the dotted line is the target.",
    ]
    assert found.curves[0].narrow
    assert len(found.differences) == len(found.spreads) == 1
    assert [picture.svg for picture in found.partitions] == ["<svg>mine</svg>"]
    assert "with seed 1" in found.partitions[0].caption


def test_what_is_the_same_for_several_runs_is_shown_once(tmp_path):
    for name, picture in (("a", "<svg>1</svg>"), ("b", "<svg>1</svg>"), ("c", "<svg>2</svg>")):
        make_run(tmp_path / name, record(1))
        (tmp_path / name / "partition.svg").write_text(picture)
    runs = read_runs([tmp_path / name for name in "abc"])
    assert [strip.metric for strip in run_strips(runs)] == ["accuracy", "loss", "train_loss"]
    assert [len(strip.bands) for strip in run_strips(runs)] == [3, 3, 3]
    bare = [replace(run, bands=()) for run in runs]
    found = run_pictures(bare)
    assert [picture.svg if picture else None for picture in found.partitions] == [
        *("<svg>1</svg>", None, "<svg>2</svg>"),
    ]
    assert found.heats == (None, None, None)
