"""What running a Flower app here and over nodes have in common: what is shown; and to serve one."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from roundel.core.errors import ConfigError

if TYPE_CHECKING:
    from roundel.cli.run import Listening
    from roundel.core.status import Snapshot
    from roundel.simulations.flowerapps.run import Outcome, View
    from roundel.simulations.flowerapps.served.deployed import Deployment
    from roundel.simulations.serving import Serving

_MIB = 1 << 20
_UNWEIGHED = ("num-examples", "num_examples")
_REMEDIES = {
    "app": "shorten the name in its pyproject.toml",
    "seed": "choose another --seed",
    "clients": "choose another number with --clients",
    "config": "choose another value with -s",
    "reply_limit": "choose another --reply-limit",
}
"""For what nodes cannot be told, by its name in the terms."""


def app_view(*, as_json: bool = False) -> "View":
    """Return what shows the rounds of an app, one line each."""
    from roundel.core.files import json_line
    from roundel.simulations.flowerapps.run import View

    def show(line: Mapping[str, Any]) -> None:
        typer.echo(json_line(line) if as_json else round_text(line))

    return View(show=show, warn=lambda text: typer.echo(text, err=True))


def sum_up(out: Path, outcome: "Outcome", *, as_json: bool = False) -> None:
    """Say what came out of a run."""
    failed = f", {outcome.failures} messages without a reply" if outcome.failures else ""
    typer.echo(f"{out}: {outcome.rounds} rounds{failed}", err=as_json)
    if outcome.arrays:
        typer.echo(f"model.safetensors holds {outcome.source}", err=as_json)


def round_text(line: Mapping[str, Any]) -> str:
    """Return a round as one line of text."""
    sides = [_side(kind, side) for kind, side in line.items() if isinstance(side, Mapping)]
    return f"round {line['round']}  {'; '.join(sides)}  {line['seconds']:.2f} s"


def _side(kind: str, side: Mapping[str, Any]) -> str:
    figures = "".join(
        f"  {name} {value:.4g}" for name, value in side["metrics"].items() if name not in _UNWEIGHED
    )
    return f"{kind}: {side['replies']} of {side['messages']} replied{figures}"


@dataclass(frozen=True, kw_only=True)
class AppOptions:
    """What `roundel serve` is told about an app.

    Attributes:
        app: Its directory.
        settings: ``key=value`` of its run config.
        clients: How many there are; None for as many as the app says.
        seed: What everything that is drawn comes from; None for 1.
        patience_s: How long clients are waited for whose node is away; None for the usual time.
        reply_mib: How large a reply may be; None for the usual size.
    """

    app: Path
    settings: Sequence[str] = ()
    clients: int | None = None
    seed: int | None = None
    patience_s: float | None = None
    reply_mib: int | None = None


def serve_flower(
    options: AppOptions, out: Path | None, listening: "Listening", *, as_json: bool
) -> None:
    """Run a Flower app over nodes that dial in."""
    from roundel.core.flowerversion import installed, need_flower
    from roundel.simulations.flowerapps.project import read_project

    need_flower(installed())
    project = read_project(options.app, options.settings)
    from roundel.simulations.flowerapps.served import deployed
    from roundel.simulations.simulate import new_run_path

    patience_s, reply_mib = options.patience_s, options.reply_mib
    deployment = deployed.Deployment(
        project=project,
        clients=options.clients or project.clients,
        seed=1 if options.seed is None else options.seed,
        patience_s=deployed.PATIENCE_S if patience_s is None else patience_s,
        reply_limit=deployed.REPLY_LIMIT if reply_mib is None else reply_mib * _MIB,
    )
    check_can_be_told(deployment)
    path = out or new_run_path(project.name)
    with _served(path, listening) as serving:
        outcome = deployed.serve_app(deployment, path, serving, app_view(as_json=as_json))
    sum_up(path, outcome, as_json=as_json)


def check_can_be_told(deployment: "Deployment") -> None:
    """Refuse what nodes would refuse, before anything is made.

    Raises:
        ConfigError: A number is out of bounds, or a text is too long.
    """
    from pydantic import ValidationError

    from roundel.simulations.flowerapps.served.terms import AppTerms

    try:
        AppTerms(
            app=deployment.project.name,
            seed=deployment.seed,
            clients=deployment.clients,
            config=dict(deployment.project.config),
            reply_limit=deployment.reply_limit,
        )
    except ValidationError as error:
        first = error.errors()[0]
        key = str(first["loc"][0])
        said = ".".join(map(str, first["loc"])).replace("_", " ")
        reason = first["msg"][:1].lower() + first["msg"][1:]
        raise ConfigError(
            f"a Flower app cannot be served with {said} = {first['input']!r:.60}: {reason}; "
            f"{_REMEDIES[key]}"
        ) from error


def resume_flower(path: Path, listening: "Listening", *, as_json: bool) -> None:
    """Go on with a run of a Flower app that was served."""
    from roundel.core.flowerversion import installed, need_flower
    from roundel.core.runfiles import MODEL

    need_flower(installed())
    from roundel.simulations.flowerapps.served.deployed import resume_app

    with _served(path, listening) as serving:
        outcome = resume_app(path, serving, app_view(as_json=as_json))
    if outcome is None:
        held = f"; {MODEL} holds its final arrays" if (path / MODEL).exists() else ""
        typer.echo(f"{path} is over{held}", err=as_json)
    else:
        sum_up(path, outcome, as_json=as_json)


@contextmanager
def _served(path: Path, listening: "Listening") -> "Iterator[Serving]":
    """Yield how to serve an app: where the coordinator listens, and what it says."""
    from roundel.cli.metrics import measured
    from roundel.cli.progress import interruptible
    from roundel.cli.security import secured
    from roundel.core.runfiles import is_app_run
    from roundel.simulations.serving import Serving

    def say(line: str) -> None:
        typer.echo(line, err=True)

    def hint() -> str:
        return (
            f"go on with `roundel serve --resume {path}`"
            if is_app_run(path)
            else "nothing was run yet"
        )

    with (
        interruptible(hint),
        measured(_telling_of_nodes(say), listening.metrics, say) as on_status,
        secured(listening.access) as security,
    ):
        yield Serving(
            listen=listening.address,
            security=security,
            insecure=listening.access.insecure,
            inviting=listening.access.inviting,
            authority=listening.access.remembered,
            on_status=on_status,
            say=say,
        )


def _telling_of_nodes(say: Callable[[str], None]) -> "Callable[[Snapshot], None]":
    """Return what says which nodes have come and gone, when it is told what they are doing."""
    from roundel.reports.federation import change_lines, changes

    before: Snapshot | None = None

    def tell(snapshot: "Snapshot") -> None:
        nonlocal before
        found = [each for each in changes(before, snapshot) if each.event.startswith("node")]
        before = snapshot
        for line in change_lines(found, snapshot.rounds):
            say(line.text)

    return tell
