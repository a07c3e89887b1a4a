"""A real SuperLink with real SuperNodes, on this machine, as the README of an exported app says."""

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

BIN = Path(sys.executable).parent
QUICK = {"FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.2", "FLWR_TELEMETRY_ENABLED": "0"}
PORTS = ("8000", "9094", "9095")
"""Those that the README names."""

BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)


class SuperLink:
    """What is needed to have apps run."""

    def __init__(self, folder, command, environment):
        self.folder, self._command, self._environment = folder, command, environment

    def submit(self, app, out):
        """Have an app run; its run directory is to be `out`."""
        words = shlex.split(self._command.replace("/tmp/first", str(out)))
        words.remove("--stream")  # else it would wait for the end
        done = subprocess.run(
            [BIN / words[0], *words[1:]],
            cwd=app,
            env=self._environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=100,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def logs(self):
        """Return the ends of all logs."""
        files = sorted(self.folder.glob("*.log"))
        return "\n".join(f"== {file.name}\n{file.read_text()[-3000:]}" for file in files)


@contextmanager
def superlink(folder, readme):
    """Yield a SuperLink with two SuperNodes; all of it ends with the block.

    Args:
        folder: Where logs lie, and what Flower writes into one's home.
        readme: What says the commands; ports that nobody uses take the place of its own.
    """
    text = readme.read_text()
    ports = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
    for said, free in ports.items():
        text = re.sub(rf"\b{said}\b", free, text)
    blocks = BLOCK.findall(text)
    lines = [line for kind, block in blocks if kind == "sh" for line in block.splitlines()]
    [config] = [block for kind, block in blocks if kind == "toml"]
    [command] = [line for line in lines if line.startswith("flwr run . local-deployment")]
    link, *nodes = [line for line in lines if line.startswith("flower-")]
    home = folder / "home"
    home.mkdir(parents=True)
    (home / "config.toml").write_text(config)
    path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, **QUICK, "PATH": path, "FLWR_HOME": str(home)}
    started = []

    def start(line, name):
        words = shlex.split(line)
        with (folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                [BIN / words[0], *words[1:]],
                env=environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        started.append(process)

    try:
        start(f"{link} --port {ports['8000']}", "superlink")
        assert wait_until(lambda: listens(int(ports["8000"])), 60)
        for number, node in enumerate(nodes):
            start(node, f"node-{number}")
        yield SuperLink(folder, command, environment)
    finally:
        for process in started:
            os.killpg(process.pid, signal.SIGTERM)
        for process in started:
            end(process)


def end(process):
    """Wait for a process, and for no longer than it should take."""
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait_until(holds, timeout_s):
    """Wait until something holds; return whether it does."""
    until = time.monotonic() + timeout_s
    while not (found := holds()) and time.monotonic() < until:
        time.sleep(0.2)
    return found


def listens(port):
    """Tell whether somebody listens on a port."""
    with socket.socket() as trial:
        return trial.connect_ex(("127.0.0.1", port)) == 0


def free_ports(count):
    """Return ports that nobody uses, as text."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [str(each.getsockname()[1]) for each in sockets]
    finally:
        for each in sockets:
            each.close()
