"""Files of events, as TensorBoard reads them; of it, only the format is needed."""

from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from roundel.core.errors import ConfigError


def need_tensorboard(asked_by: str, remedy: str = "") -> None:
    """Refuse to begin without the package.

    Args:
        asked_by: What needs it, such as ``"--tensorboard"``.
        remedy: What else helps than to install it, such as ``" or leave the option out"``.

    Raises:
        ConfigError: It is not installed.
    """
    if find_spec("tensorboard") is None:
        raise ConfigError(
            f"{asked_by} needs the package tensorboard, which is not installed; install it with "
            f"`pip install 'roundel[tensorboard]'`{remedy}"
        )


class EventFile:
    """A file of events that grows round by round."""

    def __init__(self, path: Path, wall_time: float) -> None:
        """Begin a new file.

        Args:
            path: Of a name that begins with ``events.out.tfevents.``.
            wall_time: When, in seconds since 1970.

        Raises:
            OSError: It exists, or cannot be written.
        """
        self._file = path.open("xb", buffering=0)
        self._append(_event().Event(wall_time=wall_time, file_version="brain.Event:2"))

    def add(self, step: int, values: Mapping[str, float], wall_time: float) -> None:
        """Add the figures of a round.

        Args:
            step: The round.
            values: By tag; see `roundel.reports.scalars`.
            wall_time: When it ended, in seconds since 1970.

        Raises:
            OSError: They cannot be written.
        """
        summary: Any = import_module("tensorboard.compat.proto.summary_pb2").Summary
        entries = [summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
        self._append(_event().Event(wall_time=wall_time, step=step, summary=summary(value=entries)))

    def _append(self, event: Any) -> None:  # noqa: ANN401 - protoc writes no annotations
        from tensorboard.summary.writer.record_writer import (  # noqa: PLC0415 - see the extra
            RecordWriter,
        )

        RecordWriter(self._file).write(event.SerializeToString())

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _event() -> Any:  # noqa: ANN401 - protoc writes no annotations
    return import_module("tensorboard.compat.proto.event_pb2")
