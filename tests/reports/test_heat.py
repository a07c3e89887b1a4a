"""Clients by rounds."""

from typing import Any

import numpy as np
from matplotlib.colors import LogNorm

from roundel.reports.heat import heat, heat_figure
from tests.reports.made_reports import xs


def line(round: int, client: int, loss: float | None = 1.0, **changes: Any) -> dict[str, Any]:
    return {"round": round, "client": client, "status": "accepted", "train_loss": loss} | changes


def test_a_cell_is_the_loss_of_a_client_in_a_round():
    found = heat([line(1, 7, 2.0), line(2, 3, 0.5), line(2, 7, 1.0)], 2)
    assert found is not None
    assert found.clients == (3, 7)
    np.testing.assert_array_equal(found.loss, [[np.nan, 0.5], [2.0, 1.0]])
    assert not found.lost.any()


def test_an_update_that_does_not_count_is_marked_and_has_no_loss():
    found = heat([line(1, 0), line(2, 0, None, status="failed", reason="late")], 2)
    assert found is not None
    np.testing.assert_array_equal(found.lost, [[False, True]])
    assert np.isnan(found.loss[0, 1])


def test_many_clients_and_rounds_share_cells():
    lines = [line(round, client, client % 2) for round in (1, 800) for client in range(300)]
    found = heat(lines, 800)
    assert found is not None
    assert found.loss.shape == (150, 400)
    assert (found.clients_a_row, found.rounds_a_column) == (2, 2)
    assert found.clients[:3] == (0, 2, 4)
    assert found.loss[0, 0] == 0.5
    assert heat_figure(found).axes[0].get_ylabel() == "client, 2 a row"


def test_lines_about_no_client_or_of_rounds_that_are_not_recorded_are_left_out():
    assert heat([], 3) is None
    assert heat([{"round": 1, "status": "lost"}, line(9, 1)], 3) is None


def test_losses_far_apart_are_shown_by_their_logarithm():
    near, far = (
        heat([line(1, 0, 1.0), line(2, 0, 2.0)], 2),
        heat([line(1, 0, 1.0), line(2, 0, 50.0)], 2),
    )
    assert near is not None
    assert far is not None
    assert not isinstance(heat_figure(near).axes[0].images[0].norm, LogNorm)
    assert isinstance(heat_figure(far).axes[0].images[0].norm, LogNorm)


def test_a_run_in_which_all_failed_has_crosses_and_no_colours():
    found = heat([line(1, 0, None, status="failed"), line(1, 1, None, status="lost")], 1)
    assert found is not None
    figure = heat_figure(found)
    assert len(figure.axes) == 1
    assert len(xs(figure.axes[0].lines[0])) == 2
