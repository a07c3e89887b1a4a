"""Letting an event loop answer soon while other threads of the process compute."""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_SWITCH_S = 0.001
"""How long a thread that computes keeps the interpreter while another waits for it.

An event loop lets go of it several times a turn, and waits so long each time to get it back.
"""


@contextmanager
def prompt() -> Iterator[None]:
    """Have threads take turns quickly in the block, and rubbish looked for among new objects only.

    What was there before the block, several hundred thousand objects of libraries, is not looked
    through: that stops all threads, and is in vain.
    """
    before_s = sys.getswitchinterval()
    sys.setswitchinterval(min(before_s, _SWITCH_S))
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
        sys.setswitchinterval(before_s)
