"""Work that nobody has to wait for until the next of its kind, in a thread of its own."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self


class Behind:
    """Does one thing at a time while its owner goes on; all is done when its block ends."""

    def __init__(self, name: str) -> None:
        """Begin with nothing to do.

        Args:
            name: Of the thread.
        """
        self._thread = ThreadPoolExecutor(1, name)
        self._begun: Future[None] | None = None

    def do(self, work: Callable[[], None]) -> None:
        """Begin something once what was begun before is done; raises what that raised."""
        self.wait()
        self._begun = self._thread.submit(work)

    def wait(self) -> None:
        """Wait for what was begun last, if it is not waited for yet; raises what that raised."""
        begun, self._begun = self._begun, None
        if begun is not None:
            begun.result()

    def close(self) -> None:
        """Let what was begun come to its end, and begin nothing more."""
        self._thread.shutdown()

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        """Close it; an error of the block comes before one of what was begun."""
        self.close()
        if error is None:
            self.wait()
