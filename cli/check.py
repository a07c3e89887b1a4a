"""``roundel check``: the laws that every strategy keeps, tried on one."""

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from roundel.cli.options import Settings

if TYPE_CHECKING:
    from roundel.simulations.conformance import Verdict


def check(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="A strategy of your own, as `package.module:function`, or one of those that "
            "`roundel strategies` lists.",
            show_default=False,
        ),
    ],
    settings: Settings = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object a law, and nothing else.")
    ] = False,
) -> None:
    """Try the laws that every strategy keeps on one.

    Nothing changes its arguments or keeps a secret, the order of arrival means nothing, a
    checkpoint loses nothing, one client's NaN harms nobody, ... A federation of eight clients tries
    them within seconds. The function takes knobs with defaults alone and returns a Part or a
    Strategy.

    One line a law: PASS, FAIL with the smallest counter-example, SKIP where the law does not apply,
    WARN where something is worth mending. Most laws need whole rounds: where these fail, the last
    lines say how many were not tried. The exit code is 1 if a law is broken.

    For example:

        roundel check fedadam -s strategy.tau=0.01
        roundel check scaffold -s 'strategy.parts=["clip", "topk"]'
        roundel check mine:shy_clients
    """
    from dataclasses import asdict

    from roundel.core.files import json_line
    from roundel.core.threads import intra_op_threads
    from roundel.simulations.conformance import UNTRIED
    from roundel.simulations.conformance import check as try_laws

    make, knobs = _strategy(name, settings or [])
    verdicts: list[Verdict] = []
    with intra_op_threads(1):
        for verdict in try_laws(make, knobs):
            verdicts.append(verdict)
            if as_json:
                typer.echo(json_line(asdict(verdict)))
            elif verdict.reason != UNTRIED:
                line = f"{verdict.outcome}  {verdict.law}"
                typer.echo(f"{line}: {verdict.reason}" if verdict.reason else line)
    if not as_json:
        typer.echo("\n".join(_summary(verdicts)))
    raise typer.Exit(1 if any(verdict.outcome == "FAIL" for verdict in verdicts) else 0)


def _strategy(name: str, settings: list[str]) -> tuple[Any, dict[str, Any]]:
    """Return what makes a strategy, and its knobs."""
    from functools import update_wrapper

    from roundel.core.configfile import load_experiment
    from roundel.core.errors import ConfigError
    from roundel.core.knobs import settle
    from roundel.core.suggest import suggest
    from roundel.core.usercode import FORM
    from roundel.strategies.registry import LISTED, STRATEGIES, constructor, make_strategy, settled

    for setting in settings:
        if not setting.startswith("strategy.") or setting.startswith("strategy.name"):
            raise ConfigError(f"-s {setting!r} is no knob of the strategy; set strategy.KNOB=VALUE")
    said = load_experiment(None, settings).strategy
    make: Any
    if name in STRATEGIES or ":" in name:
        make = constructor(name, "roundel check")
    else:
        raise ConfigError(
            f"there is no strategy {name!r}, and it is not {FORM} either; "
            f"{suggest(name, STRATEGIES, LISTED)}"
        )
    knobs = settle(make, said.knobs, section="strategy", name=name)
    if said.parts:
        parts = settled(said.model_copy(update={"name": name})).parts

        def composed(**knobs: Any) -> Any:  # noqa: ANN401 - the strategy's own
            return make_strategy(name, knobs, parts)

        return update_wrapper(composed, make), knobs
    return make, knobs


def _summary(verdicts: "Sequence[Verdict]") -> list[str]:
    """Say how many laws are kept, broken and so on, and why others were not tried."""
    from roundel.simulations.conformance import UNTRIED

    words = {"PASS": "kept", "FAIL": "broken", "WARN": "in doubt", "SKIP": "beside the point"}
    counts = Counter[str](v.outcome for v in verdicts if v.reason != UNTRIED)
    told = ", ".join(f"{counts[key]} {word}" for key, word in words.items() if key in counts)
    if untried := sum(verdict.reason == UNTRIED for verdict in verdicts):
        why = "they need rounds that go well: mend what the first FAIL says, and check again"
        return [f"laws: {told}, {untried} not tried", why]
    if len(verdicts) == 1:
        return [f"laws: {told}", "no other law was tried, as there is no strategy to try it on"]
    return [f"laws: {told}"]
