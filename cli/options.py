"""Options that several verbs share, and their defaults."""

import os
from pathlib import Path
from typing import Annotated

import typer

ExperimentFile = Annotated[
    Path | None,
    typer.Argument(
        metavar="[FILE.toml]",
        help="The experiment; without it, 100 clients learn the UCI digits by FedAvg.",
        show_default=False,
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        "-s",
        metavar="KEY=VALUE",
        help="Set any key of the experiment, such as `-s strategy.name=scaffold`. Repeatable.",
        show_default=False,
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(
        "--out",
        metavar="DIR",
        help="The run directory; by default a new one under `runs/`.",
        show_default=False,
    ),
]
AppClients = Annotated[
    int | None,
    typer.Option(
        "--clients",
        min=1,
        help="How many clients the app has; by default as many as it says, or 10.",
        show_default=False,
    ),
]
Json = Annotated[
    bool, typer.Option("--json", help="Print one JSON object a round, and nothing else.")
]
AuthorityDirectory = Annotated[
    Path | None,
    typer.Option(
        "--authority",
        metavar="DIR",
        help="Of the federation's authority; by default ~/.local/share/roundel/authority.",
        show_default=False,
    ),
]


def node_states(host: str, port: int) -> Path:
    """Return where the nodes of this user that join a coordinator have their directories."""
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base) / "roundel" / f"{host}_{port}"


def default_authority() -> Path:
    """Return where this user's authority is kept unless another directory is named."""
    base = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(base) / "roundel" / "authority"
