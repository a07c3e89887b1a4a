"""Having the garbage collector leave alone what is there already."""

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_lock = threading.Lock()
_blocks: list[None] = []  # that are open: thawing is for the whole process, so the last one does it


@contextmanager
def frozen() -> Iterator[None]:
    """Let the garbage collector not look, in the block, at what is there when it begins.

    Libraries and the task are hundreds of thousands of objects, and no thread does anything while
    they are looked at, for tenths of a second, in vain. Blocks may be nested and may overlap in
    several threads: what is frozen stays so until the last one ends.
    """
    with _lock:
        gc.freeze()
        _blocks.append(None)
    try:
        yield
    finally:
        with _lock:
            _blocks.pop()
            if not _blocks:
                gc.unfreeze()
