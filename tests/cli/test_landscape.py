"""`roundel landscape` computes runs again and draws them."""

import re
from pathlib import Path

import pytest

from roundel.core.comparisonfile import FILE, Said, dump_comparison, load_comparison
from tests.commands import TINY, call, settings

FILES = ["landscape.npz", "landscape.pdf", "landscape.png"]
SETS = (*TINY, *settings(rounds=3))


def test_a_picture_and_its_numbers_are_written_and_the_run_is_as_it_was(workplace):
    assert call("simulate", *SETS, "--out", "run").code == 0
    before = {path: path.stat().st_mtime_ns for path in Path("run").rglob("*")}
    ended = call("landscape", "run", "--grid", 3)
    assert (ended.code, ended.err) == (0, "")
    assert re.fullmatch(
        r"the plane holds \d+ % of the variance of the paths, the other one \d+ % of that of the "
        r"clients' steps; landscape/landscape.png, .pdf and .npz\n",
        ended.out,
    )
    assert sorted(path.name for path in Path("landscape").iterdir()) == FILES
    assert {path: path.stat().st_mtime_ns for path in Path("run").rglob("*")} == before


def test_a_comparison_stands_for_its_arms_with_the_first_seed(workplace, monkeypatch):
    import roundel.simulations.landscape as module

    comparison = load_comparison(None, Said(arms=["fedavg", "fedprox mu=0.1"], seeds="4,5"))
    Path("both").mkdir()
    Path("both", FILE).write_text(dump_comparison(comparison))
    cells = [cell for cell in comparison.cells() if cell.seed == 4]
    for cell in cells:
        where = Path("both") / cell.path
        where.mkdir(parents=True)
        (where / "config.toml").touch()
    asked = []

    def drawn(sources, **_more):
        asked.extend((str(source.path), source.label) for source in sources)
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "landscape", drawn)
    assert call("landscape", "both").code == 130
    assert asked == [
        (f"both/{cells[0].path}", "fedavg"),
        (f"both/{cells[1].path}", "fedprox mu=0.1"),
    ]


def test_a_comparison_without_runs_is_one_sentence(workplace):
    comparison = load_comparison(None, Said(arms=["fedavg", "scaffold"]))
    Path("both").mkdir()
    Path("both", FILE).write_text(dump_comparison(comparison))
    ended = call("landscape", "both")
    assert (ended.code, ended.out) == (2, "")
    assert ended.err == (
        "roundel: no run of both with seed 0 has begun; compute them with `roundel compare --out "
        "both`\n"
    )


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (("nowhere",), "there is no run directory nowhere; check the path"),
        (("run", "--round", 9), "run has recorded 3 rounds, and round 9 was asked for; choose"),
        (("run", "--grid", 2), "Invalid value for '--grid': 2 is not in the range 3<=x<=999"),
        ((), "Missing argument 'RUN...'"),
    ],
)
def test_what_cannot_be_drawn_is_one_sentence_and_code_2(workplace, args, sentence):
    assert call("simulate", *SETS, "--out", "run").code == 0
    ended = call("landscape", *args)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith(f"roundel: {sentence}")
    assert ended.err.count("\n") == 1
    assert not Path("landscape").exists()


def test_a_missing_package_is_one_sentence_before_anything_is_computed(workplace, monkeypatch):
    monkeypatch.setattr("roundel.cli.extras.find_spec", lambda _name: None)
    ended = call("landscape", "nowhere")
    assert ended.code == 2
    assert ended.err.startswith("roundel: roundel landscape needs the package")
