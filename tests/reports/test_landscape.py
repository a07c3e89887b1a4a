"""Pictures of landscapes whose numbers are made up."""

from dataclasses import replace

import numpy as np
import pytest
from matplotlib.colors import LogNorm

from roundel.core.landscape import Landscape, Marks, Slice, View
from roundel.reports.landscape import landscape_figure, write_landscape
from roundel.reports.look import COLUMN, PAGE


def made(*labels: str, lowest: float = 0.5, clients: bool = True) -> Landscape:
    x, y = np.linspace(-1, 1, 5), np.linspace(-0.5, 0.5, 5)
    losses = lowest + x[None] ** 2 + 2 * y[:, None] ** 2
    marks = Marks(
        numbers=np.array([0, 1, 2]),
        places=np.array([[-0.8, 0.2], [-0.4, 0.1], [0.0, 0.0]]),
        losses=np.array([1.2, 0.7, 0.5]),
    )
    slices = tuple(Slice(label=n, losses=losses, path=marks, clients=marks) for n in labels)
    view = View(x=x, y=y, share=0.924, slices=slices)
    return Landscape(
        examples=1234, paths=view, clients=replace(view, share=0.331) if clients else None
    )


def titles(found: Landscape) -> list[str]:
    return [axes.get_title(loc="left") for axes in landscape_figure(found).axes][:-1]


def test_one_run_is_as_wide_as_a_column_with_its_views_above_each_other():
    found = landscape_figure(made("fedavg"))
    assert found.get_figwidth() == COLUMN
    assert titles(made("fedavg")) == [
        "fedavg\nglobal model; plane holds 92 % of the paths' variance",
        "fedavg\nround 2; plane holds 33 % of clients' variance",
    ]
    assert found.axes[-1].get_xlabel() == "loss on 1,234 held-out examples"


def test_several_runs_are_rows_as_wide_as_a_page():
    assert landscape_figure(made("a", "b")).get_figwidth() == PAGE
    firsts = [title.partition("\n")[0] for title in titles(made("a", "b"))]
    assert firsts == ["a", "a", "b", "b"]


def test_without_clients_there_is_one_view():
    assert len(titles(made("a", clients=False))) == 1
    assert len(titles(made("a", "b", clients=False))) == 2


def test_panels_share_their_axes():
    *panels, _ = landscape_figure(made("a", "b", "c")).axes
    assert {(axes.get_xlim(), axes.get_ylim()) for axes in panels} == {((-1, 1), (-0.5, 0.5))}


def test_colours_are_logarithmic_where_losses_are_positive():
    def scale(found: Landscape) -> object:
        return landscape_figure(found).axes[0].collections[0].norm

    assert isinstance(scale(made("a")), LogNorm)
    assert not isinstance(scale(made("a", lowest=-1.0)), LogNorm)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30])
def test_a_loss_that_is_none_or_enormous_leaves_the_rest_to_be_seen(value):
    found = made("a")
    found.paths.slices[0].losses[0, 0] = value
    found.paths.slices[0].clients.losses[0] = np.nan
    norm = landscape_figure(found).axes[0].collections[0].norm
    assert norm.vmax == pytest.approx(1.5 * 0.7)  # of what is left


def test_a_loss_that_is_the_same_everywhere_can_be_drawn():
    found = made("a", clients=False)
    found.paths.slices[0].losses[:] = 0.5
    for marks in (found.paths.slices[0].path, found.paths.slices[0].clients):
        marks.losses[:] = 0.5
    landscape_figure(found)


@pytest.mark.slow
def test_files_are_written_and_the_same_again(tmp_path):
    names = ["landscape.npz", "landscape.pdf", "landscape.png"]
    for place in ("first", "second"):
        (tmp_path / place).mkdir()
        write_landscape(made("a"), tmp_path / place)
        assert sorted(path.name for path in (tmp_path / place).iterdir()) == names
    first, second = ([(tmp_path / p / n).read_bytes() for n in names] for p in ("first", "second"))
    assert first == second
    with np.load(tmp_path / "first" / "landscape.npz", allow_pickle=False) as archive:
        assert archive["labels"].tolist() == ["a"]
        assert archive["paths/0/path/losses"].tolist() == [1.2, 0.7, 0.5]
