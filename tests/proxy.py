"""A TCP proxy that cuts and slows connections, for tests of what a broken network does."""

import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

_PIECE = 1 << 14


def _at_once() -> float:
    return 0.0


class CuttingProxy:
    """Passes bytes on between whoever connects and a server.

    Attributes:
        address: Where it listens, as ``host:port``.
        cuts: How many connections it has cut.
        wait_s: How long it holds a piece back.
    """

    def __init__(
        self, target: str, budgets: Sequence[int], wait_s: Callable[[], float] = _at_once
    ) -> None:
        """Listen.

        Args:
            target: ``host:port`` of the server.
            budgets: After how many bytes, of both directions together, to cut the first
                connection, the second, and so on; those beyond are left alone.
            wait_s: How long to hold a piece back before it is passed on.
        """
        host, _, port = target.rpartition(":")
        self._target = (host, int(port))
        self._budgets = list(budgets)
        self.wait_s = wait_s
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.cuts = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Accept no further connections."""
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                try:
                    far = socket.create_connection(self._target)
                except OSError:  # the server is away
                    near.close()
                    continue
                budget = self._budgets.pop(0) if self._budgets else None
                _Link(self, near, far, budget).start()

    def note_cut(self) -> None:
        """Count a connection that was cut."""
        with self._lock:
            self.cuts += 1


class _Link:
    """One connection."""

    def __init__(
        self, proxy: CuttingProxy, near: socket.socket, far: socket.socket, budget: int | None
    ) -> None:
        self._proxy = proxy
        self._ends = (near, far)
        self._left = budget
        self._lock = threading.Lock()

    def start(self) -> None:
        near, far = self._ends
        for source, sink in ((near, far), (far, near)):
            threading.Thread(target=self._pass, args=(source, sink), daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(_PIECE):
                data = data[: self._allowance(len(data))]
                time.sleep(self._proxy.wait_s())
                sink.sendall(data)
                if self._left == 0:
                    break
        self._end()

    def _allowance(self, wanted: int) -> int:
        """Return how many more bytes may pass, and count them."""
        with self._lock:
            if self._left is None:
                return wanted
            allowed = min(wanted, self._left)
            self._left -= allowed
            if allowed and self._left == 0:
                self._proxy.note_cut()
            return allowed

    def _end(self) -> None:
        for end in self._ends:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


@contextmanager
def cutting(
    target: str, budgets: Sequence[int], wait_s: Callable[[], float] = _at_once
) -> Iterator[CuttingProxy]:
    """Yield a proxy in front of a server."""
    proxy = CuttingProxy(target, budgets, wait_s)
    try:
        yield proxy
    finally:
        proxy.close()
