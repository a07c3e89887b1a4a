"""Ranks that are forks: how they end, and what they do not do."""

import os
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

from roundel.core.errors import ConfigError, RunFailed
from roundel.core.ranks import ALONE
from roundel.simulations.forks import forked

RUN = Path("runs/mine")


class OwnError(Exception):
    """An exception that Roundel does not know."""


def together(size, follow):
    """Let forks follow while rank 0 waits for them to say something."""
    with forked(size, follow, RUN) as ranks:
        ranks.gathered(b"")


def is_gone(process: int) -> bool:
    """Wait until a process has ended and somebody has waited for it."""
    limit = time.monotonic() + 10
    while time.monotonic() < limit:
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.01)
    return False


def test_a_single_rank_is_this_process():
    with forked(1, lambda _ranks: None, RUN) as ranks:
        assert ranks is ALONE


@pytest.mark.parametrize(
    ("error", "kind", "said", "is_noted"),
    [
        (ConfigError("seed = 1.5 is no whole number"), ConfigError, "seed = 1.5", False),
        (MemoryError("no room"), MemoryError, "no room", True),
        (OwnError("broken"), RunFailed, "rank 1 raised OwnError: broken", True),
        (UnicodeDecodeError("utf-8", b"x", 0, 1, "odd"), RunFailed, "UnicodeDecodeError", True),
    ],
)
def test_what_another_rank_raises_is_raised_here_with_its_traceback(error, kind, said, is_noted):
    def fail(ranks):
        if ranks.rank == 1:
            raise error
        ranks.gathered(b"")

    with pytest.raises(kind, match=said) as caught:
        together(3, fail)
    if kind is not RunFailed:
        notes = getattr(caught.value, "__notes__", [])
        assert any("in fail" in note for note in notes) == is_noted


@pytest.mark.parametrize(
    ("end", "said"),
    [
        (lambda: os.kill(os.getpid(), signal.SIGKILL), "by the signal SIGKILL, as systems do that"),
        (lambda: os._exit(7), "by exit code 7; what"),
    ],
)
def test_a_rank_that_dies_ends_the_run_with_its_name_and_how_to_go_on(end, said):
    def die(ranks):
        if ranks.rank == 2:
            end()
        ranks.gathered(b"")

    with pytest.raises(RunFailed, match=r"rank 2 \(process \d+\) was ended") as caught:
        together(3, die)
    assert said in str(caught.value)
    assert "`roundel resume runs/mine` goes on" in str(caught.value)


def test_a_rank_that_the_terminal_interrupts_interrupts_the_run():
    def stop(_ranks):
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        together(2, stop)


def test_forks_end_when_rank_0_raises_whatever_they_are_doing():
    def follow(ranks):
        ranks.gathered(str(os.getpid()).encode())
        time.sleep(100)

    processes = []

    def lead():
        with forked(3, follow, RUN) as ranks:
            processes.extend(int(said) for said in ranks.gathered(b"0")[1:])
            raise OwnError

    with pytest.raises(OwnError):
        lead()
    assert len(processes) == 2
    assert all(is_gone(process) for process in processes)


def test_forks_end_when_rank_0_is_killed_and_leave_no_files(tmp_path, monkeypatch):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))

    def follow(ranks):
        ranks.gathered(str(os.getpid()).encode())
        time.sleep(100)

    first = os.fork()
    if first == 0:
        try:
            with forked(3, follow, RUN) as ranks:
                said = ranks.gathered(b"0")[1:]
                (tmp_path / "partial").write_bytes(b" ".join(said))
                (tmp_path / "partial").rename(tmp_path / "processes")
                time.sleep(100)
        finally:
            os._exit(1)
    while not (tmp_path / "processes").exists():
        time.sleep(0.01)
    os.kill(first, signal.SIGKILL)
    os.waitpid(first, 0)
    processes = [int(said) for said in (tmp_path / "processes").read_text().split()]
    for process in processes:  # nobody here may wait for them, so that they may remain as zombies
        assert is_gone(process) or is_zombie(process)
    assert list(scratch.glob("roundel-ranks-*")) == []


def is_zombie(process: int) -> bool:
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


def test_the_user_may_interrupt_while_rank_0_waits_for_the_others():
    def dawdle(_ranks):
        time.sleep(40)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever runs the tests
    timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
    began = time.monotonic()
    timer.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            together(2, dawdle)
        timer.join()
    finally:
        signal.signal(signal.SIGINT, before)
    assert time.monotonic() - began < 20


def test_a_rank_waits_for_one_that_takes_longer_than_a_glance():
    def dawdle(ranks):
        time.sleep(0.5)
        ranks.gathered(b"")

    together(2, dawdle)


def test_forks_are_silent_and_print_nothing_twice(capfd):
    def talk(ranks):
        sys.stdout.write("from a fork\n")
        sys.stderr.write("from a fork")
        os.write(1, b"from a fork")
        ranks.gathered(b"")

    sys.stdout.write("before, without the end of the line")
    together(3, talk)
    sys.stdout.write("\n")
    out, err = capfd.readouterr()
    assert out == "before, without the end of the line\n"
    assert err == ""
