"""What of a round's line goes to trackers."""

from roundel.reports.scalars import scalars


def test_figures_are_grouped_by_what_they_are_about():
    line: dict[str, object] = {"round": 3, "loss": 1.5, "accuracy": None, "mae": 2, "seconds": 1.0}
    line |= {"train_loss": 0.5, "params_sha256": "ab", "stopped": "enough", "confusion": [[1]]}
    line |= {
        "health": {"update_norm": {"p50": 0.25}, "clipped": None, "diverging": [3], "lost": 1},
        "clients": {"asked": 4, "accuracy": {"mean": 0.5, "p10": float("nan")}},
    }
    assert scalars(line) == {
        "test/loss": 1.5,
        "test/mae": 2,
        "train/loss": 0.5,
        "round/seconds": 1.0,
        "health/update_norm/p50": 0.25,
        "health/lost": 1,
        "clients/asked": 4,
        "clients/accuracy/mean": 0.5,
    }
