"""A process that has imported everything, and forks a child for each `roundel` command.

Starting Python and importing torch takes seconds; a fork takes milliseconds. Each child is a true
process: it can be killed, interrupted, starved of disk space or given a terminal. What to do comes
in as one JSON object a line, and one goes out for each:

    {"start": {...}}   ->  {"pid": 4711}
    {"poll": 4711}     ->  {"code": null}, or the exit code once it has one
"""

import ctypes
import importlib
import json
import os
import resource
import signal
import sys
import traceback
from collections.abc import Callable
from typing import Any

import torch

import roundel.cli.run
import roundel.simulations.deployed
import roundel.simulations.flowerapps.served.deployed
import roundel.simulations.flowerapps.served.hosting  # noqa: F401 - children need not import it then
from roundel.cli.main import main


def serve(run: Callable[[], None]) -> None:
    """Answer until the other side hangs up; then end the children that still run."""
    children: set[int] = set()
    for line in sys.stdin:
        message = json.loads(line)
        if "start" in message:
            pid = _fork(message["start"], run)
            children.add(pid)
            reply = {"pid": pid}
        else:
            code = _poll(message["poll"])
            if code is not None:
                children.remove(message["poll"])
            reply = {"code": code}
        sys.stdout.write(json.dumps(reply) + "\n")
        sys.stdout.flush()
    for pid in children:
        os.kill(pid, signal.SIGKILL)


def _fork(job: dict[str, Any], run: Callable[[], None]) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        _settle(job)
        if job["prelude"]:
            importlib.import_module(job["prelude"])
        sys.argv = ["roundel", *job["args"]]
        run()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:  # noqa: BLE001 - as the interpreter ends a program
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _settle(job: dict[str, Any]) -> None:
    """Become what the job asks for: session, files, directory, limits."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for descriptor, path in enumerate((job["stdin"], job["stdout"], job["stderr"])):
        flags = os.O_RDWR if descriptor == 0 else os.O_RDWR | os.O_CREAT
        opened = os.open(path, flags, 0o600)
        os.dup2(opened, descriptor)
        os.close(opened)
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 - lives on
    sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 - lives on
    os.chdir(job["cwd"])
    sys.path.insert(0, job["cwd"])
    os.environ.update(job["env"])
    if job["file_limit"] is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (job["file_limit"], job["file_limit"]))
    if job["obeys_permissions"]:
        _obey_permissions()


def _obey_permissions() -> None:
    """Lose the right to read and write whatever root likes (CAP_DAC_OVERRIDE and its sister)."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    sets = (ctypes.c_uint32 * 6)()
    if libc.capget(header, sets) == 0:
        sets[0] &= ~0b110
        libc.capset(header, sets)


def _poll(pid: int) -> int | None:
    ended, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if ended else None


if __name__ == "__main__":
    torch.set_num_threads(1)
    serve(main)
