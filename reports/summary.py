"""A run in a few lines of text."""

from roundel.core.history import History
from roundel.core.records import RoundRecord

_STEP = 1000


def round_line(record: RoundRecord, rounds: int) -> str:
    """Return one line about one round.

    Args:
        record: The round.
        rounds: How many rounds the run has.
    """
    figures = [f"{name} {value:.4f}" for name, value in sorted(record.metrics.items())]
    if record.train_loss is not None:
        figures.append(f"train_loss {record.train_loss:.4f}")
    figures += [
        f"clients {record.completed}/{record.cohort}",
        byte_count(record.bytes_up + record.bytes_down),
        f"{record.seconds:.2f} s",
    ]
    return f"round {record.round}/{rounds}  {'  '.join(figures)}"


def summary(history: History) -> str:
    """Return what a reader wants to know at the end of a run."""
    if not history.rounds:
        return f"no round has finished; the run is in {history.path}"
    last = history.rounds[-1]
    figures = [
        f"{name} {last[name]:.4f}" for name in ("accuracy", "loss") if last.get(name) is not None
    ]
    seconds = sum(line["seconds"] for line in history.rounds)
    count = f"{last['round']} round{'s' if last['round'] > 1 else ''}"
    lines = [f"{', '.join(figures) or 'done'} after {count}, {seconds:.1f} s"]
    per_client = (last.get("clients") or {}).get("accuracy")
    if per_client:
        lines.append(
            f"clients' own test examples: accuracy {per_client['mean']:.4f} over all, "
            f"p10 {per_client['p10']:.2f}, median {per_client['p50']:.2f}, "
            f"p90 {per_client['p90']:.2f} over {last['clients']['answered']} clients"
        )
    failures = sum(line["failures"] for line in history.rounds)
    if failures:
        lines.append(f"{failures} client updates did not count; clients.jsonl says why")
    lines.append(f"results are in {history.path}")
    return "\n".join(lines)


def byte_count(count: int) -> str:
    """Return a number of bytes in decimal units.

    >>> byte_count(999), byte_count(1_500), byte_count(2_000_000)
    ('999 B', '1.5 kB', '2.0 MB')
    """
    if count < _STEP:
        return f"{count} B"
    value, units = count / _STEP, ["kB", "MB", "GB", "TB"]
    while round(value, 1) >= _STEP and len(units) > 1:
        value /= _STEP
        del units[0]
    return f"{value:.1f} {units[0]}"
