"""One run in detail, as a tree of plain values."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any

from roundel.core.config import Experiment
from roundel.core.confusion import precision_recall
from roundel.core.errors import RunDirectoryError
from roundel.core.history import History
from roundel.core.runfiles import CLIENTS, PARTITION, read_lines
from roundel.reports.listing import (
    failure,
    final_figures,
    number,
    state_of,
    stopped,
    total_seconds,
)

_MOST_BYTES = 1 << 24
"""What is larger is no statistics of a partition."""


def details(history: History) -> dict[str, Any]:
    """Return everything that a run directory says about its run, as JSON values.

    Keys that a run has nothing for are None or empty.

    Raises:
        RunDirectoryError: A file of the directory is damaged.
    """
    rounds = history.rounds
    last = rounds[-1] if rounds else {}
    return {
        "run": str(history.path),
        "state": state_of(history),
        "problem": failure(history.path),
        "stopped": stopped(history),
        "name": history.experiment.name,
        "task": history.experiment.task.model_dump(mode="json", exclude_none=True),
        "strategy": history.experiment.strategy.model_dump(mode="json", exclude_none=True),
        "topology": history.experiment.topology.kind,
        "settings": changed_settings(history.experiment),
        "environment": dict(history.environment),
        "rounds": {"done": len(rounds), "of": history.experiment.rounds},
        "seconds": total_seconds(rounds),
        "final": final_figures(rounds),
        "curve": curve(rounds),
        "clients": _latest(rounds, "clients"),
        "classes": classes(last.get("confusion")),
        "partition": partition(history.path),
        "failures": failures(history),
        "health": last.get("health"),
        "files": files(history.path),
    }


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the leaves of a tree under dotted names.

    >>> flat({"rounds": 3, "client": {"lr": 0.1}})
    {'rounds': 3, 'client.lr': 0.1}
    >>> flat({"parts": [{"name": "prox"}]})
    {'parts[0].name': 'prox'}
    """
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            leaves |= flat(value, f"{prefix}{key}.")
        elif isinstance(value, list) and any(isinstance(each, Mapping) for each in value):
            for place, each in enumerate(value):
                leaves |= flat({f"{key}[{place}]": each}, prefix)
        else:
            leaves[f"{prefix}{key}"] = value
    return leaves


def settings(experiment: Experiment) -> dict[str, Any]:
    """Return every key of an experiment that has a value, under its dotted name."""
    return flat(experiment.model_dump(mode="json", exclude_none=True))


def changed_settings(experiment: Experiment) -> dict[str, Any]:
    """Return the keys that differ from the defaults, and the value of each."""
    defaults = settings(Experiment())
    return {key: v for key, v in settings(experiment).items() if defaults.get(key) != v}


def curve(rounds: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Return the run's main figure by round: accuracy, or else a loss.

    Returns:
        The ``metric``, its ``values`` by round (None where it was not measured), and the ``best``
        round with its value; None if no round has any figure.
    """
    for metric, best in (("accuracy", max), ("loss", min), ("train_loss", min)):
        values = [number(line.get(metric)) for line in rounds]
        known = [(v, i) for i, v in enumerate(values, start=1) if v is not None and isfinite(v)]
        if known:
            value = best(v for v, _ in known)
            first = next(i for v, i in known if v == value)
            return {"metric": metric, "values": values, "best": {"round": first, "value": value}}
    return None


def classes(confusion: object) -> list[dict[str, Any]]:
    """Return precision and recall of each class from a confusion matrix.

    Args:
        confusion: Rows are true classes, columns what they were taken for.

    Returns:
        By class: how many ``examples`` it has, ``precision`` (None if nothing was taken for it),
        ``recall`` (None if it does not occur), and the other class that it was ``taken_for`` most
        often.
    """
    if not isinstance(confusion, Sequence) or not _is_square(confusion):
        return []
    figures = precision_recall(confusion)
    return [
        {
            "class": k,
            "examples": sum(row),
            "precision": figures["precision"][k],
            "recall": figures["recall"][k],
            "taken_for": _most([0 if j == k else n for j, n in enumerate(row)]),
        }
        for k, row in enumerate(confusion)
    ]


def _is_square(matrix: Sequence[Any]) -> bool:
    return all(
        isinstance(row, Sequence) and len(row) == len(matrix) and all(type(n) is int for n in row)
        for row in matrix
    )


def _most(counts: Sequence[int]) -> int | None:
    largest = max(counts)
    return counts.index(largest) if largest else None


def partition(path: Path) -> dict[str, Any] | None:
    """Return the statistics of a run's partition, if the run has written any.

    Raises:
        RunDirectoryError: They cannot be read.
    """
    file = path / PARTITION
    try:
        with file.open("rb") as opened:
            content = json.loads(opened.read(_MOST_BYTES))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise _damaged(file) from error
    if not isinstance(content, dict):
        raise _damaged(file)
    return content


def _damaged(file: Path) -> RunDirectoryError:
    return RunDirectoryError(f"{file} is damaged; restore it, or remove it")


def failures(history: History) -> list[dict[str, Any]]:
    """Return each kind of client failure, the most frequent first.

    A failure in the user's code is told by its line, any other one by its reason.

    Raises:
        RunDirectoryError: ``clients.jsonl`` is damaged.
    """
    counts: Counter[tuple[str, str]] = Counter()
    first: dict[tuple[str, str], Mapping[str, Any]] = {}
    for line in read_lines(history.path / CLIENTS):
        if line.get("status") == "accepted":
            continue
        reason = line.get("reason", "")
        kind = str(line.get("status")), str(line.get("location") or reason)
        counts[kind] += 1
        first.setdefault(kind, line)
    return [
        {
            "status": status,
            "count": count,
            "reason": first[status, what].get("reason"),
            "location": first[status, what].get("location"),
            "round": first[status, what]["round"],
            "client": first[status, what].get("client"),
        }
        for (status, what), count in counts.most_common()
    ]


def round_clients(history: History, round: int) -> list[dict[str, Any]]:
    """Return the lines of one round in ``clients.jsonl``, by client number.

    A round that was aborted has lines there, too.

    Raises:
        RunDirectoryError: There are none, or the file is damaged.
    """
    lines = [line for line in read_lines(history.path / CLIENTS) if line["round"] == round]
    if not lines:
        done = len(history.rounds)
        raise RunDirectoryError(
            f"{history.path} has no clients of round {round}; "
            + (f"choose one from 1 to {done}" if done else "none of its rounds has finished")
        )
    return sorted(lines, key=lambda line: int(line.get("client", -1)))


def files(path: Path) -> dict[str, int]:
    """Return the files of a run by name with their sizes in bytes; a folder counts as one."""
    sizes = {}
    for file in sorted(path.iterdir()):
        if not file.name.startswith("."):
            sizes[file.name + "/" * file.is_dir()] = sum(_sizes(file))
    return sizes


def _sizes(path: Path) -> Iterator[int]:
    for file in path.rglob("*") if path.is_dir() else [path]:
        if file.is_file():
            yield file.stat().st_size


def _latest(rounds: Sequence[Mapping[str, Any]], key: str) -> dict[str, Any] | None:
    """Return what the last round that has this key says, and which round it is."""
    for line in reversed(rounds):
        if isinstance(value := line.get(key), Mapping):
            return {"round": line["round"], **value}
    return None
