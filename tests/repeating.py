"""Imported first by a node's process: it sends some of its answers twice, as a lost reply makes it.

The two verdicts must be the same.
"""

import os
import random
from collections.abc import Iterable
from typing import Any

from roundel.core.wire import roundel_pb2 as pb
from roundel.core.wire import roundel_pb2_grpc as pb_grpc

SHARE = 0.5
_honest = pb_grpc.FederationStub
_dice = random.Random(int(os.environ.get("REPEATING_SEED", "0")))


class RepeatingStub:
    """The calls of a coordinator."""

    def __init__(self, channel: Any) -> None:
        self._stub = _honest(channel)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stub, name)

    def Upload(self, parts: Iterable[pb.UploadPart], **how: Any) -> Any:
        whole = [pb.UploadPart.FromString(part.SerializeToString()) for part in parts]
        first = self._stub.Upload(iter(whole), **how)
        return self._again(first, lambda: self._stub.Upload(iter(whole), **how))

    def Fail(self, report: Any, **how: Any) -> Any:
        first = self._stub.Fail(report, **how)
        return self._again(first, lambda: self._stub.Fail(report, **how))

    def Report(self, report: Any, **how: Any) -> Any:
        first = self._stub.Report(report, **how)
        return self._again(first, lambda: self._stub.Report(report, **how))

    def _again(self, first: Any, repeat: Any) -> Any:
        if _dice.random() < SHARE:
            second = repeat()
            assert second == first, f"{second} after {first}"
        return first


pb_grpc.FederationStub = RepeatingStub
