"""Having the garbage collector leave alone what is there for long."""

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_lock = threading.Lock()
_blocks: list[None] = []  # that are open: thawing is for the whole process, so the last one does it

_RARELY = 100
"""After how many looks at young objects the collector looks at all of them; Python has ten."""


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


@contextmanager
def seldom() -> Iterator[None]:
    """Let the garbage collector look, in the block, at all objects a tenth as often.

    Where thousands of calls or replies live for a while, it would go through them several times a
    round, up to a tenth of a second each, and find next to nothing.
    """
    young, middle, old = gc.get_threshold()
    gc.set_threshold(young, middle, max(old, _RARELY))
    try:
        yield
    finally:
        gc.set_threshold(young, middle, old)
