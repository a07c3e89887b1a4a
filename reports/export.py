"""Write recorded runs in the forms that other tools read: afterwards, from their files alone."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

from roundel.core.errors import ConfigError
from roundel.core.files import writing
from roundel.reports.export_csv import export_csv
from roundel.reports.exported import Exported, began_s, ends_s, exported
from roundel.reports.scalars import scalars
from roundel.reports.tensorboard import EventFile, need_tensorboard
from roundel.reports.trackers import export_mlflow, export_wandb, need_tracker

Form = Literal["tensorboard", "csv", "wandb", "mlflow"]


def export(paths: Sequence[Path], form: Form, out: Path) -> int:
    """Write runs in a form.

    Args:
        paths: Run directories, or those of comparisons; nothing is written there.
        form: Which one.
        out: A directory that is new or empty.

    Returns:
        How many runs were written.

    Raises:
        ConfigError: A package is missing, or the directory is taken.
        RunDirectoryError: A run is damaged, or a file cannot be written.
        RunFailed: The tracker failed.
    """
    if form in _NEEDED:
        _NEEDED[form]()
    runs = exported(paths)
    with writing(out):
        taken = out.exists() and any(out.iterdir())
    if taken:
        raise ConfigError(f"{out} is not empty; choose another directory with --out")
    for run in runs:
        run.history()  # a damaged one is found before anything is written
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
    _WRITERS[form](runs, out)
    return len(runs)


def export_tensorboard(runs: Sequence[Exported], out: Path) -> None:
    """Write a file of events for each run, in a folder of its name.

    Args:
        runs: Each is read when it is its turn.
        out: For ``tensorboard --logdir``.

    Raises:
        RunDirectoryError: A run is damaged, or a file cannot be written.
    """
    for run in runs:
        history, folder = run.history(), out / run.name
        with writing(folder):
            folder.mkdir(parents=True)
            file = EventFile(folder / "events.out.tfevents.0", began_s(history))
            try:
                for line, end_s in zip(history.rounds, ends_s(history), strict=True):
                    file.add(line["round"], scalars(line), end_s)
            finally:
                file.close()


_NEEDED: Mapping[Form, Callable[[], None]] = {
    "tensorboard": partial(need_tensorboard, "--to tensorboard"),
    "wandb": partial(need_tracker, "wandb"),
    "mlflow": partial(need_tracker, "mlflow"),
}

_WRITERS: Mapping[Form, Callable[[Sequence[Exported], Path], None]] = {
    "tensorboard": export_tensorboard,
    "csv": export_csv,
    "wandb": export_wandb,
    "mlflow": export_mlflow,
}
