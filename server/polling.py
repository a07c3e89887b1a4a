"""Looking at something again and again while something else goes on."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def polling(look: Callable[[], None], every_s: float) -> Iterator[None]:
    """Call a function all through the block, from a thread of its own.

    Args:
        look: Called at once, then again and again, and for a last time after the block unless that
            has failed.
        every_s: How long to pause between two calls.
    """
    done = threading.Event()

    def poll() -> None:
        look()
        while not done.wait(every_s):
            look()

    thread = threading.Thread(target=poll, name="polling", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
    look()
