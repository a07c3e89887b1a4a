"""Read what runs have recorded."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from roundel.core.config import Experiment
from roundel.core.runfiles import CLIENTS, METRICS, read_lines, read_run


@dataclass(frozen=True, kw_only=True)
class History:
    """A run as it stands on disk.

    Attributes:
        path: The run directory.
        experiment: What it runs.
        environment: What it runs on.
        rounds: The lines of ``metrics.jsonl``, in order.
    """

    path: Path
    experiment: Experiment
    environment: Mapping[str, Any]
    rounds: Sequence[Mapping[str, Any]]

    @property
    def hashes(self) -> list[str]:
        """The parameter hash after each round."""
        return [line["params_sha256"] for line in self.rounds]

    def series(self, key: str) -> list[Any]:
        """Return one key of every round, None where a round has none.

        Args:
            key: Such as ``"accuracy"`` or ``"train_loss"``.
        """
        return [line.get(key) for line in self.rounds]

    def clients(self) -> list[dict[str, Any]]:
        """Read the lines of ``clients.jsonl``: one a client and round."""
        return list(read_lines(self.path / CLIENTS))


def read_history(path: Path | str) -> History:
    """Read a run directory, finished or not.

    Raises:
        RunDirectoryError: It is not one, or it is damaged.
    """
    path = Path(path)
    experiment, environment = read_run(path)
    rounds = tuple(read_lines(path / METRICS))
    return History(path=path, experiment=experiment, environment=environment, rounds=rounds)
