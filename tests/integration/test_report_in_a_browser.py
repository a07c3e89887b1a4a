"""A page in a real browser: it is seen, says no error, and asks for nothing."""

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from roundel.core.comparisonfile import FILE, dump_comparison
from roundel.reports.write import write_comparison, write_runs
from roundel.simulations.simulate import simulate
from tests.browser import Browser, browser
from tests.reports.made_reports import made_comparison

pytestmark = pytest.mark.slow

EVIL = "<script>document.title = 'broken'</script>"


@pytest.fixture(scope="module")
def pages(tmp_path_factory) -> dict[str, Path]:
    """The page of a comparison, and that of two of its runs."""
    place = tmp_path_factory.mktemp("compared")
    comparison = made_comparison(
        ["fedavg", f'fedprox label="{EVIL}"'],
        seeds="3",
        settings=["rounds=4", "partition.clients=8", "cohort.size=4", "client.steps=2"],
        targets=["accuracy=0.1"],
    )
    (place / FILE).write_text(dump_comparison(comparison))
    paths = [place / cell.path for cell in comparison.cells()]
    for cell, path in zip(comparison.cells(), paths, strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        simulate(comparison.experiment(cell), out=path)
    write_comparison(place)
    runs = write_runs(paths[:2], place / "runs")
    return {"comparison": place / "report.html", "runs": runs}


@pytest.fixture(scope="module")
def window(tmp_path_factory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("browser")) as found:
        yield found


@pytest.mark.parametrize("kind", ["comparison", "runs"])
@pytest.mark.parametrize(
    ("width", "media", "scheme"),
    [
        (1100, "screen", "light"),
        (1100, "screen", "dark"),
        (400, "screen", "light"),
        (720, "print", "light"),
    ],
)
def test_a_page_is_seen_and_asks_for_nothing(pages, window, kind, width, media, scheme):
    window.show_as(width=width, media=media, scheme=scheme)
    window.open(pages[kind])
    with Image.open(io.BytesIO(window.screenshot())) as picture:
        shades = np.asarray(picture.convert("L"))
    assert len(np.unique(shades)) > 50  # there is something on it
    assert np.median(shades) > 230 if scheme == "light" else np.median(shades) < 40
    assert window.complaints() == []
    asked = [address for address in window.requests() if not address.startswith("data:")]
    assert asked == [pages[kind].as_uri()]
    assert window.evaluate("document.title") != "broken"
    images = "[...document.images].map((image) => image.complete && image.naturalWidth > 0)"
    assert window.evaluate(images)
    assert all(window.evaluate(images))
    too_wide = "document.documentElement.scrollWidth > innerWidth"
    assert media == "print" or not window.evaluate(too_wide)


def column(window: Browser, table: int, place: int) -> list[str]:
    found: list[str] = window.evaluate(
        f"[...document.querySelectorAll('table.sortable')[{table}].tBodies[0].rows]"
        f".map((row) => row.cells[{place}].firstChild.textContent.trim())"
    )
    return found


def test_a_heading_sorts_its_table_and_says_so(pages, window):
    window.open(pages["comparison"])
    button = "document.querySelector('table.sortable').tHead.rows[0].cells[1].firstChild"
    for direction in ("ascending", "descending"):
        window.evaluate(f"{button}.click()")
        assert window.evaluate(f"{button}.parentElement.ariaSort") == direction
        numbers = [float(text) for text in column(window, 0, 1)]
        assert numbers == sorted(numbers, reverse=direction == "descending")
    assert sorted(column(window, 0, 0)) == [EVIL, "fedavg"]


def test_the_command_is_copied_or_selected(pages, window):
    window.open(pages["comparison"])
    window.evaluate("document.querySelector('button.copy').click()")
    window.evaluate("new Promise((done) => setTimeout(done, 200))")
    said = window.evaluate("document.querySelector('button.copy').textContent")
    assert said in {"Copied", "Selected: press Ctrl+C"}
    assert window.complaints() == []
