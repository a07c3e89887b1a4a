"""What a coordinator tells its nodes about the run of a Flower app: data alone, never code."""

import json
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from roundel.core.errors import ConfigError, ProtocolError

_KEY = "flower"
_MOST_CLIENTS = 1_000_000

Value = Annotated[bool | int | float | str, Field(union_mode="smart")]


class AppTerms(BaseModel):
    """What is to be run, in the place of an experiment."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")

    app: Annotated[str, Field(max_length=256)]
    """What the app is called."""
    seed: Annotated[int, Field(ge=-(1 << 63), lt=1 << 63)]
    """What everything that is drawn comes from."""
    clients: Annotated[int, Field(ge=1, le=_MOST_CLIENTS)]
    """How many there are."""
    config: dict[str, Value]
    """The settings of the app."""
    reply_limit: Annotated[int, Field(ge=0)]
    """How many bytes a reply may have."""

    def text(self) -> str:
        """Return it as JSON."""
        return json.dumps({_KEY: self.model_dump()})


def app_terms(text: str) -> AppTerms | None:
    """Read what a coordinator runs; None if that is an experiment.

    Raises:
        ProtocolError: It is neither.
    """
    try:
        tree: Any = json.loads(text)
        return AppTerms.model_validate(tree[_KEY]) if _KEY in tree else None
    except (ValueError, TypeError, RecursionError, ValidationError) as error:
        raise ProtocolError("the coordinator does not say what it runs") from error


def check_app(terms: AppTerms | None, app: Path | None, address: str) -> None:
    """Refuse a node that brings an app to a run without one, or none to a run of one.

    Args:
        terms: What the coordinator runs.
        app: The app's directory, if the node has one.
        address: The coordinator's.

    Raises:
        ConfigError: The node and the run do not go together.
    """
    if terms is None and app is not None:
        raise ConfigError(
            f"--flower {app} has no place in this run, which is one of Roundel's own: join with "
            f"`roundel join {address}`"
        )
    if terms is not None and app is None:
        raise ConfigError(
            f"this run is one of the Flower app {terms.app!r:.100}, of which each node has a copy: "
            f"join with `roundel join {address} --flower DIRECTORY`"
        )


def check_settings(terms: AppTerms, known: Collection[str], app: Path) -> None:
    """Refuse settings that a node's copy of the app has not: what they would change nobody knows.

    Args:
        terms: What the coordinator runs.
        known: The keys of the copy's settings.
        app: Its directory.

    Raises:
        ConfigError: There is one.
    """
    for key in terms.config:
        if key not in known:
            raise ConfigError(
                f"the coordinator sets {key!r:.100}, which is not a setting of the app in {app}; "
                "bring the same copy of the app as the coordinator has"
            )
