"""What `benchmarks/scale.py` measures, and what it makes of it."""

from importlib import import_module
from itertools import pairwise
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def scale(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return import_module("scale")


def test_axes_reach_from_small_to_large(scale):
    ends = {
        axis: [points(full=full)[end].value for full in (False, True) for end in (0, -1)]
        for axis, points in scale.AXES.items()
        if axis in {"cohort", "population"}
    }
    assert ends["cohort"] == [10, 10_000] * 2
    assert ends["population"] == [1_000, 1_000_000] * 2
    for points in scale.AXES.values():
        values = [point.value for point in points(full=True)]
        assert all(small < large for small, large in pairwise(values))


def test_parameters_are_counted_with_biases(scale):
    assert scale.parameters_of((64, 64, 10)) == 64 * 64 + 64 + 64 * 10 + 10


def test_a_point_is_measured_by_its_rounds(scale, monkeypatch):
    jobs = []

    def run(module, job):
        jobs.append(job)
        outcome = import_module("contenders.processes").Outcome
        return outcome(
            round_seconds=(0.4, 0.2, 0.3), cold_start_s=2.0, peak_rss_mb=300.0, weights=None
        )

    monkeypatch.setattr(scale, "run", run)
    point = scale.Point(axis="cohort", value=10, workload=scale.workload_of(10, 1_000), workers=2)
    row = scale.measure(point, scale.parser().parse_args(["--executor", "loop"]))
    assert (jobs[0].workers, jobs[0].executor) == (2, "loop")
    assert row["seconds_per_round"] == 0.3
    assert row["seconds_per_client"] == 0.03
    assert scale.line(row).split() == ["10", "0.3000", "30.000", "300", "2.00"]


def test_every_axis_is_drawn(scale, tmp_path):
    rows = [
        {"axis": axis, "value": value, "seconds_per_client": 0.1 / value, "peak_rss_mb": 300}
        for axis in scale.AXES
        for value in (1, 10)
    ]
    scale.draw(rows, tmp_path / "scale.png")
    assert (tmp_path / "scale.png").read_bytes().startswith(b"\x89PNG")
