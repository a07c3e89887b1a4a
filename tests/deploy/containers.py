"""Containers, networks and volumes in tests, through the `docker` command."""

import re
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from uuid import uuid4


def docker(*arguments: str) -> str:
    """Return what a `docker` command printed, on stdout and stderr."""
    ended = _docker(*arguments)
    assert ended.returncode == 0, f"docker {' '.join(arguments)}: {ended.stdout}"
    return ended.stdout.strip()


def _docker(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        ["docker", *arguments],
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@cache
def why_not() -> str | None:
    """Say why there can be no containers here; None if there can."""
    if shutil.which("docker") is None:
        return "there is no docker command"
    if (asked := _docker("version")).returncode:
        return f"no Docker engine answers: {asked.stdout.strip().splitlines()[-1]}"
    return None


def has_image(name: str) -> bool:
    """Tell whether an image is on this machine."""
    return _docker("image", "inspect", name).returncode == 0


@dataclass(frozen=True)
class Container:
    """A container that was started."""

    name: str

    @property
    def log(self) -> str:
        """What it has written so far, over all its lives."""
        return docker("logs", self.name)

    @property
    def running(self) -> bool:
        return self._inspect("{{.State.Running}}") == "true"

    @property
    def healthy(self) -> bool:
        """Whether its last health check was passed."""
        return self._inspect("{{.State.Health.Status}}") == "healthy"

    def wait_for(self, pattern: str, *, after: int = 0, within_s: float = 180.0) -> int:
        """Wait until its log holds a match.

        Args:
            pattern: A regular expression.
            after: Where to begin to look.
            within_s: How long that may take.

        Returns:
            Where the match ends.
        """
        limit = time.monotonic() + within_s
        while True:
            running, log = self.running, self.log
            if found := re.compile(pattern).search(log, after):
                return found.end()
            assert running, f"{self.name} ended without {pattern!r}:\n{log}"
            assert time.monotonic() < limit, f"{self.name}: no {pattern!r} in time:\n{log}"
            time.sleep(0.1)

    def wait(self, within_s: float = 180.0) -> int:
        """Wait until it has ended; return its exit code."""
        limit = time.monotonic() + within_s
        while self.running:
            assert time.monotonic() < limit, f"{self.name} does not end:\n{self.log}"
            time.sleep(0.1)
        return int(self._inspect("{{.State.ExitCode}}"))

    def wait_until_healthy(self, within_s: float = 180.0) -> None:
        limit = time.monotonic() + within_s
        while not self.healthy:
            assert self.running, f"{self.name} has ended:\n{self.log}"
            assert time.monotonic() < limit, self._inspect("{{json .State.Health}}")
            time.sleep(0.2)

    def do(self, verb: str) -> None:
        """Kill, start or unpause it."""
        docker(verb, self.name)

    def pause(self) -> None:
        """Let it stand still; on a busy machine an engine does not always manage at once."""
        limit = time.monotonic() + 30.0
        while _docker("pause", self.name).returncode:
            assert time.monotonic() < limit, docker("pause", self.name)
            time.sleep(0.2)

    def run(self, *command: str) -> str:
        """Return what a command in it printed."""
        return docker("exec", self.name, *command)

    def _inspect(self, what: str) -> str:
        return docker("inspect", "--format", what, self.name)


@dataclass(frozen=True)
class Network:
    """A network of containers that nothing leaves."""

    name: str
    image: str

    def start(
        self,
        alias: str,
        *command: str,
        entrypoint: str | None = None,
        volumes: Mapping[str, str],
        files: Mapping[Path, str] | None = None,
    ) -> Container:
        """Start a container.

        Args:
            alias: Under which others reach it.
            command: What it runs.
            entrypoint: Instead of that of the image.
            volumes: From the names of volumes to where they are mounted.
            files: From files of this machine to where they can be read.
        """
        options = ["--network", self.name, "--network-alias", alias, "--hostname", alias]
        # A check of a coordinator starts an interpreter: often enough to be seen, and no oftener.
        options += ["--health-interval", "8s", "--cap-drop", "ALL", "--read-only"]
        options += ["--tmpfs", "/tmp"]
        if entrypoint is not None:
            options += ["--entrypoint", entrypoint]
        for volume, place in volumes.items():
            options += ["--volume", f"{self.name}-{volume}:{place}"]
        for file, place in (files or {}).items():
            options += ["--volume", f"{file}:{place}:ro"]
        name = f"{self.name}-{alias}"
        docker("run", "--detach", "--label", self.name, "--name", name, *options, self.image,
               *command)  # fmt: skip
        return Container(name)

    def run(self, *command: str, files: Mapping[Path, str]) -> str:
        """Return what a container printed that runs to its end, on stdout; it reaches nobody."""
        mounts = [f"--volume={file}:{place}:ro" for file, place in files.items()]
        ended = subprocess.run(
            ["docker", "run", "--rm", "--network=none", *mounts, self.image, *command],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
        return ended.stdout

    def read(self, volume: str, path: str) -> str:
        """Return a file of a volume, given by where it lies in a container."""
        mount = f"--volume={self.name}-{volume}:/var/lib/roundel:ro"
        return docker("run", "--rm", "--network=none", mount, "--entrypoint=cat", self.image, path)

    def cut(self, container: Container) -> None:
        """Take a container off the network."""
        docker("network", "disconnect", self.name, container.name)

    def mend(self, container: Container) -> None:
        """Put it back, perhaps under another address."""
        alias = container.name.removeprefix(f"{self.name}-")
        docker("network", "connect", "--alias", alias, self.name, container.name)


@contextmanager
def network(image: str) -> Iterator[Network]:
    """Make a network; remove it with its containers and volumes at the end."""
    made = Network(f"roundel-test-{uuid4().hex[:8]}", image)
    docker("network", "create", "--internal", "--label", made.name, made.name)
    try:
        yield made
    finally:
        labelled = ("--quiet", "--filter", f"label={made.name}")
        if containers := docker("ps", "--all", *labelled).split():
            docker("rm", "--force", "--volumes", *containers)
        docker("network", "rm", made.name)
        volumes = docker("volume", "ls", "--quiet", "--filter", f"name={made.name}-").split()
        if volumes:
            docker("volume", "rm", *volumes)
