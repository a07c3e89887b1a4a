"""What a node and its coordinator must agree on, by name, so that a refusal says what differs.

A node sends its `Fingerprint` when it wants to host clients. Large things are in it as hashes;
what helps to understand a difference, shapes and versions, is there to be read.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from roundel.core.printable import printable

MAX_BYTES = 4096
"""Of a fingerprint as text."""

_MOST_SHOWN = 100
"""Characters of a value that a sentence shows."""

_MOST_SAID = 500
"""Characters of a difference."""

Text = Annotated[str, Field(max_length=MAX_BYTES)]


class Fingerprint(BaseModel):
    """What one side has made of an experiment."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")

    task: Text
    """Its name."""
    knobs: dict[Text, Text]
    """A hash of each knob of the task."""
    code: dict[Text, Text]
    """The version of each module of the user's that the experiment names."""
    layout: Text
    """A hash of the model's tensors: names, shapes, dtypes and roles."""
    tensors: tuple[Text, ...] = ()
    """The first of these tensors, as many as there is room for, such as ``0.weight 64x64``."""
    kept: Text = ""
    """A hash of the weights that never travel, frozen or personal ones, as they are at first."""
    examples: Text = ""
    """A hash of the pool of examples, if there is one."""
    partition: Text = ""
    """A hash of who holds which of them; ``own`` if every node brings its own."""
    versions: dict[Text, Text] = {}
    """Of packages that a difference may come from; they may differ by themselves."""

    def text(self) -> str:
        """Return it as JSON, with as many tensors as `MAX_BYTES` have room for."""
        room = MAX_BYTES - len(_json(self.model_copy(update={"tensors": ()}).model_dump()))
        return _json(self.model_copy(update={"tensors": _fitting(self.tensors, room)}).model_dump())

    @classmethod
    def of(cls, text: str) -> "Fingerprint | None":
        """Read what `text` has written; None if it is something else."""
        if len(text) > MAX_BYTES:
            return None
        try:
            return cls.model_validate_json(text)
        except ValidationError:
            return None


def hashed(value: object) -> str:
    """Return a short hash of what JSON can hold: against mistakes, not against malice."""
    return hashlib.sha256(_json(value).encode()).hexdigest()[:16]


def misfit(node: str, theirs: str, ours: str) -> str:
    """Say what a node has that does not fit a run.

    Args:
        node: Its name.
        theirs: The text of its fingerprint.
        ours: The coordinator's.

    Returns:
        A sentence, or nothing if all that must agree does.
    """
    if theirs == ours:
        return ""
    there, here = Fingerprint.of(theirs), Fingerprint.of(ours)
    if there is None or here is None:
        return (
            f"node {node!r} built a model of another layout than the coordinator's, or divided "
            "the examples in another way; install the same version of the task, of its data and "
            "of numpy on both"
        )
    found = [printable(difference, _MOST_SAID) for difference in differences(there, here)]
    if not found:
        return ""
    return (
        f"node {node!r} does not fit the run; it differs in {', in '.join(found)}; install or give "
        "it what the coordinator has"
    )


def differences(node: Fingerprint, coordinator: Fingerprint) -> Iterator[str]:
    """Yield what differs of all that must agree, in words, causes before their effects."""
    if node.task != coordinator.task:
        yield f"the task ({_both(node.task, coordinator.task)})"
    for name, (there, here) in _unequal(node.code, coordinator.code):
        yield f"the code of {name} ({_both(there or 'none', here or 'none')})"
    for name, _ in _unequal(node.knobs, coordinator.knobs):
        yield f"task.{name}"
    if node.layout != coordinator.layout:
        yield f"the model's layout ({_first_tensor(node.tensors, coordinator.tensors)})"
    elif node.kept != coordinator.kept:
        yield "weights that never travel, frozen or personal ones (task.initial says where from)"
    if node.examples != coordinator.examples:
        yield "the task's examples"
    elif node.partition != coordinator.partition:
        yield f"who holds which examples{_versions(node.versions, coordinator.versions)}"


def _unequal(
    node: Mapping[str, str], coordinator: Mapping[str, str]
) -> Iterator[tuple[str, tuple[str, str]]]:
    for name in sorted({*node, *coordinator}):
        there, here = node.get(name, ""), coordinator.get(name, "")
        if there != here:
            yield name, (there, here)


def _first_tensor(node: tuple[str, ...], coordinator: tuple[str, ...]) -> str:
    """Name the first tensor that is another one, if it is among those that are listed."""
    for place in range(max(len(node), len(coordinator))):
        there, here = (side[place : place + 1] for side in (node, coordinator))
        if there != here:
            return _both(*(side[0] if side else "no further tensor" for side in (there, here)))
    return "the first tensors are the same"


def _versions(node: Mapping[str, str], coordinator: Mapping[str, str]) -> str:
    said = [f"{name} {_both(*sides)}" for name, sides in _unequal(node, coordinator)]
    return f" ({', '.join(said)})" if said else ""


def _both(node: str, coordinator: str) -> str:
    return f"{node[:_MOST_SHOWN]} at the node, {coordinator[:_MOST_SHOWN]} at the coordinator"


def _fitting(tensors: Iterable[str], room: int) -> tuple[str, ...]:
    kept: list[str] = []
    for tensor in tensors:
        room -= len(_json(tensor)) + 1
        if room < 0:
            break
        kept.append(tensor)
    return tuple(kept)


def _json(value: Any) -> str:  # noqa: ANN401 - what JSON holds
    return json.dumps(value, separators=(",", ":"), sort_keys=True)
