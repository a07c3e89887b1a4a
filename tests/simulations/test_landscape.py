"""Slices through models whose loss is known everywhere."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from roundel.core.errors import ConfigError
from roundel.core.landscape import Landscape
from roundel.simulations import simulate
from roundel.simulations.landscape import Source, landscape
from roundel.simulations.walk import walk
from tests.simulations.bowls import PIECES, run_to


def drawn(*paths: Path, round: int | None = None, grid: int = 7) -> Landscape:
    sources = [Source(path=path, label=path.name) for path in paths]
    return landscape(sources, round=round, grid=grid, pieces=PIECES)


@pytest.fixture
def one(tmp_path) -> Path:
    run_to(tmp_path / "run")
    return tmp_path / "run"


def end_of(path: Path) -> np.ndarray:
    return walk(path, round=None, runs=1, tell=lambda *_: None, pieces=PIECES).end


def test_the_path_of_one_run_ends_in_the_centre(one):
    found = drawn(one)
    path = found.paths.slices[0].path
    assert path.numbers.tolist() == [0, 1, 2, 3, 4, 5]
    assert path.places[-1].tolist() == [0.0, 0.0]


def test_the_loss_on_the_plane_is_the_quadratic_that_it_is(one):
    # Each direction is as long as the model w, so with a step of h the loss bends by h^2 |w|^2.
    found, squared = drawn(one), (end_of(one) ** 2).sum()
    assert found.clients is not None
    for view in (found.paths, found.clients):
        losses = view.slices[0].losses
        for axis, grid in ((1, view.x), (0, view.y)):
            bend = np.diff(losses, n=2, axis=axis)
            step = grid[1] - grid[0]
            assert bend == pytest.approx(np.full(bend.shape, step**2 * squared), rel=1e-3, abs=1e-6)


def test_the_loss_where_the_model_lies_is_its_own(one):
    found = drawn(one, grid=3)
    slice_, view = found.paths.slices[0], found.paths
    # A quadratic through three points on each axis says what is between them.
    x = _parabola(view.x, np.array([0.0]))
    y = _parabola(view.y, np.array([0.0]))
    assert y @ slice_.losses @ x.T == pytest.approx(slice_.path.losses[-1], rel=1e-5)


def _parabola(nodes: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Weights by which values at three points make those of their parabola elsewhere."""
    return np.array(
        [
            np.prod([(at - other) / (node - other) for other in nodes if other != node], axis=0)
            for node in nodes
        ]
    ).T


def test_everything_that_is_shown_lies_in_the_window(one):
    found = drawn(one)
    assert found.clients is not None
    for view in (found.paths, found.clients):
        low, high = (view.x[0], view.y[0]), (view.x[-1], view.y[-1])
        for marks in (view.slices[0].path, view.slices[0].clients):
            assert (marks.places > low).all()
            assert (marks.places < high).all()
        wide, tall = view.x[-1] - view.x[0], view.y[-1] - view.y[0]
        assert tall == pytest.approx(0.55 * wide)


def test_around_the_last_model_lie_the_one_that_was_sent_and_what_clients_made_of_it(one):
    found = drawn(one)
    assert found.clients is not None
    slice_ = found.clients.slices[0]
    assert slice_.path.numbers.tolist() == [4, 5]
    assert slice_.path.places[1].tolist() == [0.0, 0.0]
    # Two clients and what they were sent span a plane of their own; each counts the same.
    assert found.clients.share > 0.5
    assert len(slice_.clients.numbers) == 2


def test_runs_that_are_drawn_together_share_the_plane(tmp_path):
    names = ["fedavg", "slow"]
    for name, lr in zip(names, ("0.5", "0.1"), strict=True):
        run_to(tmp_path / name, f"client.lr={lr}")
    found = drawn(*(tmp_path / name for name in names))
    assert [each.label for each in found.paths.slices] == names
    first, second = found.paths.slices
    assert first.path.places[0] == pytest.approx(second.path.places[0])  # the same initial model
    middle = (first.path.places[-1] + second.path.places[-1]) / 2
    assert middle == pytest.approx(np.zeros(2), abs=1e-12)
    assert found.clients is not None
    for each in found.clients.slices:
        assert each.path.places[-1].tolist() == [0.0, 0.0]


def test_drawn_again_it_is_the_same_to_the_last_bit(one):
    first, second = drawn(one).arrays(), drawn(one).arrays()
    assert list(first) == list(second)
    assert all(np.array_equal(first[name], second[name]) for name in first)


def test_an_earlier_round_is_as_if_the_run_had_ended_there(one):
    found = drawn(one, round=2)
    assert found.paths.slices[0].path.numbers.tolist() == [0, 1, 2]
    assert found.paths.slices[0].path.places[-1].tolist() == [0.0, 0.0]


def test_a_single_client_goes_one_way_only_and_has_no_plane(tmp_path):
    run_to(tmp_path / "run", "cohort.size=1")
    assert drawn(tmp_path / "run").clients is None


def test_one_round_is_a_line_and_one_sentence(one):
    with pytest.raises(ConfigError, match="went along one line, and a plane needs two directions"):
        drawn(one, round=1)


def test_runs_of_different_models_are_one_sentence(tmp_path):
    for model in ("mlp", "mlp-norm"):
        simulate(
            settings=["rounds=2", f"task.model={model}", "client.steps=1", "evaluation.clients=0"],
            out=tmp_path / model,
        )
    sources = [Source(path=tmp_path / model, label=model) for model in ("mlp", "mlp-norm")]
    with pytest.raises(ConfigError, match=r"mlp-norm has another model than .*mlp, and one plane"):
        landscape(sources, grid=3)


def test_how_far_it_is_is_told_for_each_slice(one):
    told: dict[str, list[tuple[int, int]]] = {}
    landscape(
        [Source(path=one, label="run")],
        grid=3,
        pieces=PIECES,
        tell=lambda what, done, of: told.setdefault(what, []).append((done, of)),
    )
    assert list(told) == [f"computing {one} again", "the loss around run"]
    assert told["the loss around run"] == 2 * [(done, 9) for done in range(1, 10)]
    assert all(a[0] + 1 == b[0] for a, b in pairwise(told[f"computing {one} again"]))
