"""What a federation is doing, for Prometheus."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, TypeAlias

import typer

from roundel.core.status import Snapshot

OnStatus: TypeAlias = Callable[[Snapshot], None]

Metrics = Annotated[
    str | None,
    typer.Option(
        "--metrics",
        metavar="[HOST:]PORT",
        help="Serve figures for Prometheus at http://HOST:PORT/metrics; on loopback unless a host "
        "is named.",
        show_default=False,
    ),
]


@contextmanager
def measured(
    on_status: OnStatus, listen: str | None, say: Callable[[str], None]
) -> Iterator[OnStatus]:
    """Yield `on_status`, which also keeps the figures up to date if somebody may ask for them.

    Args:
        on_status: Called with what the nodes are doing.
        listen: Where the figures are asked for; None for nowhere.
        say: Is told where, in one line.

    Raises:
        ConfigError: The address cannot be listened on.
    """
    if listen is None:
        yield on_status
        return
    from roundel.server.metrics_page import metrics_page
    from roundel.server.metrics_text import metrics_text

    latest: Snapshot | None = None

    def keep(snapshot: Snapshot) -> None:
        nonlocal latest
        latest = snapshot
        on_status(snapshot)

    with metrics_page(listen, lambda: metrics_text(latest) if latest else "") as address:
        say(f"figures for Prometheus are at http://{address}/metrics")
        yield keep
