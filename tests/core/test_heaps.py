"""Threads that share the heaps of the C library."""

import ctypes
import subprocess
import sys

import pytest

from roundel.core.heaps import share_heaps

MANY = """
import ctypes, sys, threading
{before}
def work():
    kept.append([bytearray(3000) for _ in range(300)])
    there.wait()
kept, there = [], threading.Barrier(9)
threads = [threading.Thread(target=work) for _ in range(8)]
for each in threads:
    each.start()
there.wait()
libc = ctypes.CDLL(None)
libc.fopen.restype = ctypes.c_void_p
out = ctypes.c_void_p(libc.fopen(b"/dev/stdout", b"w"))
libc.malloc_info(0, out)
libc.fflush(out)
"""
SHARE = "from roundel.core.heaps import share_heaps; share_heaps({count})"


def heaps_after(before: str) -> int:
    said = subprocess.run(
        [sys.executable, "-c", MANY.format(before=before)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return said.stdout.count("<heap nr=")


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_info"), reason="this is not glibc")
def test_threads_share_as_many_heaps_as_are_said():
    assert heaps_after("") > 3
    assert heaps_after(SHARE.format(count=3)) == 3
    assert heaps_after(SHARE.format(count=2)) == 2


def test_where_there_is_no_such_choice_nothing_happens(monkeypatch):
    asked = []

    class Other:
        def __getattr__(self, name):
            asked.append(name)
            raise AttributeError(name)

    monkeypatch.setattr(ctypes, "CDLL", lambda _: Other())
    share_heaps()
    assert asked == ["mallopt"]
