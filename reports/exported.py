"""The runs that are exported, and what every tracker is told about them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from roundel.core.comparisonfile import FILE, read_comparison
from roundel.core.errors import ConfigError
from roundel.core.history import History, read_history
from roundel.core.runfiles import CONFIG, is_run
from roundel.reports.details import settings
from roundel.reports.listing import number


@dataclass(frozen=True, kw_only=True)
class Exported:
    """A run to export.

    Attributes:
        path: Its directory.
        name: What it is called among those that are exported with it; has slashes in a comparison.
        group: The comparison that it belongs to; empty if to none.
        about: What else places it: ``problem`` and ``arm`` in a comparison.
    """

    path: Path
    name: str
    group: str
    about: Mapping[str, str]

    def history(self) -> History:
        """Read what it has recorded so far.

        Raises:
            RunDirectoryError: It is damaged.
        """
        return read_history(self.path)


def exported(paths: Sequence[Path]) -> list[Exported]:
    """Return the runs of directories, those of a comparison cell by cell.

    Raises:
        ConfigError: No run of a comparison has begun, or two runs have one name.
        RunDirectoryError: A directory is none of a run or a comparison.
    """
    found = [run for path in paths for run in _runs_of(path)]
    names = [run.name for run in found]
    for run in found:
        if names.count(run.name) > 1:
            raise ConfigError(
                f"two runs are called {run.name}, and what is exported could not be told apart; "
                "export them one by one"
            )
    return found


def _runs_of(path: Path) -> Iterator[Exported]:
    name = path.resolve().name
    if not (path / FILE).is_file():
        yield Exported(path=path, name=name, group="", about={})
        return
    comparison = read_comparison(path)
    begun = [cell for cell in comparison.cells() if is_run(path / cell.path)]
    if not begun:
        raise ConfigError(
            f"no run of {path} has begun; compute them with `roundel compare --out {path}`"
        )
    for cell in begun:
        yield Exported(
            path=path / cell.path,
            name=f"{name}/{cell.path.relative_to('cells')}",
            group=name,
            about={"problem": cell.problem.label, "arm": cell.arm.label},
        )


def plain_settings(history: History) -> dict[str, Any]:
    """Return every key of a run's experiment that has a value, lists as text."""
    found = settings(history.experiment)
    return {key: str(v) if isinstance(v, list) else v for key, v in found.items()}


def ends_s(history: History) -> list[float]:
    """Return about when each round ended, in seconds since 1970.

    Counted from when the run began, by how long its rounds took: interruptions are left out.
    """
    seconds = [number(line.get("seconds")) or 0.0 for line in history.rounds]
    return [began_s(history) + passed for passed in accumulate(seconds)]


def began_s(history: History) -> float:
    """Return when a run began, in seconds since 1970: nothing writes its first file again."""
    return (history.path / CONFIG).stat().st_mtime
