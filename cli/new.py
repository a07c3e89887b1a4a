"""``roundel new``: begin a project with a task of one's own."""

import re
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

SUFFIX = ".template"
"""Keeps tools from taking the templates for code of this package."""
_NAME = "PROJECT"


def new(
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="The project; made if it does not exist.")
    ],
) -> None:
    """Make a project with a task of your own.

    The task, an experiment, a test, and a page that explains them. All of it runs as it is and
    without a network: change it bit by bit. DIR must be empty or not exist yet.

    For example:

        roundel new waves
    """
    from roundel.core.errors import ConfigError

    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise ConfigError(f"{directory} is not an empty directory; choose another one")
    name = re.sub(r"[^\w-]+", "-", directory.resolve().name) or "project"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        written = [_write(directory / file, text, name) for file, text in _templates()]
    except OSError as error:
        raise ConfigError(
            f"cannot write {directory}: {error.strerror}; choose another directory"
        ) from error
    typer.echo(f"made {directory} with {', '.join(written)}; go on with\n")
    typer.echo(f"    cd {directory}\n    roundel simulate experiment.toml\n    pytest")
    if find_spec("pytest") is None:
        typer.echo("\npytest is not installed here: pip install pytest")


def _templates() -> list[tuple[str, str]]:
    """Return each file of the project by name."""
    folder = files("roundel.cli").joinpath("templates")
    found = [f for f in folder.iterdir() if f.name.endswith(SUFFIX)]
    return sorted((f.name.removesuffix(SUFFIX), f.read_text(encoding="utf-8")) for f in found)


def _write(file: Path, text: str, name: str) -> str:
    file.write_text(text.replace(_NAME, name), encoding="utf-8")
    return file.name
