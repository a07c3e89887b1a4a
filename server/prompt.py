"""Letting an event loop answer soon while other threads of the process compute."""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from roundel.core.collector import frozen

_SWITCH_S = 0.001
"""How long a thread that computes keeps the interpreter while another waits for it.

An event loop lets go of it several times a turn, and waits so long each time to get it back.
"""

_RARELY = 100
"""After how many looks at young objects the collector looks at all of them.

With ten, as Python has it, it would go through the calls of a thousand nodes several times a round,
a tenth of a second each, and find next to nothing.
"""


@contextmanager
def prompt() -> Iterator[None]:
    """Have threads take turns quickly in the block, and rubbish looked for among new objects only.

    To look through what was there before the block stops all threads.
    """
    before_s, (young, middle, old) = sys.getswitchinterval(), gc.get_threshold()
    sys.setswitchinterval(min(before_s, _SWITCH_S))
    gc.set_threshold(young, middle, max(old, _RARELY))
    try:
        with frozen():
            yield
    finally:
        gc.set_threshold(young, middle, old)
        sys.setswitchinterval(before_s)
