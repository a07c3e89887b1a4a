"""The heaps of the C library, of which it gives each thread one, up to eight a core."""

import ctypes

_MOST_HEAPS = -8
"""What glibc calls M_ARENA_MAX."""


def share_heaps(count: int = 2) -> None:
    """Let all threads of this process share a few heaps; without glibc nothing happens.

    A heap keeps some of what was freed in it for next time. A coordinator whose threads pass a
    large model on in pieces keeps that several times over if each of them has its own.

    Args:
        count: How many, those included that there are.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MOST_HEAPS, count)
