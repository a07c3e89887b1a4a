"""``roundel predict``: what a run's final model says about examples."""

import csv
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any

import typer

from roundel.core.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from roundel.core.data import Examples
    from roundel.core.task import Task

HEAD = ("index", "prediction", "confidence", "target")
_BATCH = 256

Row = tuple[int, str, str, str]
"""The cells below `HEAD`."""


def predict(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The directory of a finished run.")],
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="Examples that the run's task reads; by default its own test set.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.csv",
            help="Write the rows there; by default to stdout.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Let a run's final model predict, and say how good it is.

    One row an example: its index from 0, the predicted class or values, the confidence (the
    probability of that class, empty if the task is not a classification) and the true target. How
    good it is follows on stdout, or on stderr if the rows are there.

    For example:

        roundel predict runs/first
        roundel predict runs/first --out predictions.csv
        roundel predict runs/first --data new-examples.csv --out predictions.csv
    """
    from roundel.core.runfiles import read_run
    from roundel.simulations import load_model
    from roundel.simulations.models import task_of

    experiment, _ = read_run(run)
    task = task_of(run)
    model = load_model(run, task)
    examples = _examples(task, data, experiment.task.path)
    batches = list(_outputs(model, examples))
    with nullcontext(sys.stdout) if out is None else _opened(out) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(HEAD)
        writer.writerows(_rows(batches))
    where = "" if out is None else f"; predictions are in {out}"
    typer.echo(f"{_figures(task, batches)}{where}", err=out is None)


def _examples(task: "Task", data: Path | None, path: Path | None) -> "Examples":
    """Read what to predict.

    Raises:
        ConfigError: The task has no such examples.
        DataError: They cannot be read, or there are none.
    """
    from roundel.core.errors import DataError

    load = task.load_test if data is None else task.load_all or task.load
    if load is None:
        lack = "has no test set of its own" if data is None else "reads no examples from a path"
        remedy = "give examples with --data PATH" if data is None else "leave --data out"
        if task.load is None and task.load_test is None:
            remedy = "predict with roundel.simulations.load_model in Python"
        raise ConfigError(f"the task {task.name!r} {lack}; {remedy}")
    examples = load(path if data is None else data)
    if not len(examples):
        source = data or "the test set"
        raise DataError(f"there are no examples in {source}; give others with --data")
    return examples


def _outputs(model: "nn.Module", examples: "Examples") -> "Iterator[tuple[Tensor, Tensor]]":
    """Yield outputs and targets batch by batch."""
    import torch

    from roundel.core.errors import DataError

    with torch.no_grad():
        for start in range(0, len(examples), _BATCH):
            rows = slice(start, start + _BATCH)
            try:
                outputs = model(examples.inputs[rows])
            except RuntimeError as error:
                raise DataError(
                    f"the run's model does not take inputs of shape "
                    f"{tuple(examples.inputs.shape[1:])} ({error}); give examples like those that "
                    "it was trained on"
                ) from error
            yield outputs, examples.targets[rows]


def _rows(batches: "Iterable[tuple[Tensor, Tensor]]") -> Iterator[Row]:
    index = 0
    for outputs, targets in batches:
        said, confidences = _said(outputs, targets)
        for value, confidence, target in zip(said, confidences, targets, strict=True):
            yield index, _cell(value), confidence, _cell(target)
            index += 1


def _said(outputs: "Tensor", targets: "Tensor") -> "tuple[Tensor, list[str]]":
    """Return what is predicted, and how sure the model is.

    Class numbers as targets make the last axis of the outputs scores. Where an example has several
    targets, as a text has, the confidence is the mean over them.
    """
    if targets.is_floating_point() or outputs.dim() != targets.dim() + 1:
        return outputs, [""] * len(outputs)
    chances, classes = outputs.softmax(dim=-1).max(dim=-1)
    means = chances.reshape(len(chances), -1).mean(dim=1)
    return classes, [f"{chance:.6f}" for chance in means.tolist()]


def _cell(value: "Tensor") -> str:
    """Return the numbers of one example, with blanks between."""
    return " ".join(_number(number) for number in value.flatten().tolist())


def _number(value: Any) -> str:  # noqa: ANN401 - what a tensor holds
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _figures(task: "Task", batches: "Iterable[tuple[Tensor, Tensor]]") -> str:
    """Return the loss and the task's metrics over all examples in one line."""
    from roundel.core.metrics import Metrics, merge, to_float
    from roundel.reports.text import figure

    parts = []
    for outputs, targets in batches:
        sums = {name: to_float(value) for name, value in task.metrics(outputs, targets).items()}
        loss = to_float(task.loss(outputs, targets)) * len(targets)
        parts.append(Metrics({"loss": loss, **sums}, len(targets)))
    whole = merge(parts)
    told = ", ".join(f"{name} {figure(mean)}" for name, mean in whole.means().items())
    return f"{told} over {whole.count} examples"


@contextmanager
def _opened(path: Path) -> Iterator[IO[str]]:
    """Open a file for the rows; a sentence says why that is impossible."""
    try:
        with path.open("x", encoding="utf-8", newline="") as file:
            yield file
    except FileExistsError as error:
        raise ConfigError(f"{path} is there already; choose another file with --out") from error
    except OSError as error:
        raise ConfigError(
            f"cannot write {path}: {error.strerror}; choose another file with --out"
        ) from error
