"""Letting an event loop answer soon while other threads of the process compute."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from roundel.core.collector import frozen, seldom

_SWITCH_S = 0.001
"""How long a thread that computes keeps the interpreter while another waits for it.

An event loop lets go of it several times a turn, and waits so long each time to get it back.
"""


@contextmanager
def prompt() -> Iterator[None]:
    """Have threads take turns quickly in the block, and rubbish looked for among new objects only.

    To look through what was there before the block stops all threads.
    """
    before_s = sys.getswitchinterval()
    sys.setswitchinterval(min(before_s, _SWITCH_S))
    try:
        with frozen(), seldom():
            yield
    finally:
        sys.setswitchinterval(before_s)
