"""A run in a few lines of text."""

from collections.abc import Mapping
from typing import Any

from roundel.core.config import Experiment
from roundel.core.history import History
from roundel.core.records import RoundRecord
from roundel.reports.personal import own_models

_STEP = 1000
_IN_THE_FILE_ONLY = ("precision", "recall")


def round_line(record: RoundRecord, rounds: int) -> str:
    """Return one line about one round.

    Args:
        record: The round.
        rounds: How many rounds the run has.
    """
    shown = (name for name in sorted(record.metrics) if name not in _IN_THE_FILE_ONLY)
    figures = [f"{name} {record.metrics[name]:.4f}" for name in shown]
    if record.train_loss is not None:
        figures.append(f"train_loss {record.train_loss:.4f}")
    figures += [
        *health_figures(record.health),
        *privacy_figures(record.privacy),
        f"clients {record.completed}/{record.cohort}",
        byte_count(record.bytes_up + record.bytes_down),
        f"{record.seconds:.2f} s",
    ]
    return f"round {record.round}/{rounds}  {'  '.join(figures)}"


def health_figures(health: Mapping[str, Any]) -> list[str]:
    """Return what a round's updates look like: the median norm, and whatever shows trouble."""
    norm = health.get("update_norm")
    figures = [] if norm is None else [f"norm {norm['p50']:.3g}"]
    if health.get("diverging"):
        worst = norm["max"] / norm["p50"] if norm and norm["p50"] else float("inf")
        clients = ", ".join(str(client) for client in health["diverging"])
        figures.append(f"diverging {clients} (norm {worst:.0f} times the median)")
    if health.get("clipped"):
        figures.append(f"clipped {health['clipped']:.0%}")
    trouble = ("malicious", "rejected", "failed", "lost")
    return figures + [f"{name} {health[name]}" for name in trouble if health.get(name)]


def privacy_figures(privacy: Mapping[str, float]) -> list[str]:
    """Return the epsilon that a run has spent, if it adds noise."""
    return [f"epsilon {privacy['epsilon']:.4g}"] if "epsilon" in privacy else []


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
    if last.get("stopped"):
        lines.append(f"stopped early: {last['stopped']}")
    if "epsilon" in last:
        lines.append(
            f"any one client is protected by epsilon = {last['epsilon']:.4g} at delta = "
            f"{last['delta']:g}"
        )
    if last.get("clients"):
        lines += _own_examples(last["clients"], history.experiment)
    failures = sum(line["failures"] for line in history.rounds)
    if failures:
        lines.append(f"{failures} client updates did not count; clients.jsonl says why")
    lines.append(f"results are in {history.path}")
    return "\n".join(lines)


def _own_examples(clients: Mapping[str, Any], experiment: Experiment) -> list[str]:
    """Say how the model does on the clients' own examples, and over which clients that is."""
    name = "accuracy" if "accuracy" in clients else "loss"
    if name not in clients:
        return []
    figure, small = clients[name], clients["small"]
    whose = ", each client by its own model" if own_models(experiment) else ""
    line = (
        f"clients' own {experiment.evaluation.split} examples{whose}: {name} "
        f"{figure['mean']:.4f} over all "
        f"{clients['examples']} of {clients['answered']} clients"
    )
    if "p10" in figure:
        line += (
            f"; by client p10 {figure['p10']:.2f}, median {figure['p50']:.2f}, "
            f"p90 {figure['p90']:.2f}, worst tenth {figure['worst_tenth']:.2f}"
        )
    if small:
        who = "all" if small == clients["answered"] else f"{small}"
        line += f" ({who} hold too few for a figure of their own, see evaluation.min_examples)"
    return [line]


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
