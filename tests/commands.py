"""Run the `roundel` command in tests: in this process, or as a process of its own."""

import atexit
import contextlib
import fcntl
import io
import json
import os
import re
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from math import inf
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import IO, Any
from unittest.mock import patch

import pytest

from roundel.cli.main import main

ZYGOTE = Path(__file__).with_name("zygote.py")
TINY = (
    *("-s", "partition.clients=4", "-s", "cohort.size=2"),
    *("-s", "client.steps=1", "-s", "evaluation.clients=0"),
)
"""Settings of an experiment whose rounds take milliseconds."""


@dataclass(frozen=True)
class Ended:
    """What a command left behind."""

    code: int
    out: str
    err: str


def call(*args: object) -> Ended:
    """Run the command in this process, as if its output were piped."""
    out, err = io.StringIO(), io.StringIO()
    with (
        patch.object(sys, "argv", ["roundel", *map(str, args)]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        else:
            code = 0
    return Ended(code, out.getvalue(), err.getvalue())


def settings(**values: object) -> list[str]:
    """Write keys with ``__`` for the dot as options: ``cohort__size=2`` is ``-s cohort.size=2``."""
    return [part for key, value in values.items() for part in ("-s", _setting(key, value))]


def _setting(key: str, value: object) -> str:
    return f"{key.replace('__', '.')}={value}"


class Command:
    """A `roundel` process."""

    def __init__(self, pid: int, out: Path, err: Path) -> None:
        self.pid = pid
        self._out, self._err = out, err
        self._code: int | None = None

    @property
    def out(self) -> str:
        """What it has written to stdout so far; nothing if that is a terminal."""
        return self._out.read_text()

    @property
    def err(self) -> str:
        """What it has written to stderr so far."""
        return self._err.read_text()

    def poll(self) -> int | None:
        """Return the exit code (negative: the signal that ended it), or None while it runs."""
        if self._code is None:
            self._code = zygote().ask(poll=self.pid)["code"]
        return self._code

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)

    def wait_for(self, text: str) -> "re.Match[str]":
        """Wait until it has written something that matches; return the match."""
        while (found := re.search(text, self.out + self.err)) is None:
            assert self.poll() is None, f"it ended without {text!r}: {self.out}{self.err}"
            time.sleep(0.005)
        return found

    def ends_within(self, seconds: float) -> bool:
        """Wait so long, or until it has ended; tell whether it has."""
        limit = time.monotonic() + seconds
        while self.poll() is None:
            if time.monotonic() > limit:
                return False
            time.sleep(0.002)
        return True

    def wait(self) -> Ended:
        """Wait until it has ended."""
        while (code := self.poll()) is None:
            time.sleep(0.005)
        return Ended(code, self.out, self.err)


def start(
    *args: object,
    cwd: Path,
    terminal: str | None = None,
    log: Path | None = None,
    env: Mapping[str, str] | None = None,
    file_limit: int | None = None,
    obeys_permissions: bool = False,
    prelude: str | None = None,
) -> Command:
    """Start the command as a process.

    Args:
        args: Its arguments.
        cwd: Where it runs; its output goes to files there.
        terminal: A terminal for stdin and stdout.
        log: A file for stdout and stderr together.
        env: Additions to the environment.
        file_limit: Files cannot grow beyond so many bytes, as on a full disk.
        obeys_permissions: Whether the permissions of files hold even for root.
        prelude: A module of this folder that the process imports first.
    """
    number = zygote().count()
    out, err = log or cwd / f"command-{number}.out", log or cwd / f"command-{number}.err"
    for path in {out, err}:
        path.touch()
    job = {
        "args": [str(arg) for arg in args],
        "cwd": str(cwd),
        "env": dict(env or {}),
        "stdin": terminal or os.devnull,
        "stdout": terminal or str(out),
        "stderr": str(err),
        "file_limit": file_limit,
        "obeys_permissions": obeys_permissions,
        "prelude": prelude,
    }
    return Command(zygote().ask(start=job)["pid"], out, err)


def run(*args: object, cwd: Path, **how: Any) -> Ended:
    """Run the command as a process until it ends."""
    return start(*args, cwd=cwd, **how).wait()


class _Zygote:
    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(ZYGOTE)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._commands = 0
        atexit.register(self._end)

    def count(self) -> int:
        self._commands += 1
        return self._commands

    def ask(self, **message: object) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(message), file=self._process.stdin, flush=True)
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def _end(self) -> None:
        self._process.communicate()  # closes its stdin, which ends it


@cache
def zygote() -> _Zygote:
    """Return the process that forks commands, started when it is first needed."""
    return _Zygote()


@dataclass(frozen=True)
class Shown:
    """What a command showed on a terminal."""

    code: int
    text: str
    err: str


def on_terminal(*args: object, cwd: Path, columns: int = 80) -> Shown:
    """Run the command as a process with a terminal; return what it showed, without colours."""
    master, slave = os.openpty()
    try:
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        os.set_blocking(master, False)
        # readline, which pytest imports, leaves its own COLUMNS to all processes.
        env = {"TERM": "xterm-256color", "COLUMNS": str(columns), "LINES": "24"}
        command = start(*args, cwd=cwd, terminal=os.ttyname(slave), env=env)
        shown = b""
        while (code := command.poll()) is None:
            shown += _read_all(master)
            time.sleep(0.005)
        shown += _read_all(master)
    finally:
        os.close(slave)
        os.close(master)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode()).replace("\r", "\n")
    return Shown(code, text, command.err)


def _read_all(descriptor: int) -> bytes:
    data = b""
    with contextlib.suppress(BlockingIOError):
        while piece := os.read(descriptor, 65536):
            data += piece
    return data


def nodes_from_the_zygote(monkeypatch: pytest.MonkeyPatch, module: ModuleType, cwd: Path) -> None:
    """Let a module's `subprocess.Popen` of a `roundel` command be a fork, which starts at once."""

    class Popen:
        def __init__(self, command: list[str], stdout: IO[bytes], stderr: IO[bytes]) -> None:
            assert command[:3] == [sys.executable, "-m", "roundel.cli"]
            self._command = start(*command[3:], cwd=cwd, log=Path(stdout.name).resolve())
            self.returncode: int | None = None

        def poll(self) -> int | None:
            if self.returncode is None:
                self.returncode = self._command.poll()
            return self.returncode

        def wait(self, timeout: float | None = None) -> int:
            limit = inf if timeout is None else time.monotonic() + timeout
            while (code := self.poll()) is None:
                if time.monotonic() > limit:
                    raise subprocess.TimeoutExpired("roundel join", timeout or 0.0)
                time.sleep(0.005)
            return code

        def terminate(self) -> None:
            self._command.send(signal.SIGTERM)

    fake = SimpleNamespace(Popen=Popen, TimeoutExpired=subprocess.TimeoutExpired)
    monkeypatch.setattr(module, "subprocess", fake)
