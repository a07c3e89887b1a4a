"""Flower's names, all from here: who has no release that works is told what to do, and not where.

Only what Flower promises is used: `flwr.app`, `flwr.clientapp` and `flwr.serverapp`.
"""

from roundel.core.flowerversion import installed, need_flower

need_flower(installed())

from flwr.app import (  # noqa: E402 - after the check
    Array,
    ArrayRecord,
    ConfigRecord,
    Context,
    Message,
    MessageType,
    MetricRecord,
    RecordDict,
)
from flwr.clientapp import ClientApp  # noqa: E402
from flwr.serverapp import Grid, ServerApp  # noqa: E402
from flwr.serverapp.strategy import Result, Strategy  # noqa: E402

__all__ = [
    "Array",
    "ArrayRecord",
    "ClientApp",
    "ConfigRecord",
    "Context",
    "Grid",
    "Message",
    "MessageType",
    "MetricRecord",
    "RecordDict",
    "Result",
    "ServerApp",
    "Strategy",
]
