"""``roundel replay``: train one client of one round again, here."""

import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from roundel.simulations.replay import Replay, Scene


def replay(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The run directory.")],
    round: Annotated[int, typer.Option("--round", "-r", min=1, help="The round, from 1.")],
    client: Annotated[int, typer.Option("--client", "-c", min=0, help="The client's number.")],
    pdb: Annotated[
        bool, typer.Option("--pdb", help="Open the debugger where the client fails.")
    ] = False,
) -> None:
    """Train one client of one round again, in this process, and compare.

    The server's and the client's state come from the nearest checkpoint before the round; rounds
    in between are computed again with the updates that counted in the run. A `breakpoint()` in
    your model, loss or training function stops there. Nothing is written to the run.

    It exits with 0 if the client's work came out as recorded: the same update, or the same error;
    with 1 if it came out otherwise.

    For example:

        roundel replay runs/digits --round 12 --client 7
    """
    from roundel.simulations.replay import restage

    scene = restage(run, round, client)
    typer.echo(_found(scene))
    try:
        outcome = scene.train()
    except (Exception, SystemExit) as error:  # noqa: BLE001 - it is the user's code that runs
        same = _failed_as_recorded(scene, error)
        if pdb:
            import pdb as debugger  # noqa: T100 - it was asked for

            debugger.post_mortem(error.__traceback__)
    else:
        same = _came_out_as_recorded(outcome)
    raise typer.Exit(0 if same else 1)


def _found(scene: "Scene") -> str:
    """Say what is about to happen."""
    ticket, recorded = scene.request.ticket, scene.recorded
    reason = f" ({recorded['reason']})" if recorded.get("reason") else ""
    again = ticket.round - 1 - scene.began
    start = f"the state after round {scene.began}" if scene.began else "the initial model"
    return (
        f"client {ticket.client_id} of round {ticket.round}: {recorded['status']} in the run"
        f"{reason}; from {start}, with {again} round{'' if again == 1 else 's'} computed again"
    )


def _failed_as_recorded(scene: "Scene", error: BaseException) -> bool:
    """Show the error and say whether it is the one that is recorded."""
    from roundel.client.attempt import failure_of

    traceback.print_exception(error)
    failure = failure_of(error, scene.request.ticket, "train")
    same = failure.error == scene.recorded.get("reason")
    typer.echo(f"it failed {'as it did in the run' if same else 'otherwise than in the run'}")
    return same


def _came_out_as_recorded(outcome: "Replay") -> bool:
    """Say what came out and whether it is what is recorded."""
    update = outcome.update
    loss = update.metrics.means().get("loss")
    typer.echo(
        f"{update.num_examples} examples, {update.num_steps} steps"
        + ("" if loss is None else f", train_loss {loss:.4f}")
        + f", update {outcome.update_blake3[:12]}"
    )
    match outcome.matches:
        case True:
            typer.echo("the update is the recorded one, bit for bit")
        case False:
            typer.echo(
                f"the update is NOT the recorded one, {outcome.recorded['update_blake3'][:12]}"
            )
        case None:
            typer.echo("the run records no update of it to compare with")
    return outcome.matches is not False and not _should_fail(outcome.recorded)


def _should_fail(recorded: Mapping[str, Any]) -> bool:
    """Tell whether the client failed in the run, and not on purpose."""
    from roundel.client.attempt import ON_PURPOSE

    return recorded["status"] == "failed" and recorded.get("reason") != ON_PURPOSE
