"""Clients by rounds: who was asked when, what became of it, and how well training went."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any

import numpy as np
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, MaxNLocator
from numpy.typing import NDArray

from roundel.reports.listing import number
from roundel.reports.look import axes_at, empty_figure, looking

MOST_ROWS, MOST_COLUMNS = 150, 400
"""With more clients or rounds than this, neighbours share a cell."""

_WIDTH, _LEFT, _RIGHT = 7.0, 0.55, 0.85
_AXIS, _TOP = 0.38, 0.08
_LEAST, _MOST = 1.2, 3.6
_A_CLIENT = 0.06
"""Inches."""
_WIDE = 20.0
"""If the largest loss is so many times the smallest, its logarithm is shown."""
_FIELD = "#eceff1"
"""Behind the cells, on dark pages, too: those of a large loss are dark."""
_MARKS = 2_000
"""Crosses beyond this many would be a smear."""


@dataclass(frozen=True, kw_only=True)
class Heat:
    """The clients that were ever asked, by the rounds that were run.

    Attributes:
        clients: Their numbers, ascending; the first one of each row of cells.
        rounds: How many rounds.
        loss: Mean training loss by row and column; NaN where nobody trained.
        lost: Where an update did not count.
        clients_a_row: How many clients share a row.
        rounds_a_column: How many rounds share a column.
    """

    clients: tuple[int, ...]
    rounds: int
    loss: NDArray[np.float64]
    lost: NDArray[np.bool_]
    clients_a_row: int
    rounds_a_column: int


def heat(lines: Iterable[Mapping[str, Any]], rounds: int) -> Heat | None:
    """Gather the lines of ``clients.jsonl``.

    Args:
        lines: One a client and round.
        rounds: How many rounds are recorded; what is said of others is left out.

    Returns:
        None if they say nothing about any client.
    """
    said = [
        (int(client), int(line["round"]), line.get("status"), number(line.get("train_loss")))
        for line in lines
        if (client := number(line.get("client"))) is not None and 1 <= line["round"] <= rounds
    ]
    if not said:
        return None
    clients = sorted({client for client, *_ in said})
    place = {client: i for i, client in enumerate(clients)}
    high, wide = -(-len(clients) // MOST_ROWS), -(-rounds // MOST_COLUMNS)
    shape = -(-len(clients) // high), -(-rounds // wide)
    total, count, lost = np.zeros(shape), np.zeros(shape), np.zeros(shape, dtype=np.bool_)
    for client, round, status, loss in said:
        cell = place[client] // high, (round - 1) // wide
        if status != "accepted":
            lost[cell] = True
        elif loss is not None and isfinite(loss):
            total[cell] += loss
            count[cell] += 1
    with np.errstate(invalid="ignore"):
        mean = total / count
    return Heat(
        clients=tuple(clients[::high]),
        rounds=rounds,
        loss=mean,
        lost=lost,
        clients_a_row=high,
        rounds_a_column=wide,
    )


def heat_figure(found: Heat) -> Figure:
    """Draw the training loss of each client in each round, and a cross where an update was lost."""
    with looking():
        rows = len(found.clients)
        plot = min(_MOST, max(_LEAST, _A_CLIENT * rows))
        figure = empty_figure(_WIDTH, plot + _AXIS + _TOP)
        panel = axes_at(figure, _LEFT, _AXIS, _WIDTH - _LEFT - _RIGHT, plot)
        panel.grid(visible=False)
        panel.set_facecolor(_FIELD)
        edges = (0.5, found.loss.shape[1] * found.rounds_a_column + 0.5, rows - 0.5, -0.5)
        image = panel.imshow(
            np.ma.masked_invalid(found.loss),
            aspect="auto",
            interpolation="nearest",
            extent=edges,
            cmap="viridis_r",
            norm=_norm(found.loss),
        )
        lost = np.argwhere(found.lost)[:_MARKS]
        if len(lost):
            panel.plot(
                (lost[:, 1] + 0.5) * found.rounds_a_column + 0.5,
                lost[:, 0],
                "x",
                color="#d55e00",
                markersize=min(4.5, max(3.0, 50.0 * plot / rows)),
                markeredgewidth=0.8,
            )
        panel.set_xlim(0.5, found.rounds + 0.5)
        panel.xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1))
        ticks = range(0, rows, max(1, -(-rows // 10)))
        panel.set_yticks(list(ticks), [str(found.clients[i]) for i in ticks])
        panel.tick_params(pad=2)
        panel.set_xlabel("round", labelpad=1.5)
        each = f", {found.clients_a_row} a row" if found.clients_a_row > 1 else ""
        panel.set_ylabel(f"client{each}")
        if np.isfinite(found.loss).any():
            bar = axes_at(figure, _WIDTH - _RIGHT + 0.12, _AXIS, 0.12, plot)
            figure.colorbar(image, cax=bar, format=FormatStrFormatter("%g")).set_label("train loss")
            bar.grid(visible=False)
    return figure


def _norm(loss: NDArray[np.float64]) -> Normalize | None:
    known = loss[np.isfinite(loss)]
    if not known.size:
        return None
    low, high = float(known.min()), float(known.max())
    return LogNorm(low, high) if low > 0 and high / low > _WIDE else Normalize(low, high)
