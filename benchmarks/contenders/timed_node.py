"""`roundel` with a stopwatch: a node notes how fast each payload came and went."""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from roundel.cli.main import main
from roundel.client import grpc_session
from roundel.client.grpc_session import Session
from roundel.core.wire import roundel_pb2 as pb

STREAMS = "ROUNDEL_STREAMS"
"""The variable of the environment that names the file for what was noted."""


def note(way: str, size: int, began_s: float) -> None:
    """Write down how long a payload took that began to travel at this time."""
    line = {"way": way, "megabytes": size / 1e6, "seconds": time.perf_counter() - began_s}
    with Path(os.environ[STREAMS]).open("a") as file:
        file.write(json.dumps(line) + "\n")


def timed_download(session: Session, payload: pb.Payload) -> memoryview:
    """Return a payload, whose digest has been compared."""
    began_s = time.perf_counter()
    data = _download(session, payload)
    note("down", payload.size, began_s)
    return data


def timed_upload_of(channel: Any) -> Any:  # noqa: ANN401 - gRPC's own types
    """Return the call `Upload`; the time ends when its last message is on its way."""
    upload = _upload_of(channel)

    def timed(parts: Iterator[bytes]) -> Any:  # noqa: ANN401 - a verdict
        def passed_on() -> Iterator[bytes]:
            began_s, size = time.perf_counter(), 0
            for part in parts:
                yield part
                size += len(part)
            note("up", size, began_s)

        return upload(passed_on())

    return timed


_download, _upload_of = Session.download, grpc_session.upload_of

if __name__ == "__main__":
    Session.download = timed_download
    grpc_session.upload_of = timed_upload_of
    main()
