"""One run in detail, as text for a terminal."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from roundel.core.history import History
from roundel.reports.details import flat
from roundel.reports.listing import number
from roundel.reports.personal import own_models
from roundel.reports.summary import byte_count
from roundel.reports.text import NONE, figure, literal, short, sparkline, table

_ROWS = 8
"""Rounds in the short table."""
_REASON = 100
"""Characters of a reason."""
_MACHINE = ("roundel", "python", "torch", "numpy", "platform", "machine", "cpu_capability", "cpus")
_FIGURES = ("accuracy", "loss", "train_loss", "epsilon")
_PARTS = ("train", "validation", "test")


def details_text(found: Mapping[str, Any], history: History) -> str:
    """Return a run in words, curves and tables.

    Args:
        found: What `roundel.reports.details.details` returns.
        history: The run.
    """
    blocks = [
        list(_opening(found)),
        list(_block("settings that differ from the defaults", _settings(found["settings"]))),
        list(_block("where", _where(found["environment"]))),
        list(_curve(found["curve"])),
        list(_block("rounds", _rounds(history.rounds))),
        list(_block(_own_examples(history), _clients(found["clients"]))),
        list(_block("classes", _classes(found["classes"]))),
        list(_block("partition", _partition(found["partition"]))),
        list(_block("client updates that did not count", _failures(found["failures"]))),
        list(_block("health of the last round", _health(found["health"]))),
        list(_block(f"files in {found['run']}", _files(found["files"]))),
    ]
    return "\n\n".join("\n".join(block) for block in blocks if block)


def clients_text(lines: Sequence[Mapping[str, Any]]) -> str:
    """Return the clients of one round as a table.

    Args:
        lines: Their lines in ``clients.jsonl``.
    """
    head = ["client", "status", "examples", "steps", "train_loss", "update_norm", "seconds"]
    keys = ["client", "status", "num_examples", "num_steps", "train_loss", "update_norm", "seconds"]
    rows = [[*(figure(line.get(key)) for key in keys), _reason(line)] for line in lines]
    return "\n".join(table([*head, "reason"], rows, right=["client", *head[2:]]))


def _block(title: str, lines: Sequence[str]) -> Iterator[str]:
    if lines:
        yield title
        yield from (f"  {line}" for line in lines)


def _opening(found: Mapping[str, Any]) -> Iterator[str]:
    rounds = found["rounds"]
    way = "" if found["topology"] == "star" else f"{found['topology']}, "
    yield (
        f"{found['name']}: {way}{_named(found['strategy'])} on {_named(found['task'])}, "
        f"{found['state']}, {rounds['done']} of {rounds['of']} rounds, {found['seconds']:.1f} s"
    )
    if found["problem"]:
        yield str(found["problem"])
    if found["stopped"]:
        yield f"it stopped early: {found['stopped']}"
    if final := found["final"]:
        yield ", ".join(f"{name} {figure(value)}" for name, value in final.items())


def _named(section: Mapping[str, Any]) -> str:
    """Name a task, or a strategy and the parts that it is composed with, each with its knobs."""
    own = {k: v for k, v in section.items() if k not in ("name", "parts")}
    knobs = [f"{k} = {literal(v)}" for k, v in flat(own).items() if v != []]
    first = str(section["name"]) + (f" ({', '.join(knobs)})" if knobs else "")
    parts = (p if isinstance(p, Mapping) else {"name": p} for p in section.get("parts", ()))
    return " + ".join([first, *map(_named, parts)])


def _settings(settings: Mapping[str, Any]) -> list[str]:
    told = {k: v for k, v in settings.items() if not k.startswith(("strategy.", "task."))}
    return [f"{key} = {literal(value)}" for key, value in told.items()]


def _where(environment: Mapping[str, Any]) -> list[str]:
    engine = environment.get("engine", {})
    return [
        ", ".join(f"{key} {environment[key]}" for key in _MACHINE if key in environment),
        ", ".join(f"{key} {figure(value)}" for key, value in flat(engine).items()),
    ]


def _curve(curve: Mapping[str, Any] | None) -> Iterator[str]:
    if curve is None:
        return
    known = [value for value in curve["values"] if value is not None]
    best = curve["best"]
    yield f"{curve['metric']} by round, best {figure(best['value'])} in round {best['round']}"
    yield f"  {figure(known[0])} {sparkline(known)} {figure(known[-1])}"


def _rounds(rounds: Sequence[Mapping[str, Any]]) -> list[str]:
    if not rounds:
        return []
    names = [n for n in _FIGURES if any(r.get(n) is not None for r in rounds)]
    head = ["round", *names, "clients", "traffic", "seconds"]
    rows = [
        [
            figure(line["round"]),
            *(figure(line.get(name)) for name in names),
            f"{line.get('completed', NONE)}/{line.get('cohort', NONE)}",
            byte_count(
                int((number(line.get("bytes_up")) or 0) + (number(line.get("bytes_down")) or 0))
            ),
            figure(line.get("seconds")),
        ]
        for line in _some(rounds)
    ]
    return table(head, rows, right=head)


def _some(rounds: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Choose a few rounds, evenly, the first and the last among them."""
    last = len(rounds) - 1
    count = min(len(rounds), _ROWS)
    return [rounds[i * last // max(1, count - 1)] for i in range(count)]


def _own_examples(history: History) -> str:
    whose = ", each client by its own model" if own_models(history.experiment) else ""
    return f"clients' own examples{whose}"


def _clients(clients: Mapping[str, Any] | None) -> list[str]:
    if clients is None:
        return []
    answered, asked, examples = (figure(clients.get(k)) for k in ("answered", "asked", "examples"))
    told = [f"round {clients['round']}: {answered} of {asked} clients, {examples} examples"]
    if clients.get("small"):
        told.append(f"{clients['small']} of them have too few for a figure of their own")
    spreads = {name: v for name, v in clients.items() if isinstance(v, Mapping)}
    keys = list(dict.fromkeys(key for spread in spreads.values() for key in spread))
    rows = [[n, *(figure(spread.get(key)) for key in keys)] for n, spread in spreads.items()]
    return told + (table(["", *keys], rows, right=keys) if rows else [])


def _classes(classes: Sequence[Mapping[str, Any]]) -> list[str]:
    keys = ["class", "examples", "precision", "recall", "taken_for"]
    rows = [[figure(line[key]) for key in keys] for line in classes]
    return table([*keys[:-1], "mostly taken for"], rows, right=keys[:-1]) if rows else []


def _partition(partition: Mapping[str, Any] | None) -> list[str]:
    """Show one line a figure: groups of figures, such as sizes, side by side."""
    if partition is None:
        return []
    told = []
    for key, value in partition.items():
        if isinstance(value, Mapping):
            told.append(f"{key}: {', '.join(f'{k} {short(v)}' for k, v in flat(value).items())}")
        elif isinstance(value, Sequence) and not isinstance(value, str):
            told += [f"{key}: {' '.join(map(short, value))}"] if value else []
        elif value is not None:
            told.append(f"{key}: {short(value)}")
    return told


def _failures(failures: Sequence[Mapping[str, Any]]) -> list[str]:
    return [
        f"{kind['count']} {kind['status']}: {_reason(kind)} "
        f"(first: client {figure(kind['client'])}, round {kind['round']})"
        for kind in failures
    ]


def _reason(line: Mapping[str, Any]) -> str:
    reason, location = str(line.get("reason") or ""), line.get("location")
    short = reason if len(reason) <= _REASON else f"{reason[: _REASON - 3]}..."
    return f"{short} at {location}" if location else short


def _health(health: Mapping[str, Any] | None) -> list[str]:
    if health is None:
        return []
    told = {k: v for k, v in flat(health).items() if k != "diverging" and v is not None}
    lines = [", ".join(f"{key} {figure(value)}" for key, value in told.items())]
    if diverging := health.get("diverging"):
        lines.append(f"diverging clients: {', '.join(map(str, diverging))}")
    return lines


def _files(files: Mapping[str, int]) -> list[str]:
    return table(["", ""], [[name, byte_count(size)] for name, size in files.items()])[1:]
