"""How a coordinator is reached, whatever it coordinates, and how it waits for nodes."""

import socket
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from roundel.core.addresses import LAST_PORT
from roundel.core.errors import ConfigError, RunFailed
from roundel.core.runfiles import AUTHORITY
from roundel.core.status import Snapshot
from roundel.server.grpc_coordinator import LEASE_S, Coordinator
from roundel.server.grpc_security import Security
from roundel.server.polling import polling

_LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
_EVERYWHERE = ("0.0.0.0", "[::]")  # noqa: S104 - told apart, not listened on
_LOOK_EVERY_S = 0.5


@dataclass(frozen=True, kw_only=True)
class Serving:
    """How a coordinator is reached, and who hears what it does.

    Attributes:
        listen: ``host:port``.
        say: Is told, in one line each, what happens.
        on_status: Called about twice a second, from another thread, with what the nodes are doing.
        security: Who may call; None for everybody, without encryption.
        insecure: Whether that is meant, on an address that others can reach.
        inviting: What makes a join token here.
        authority: The directory of the authority behind `security`, for the run to remember.
    """

    listen: str
    say: Callable[[str], None]
    on_status: Callable[[Snapshot], None] | None = None
    security: Security | None = None
    insecure: bool = False
    inviting: str = "roundel nodes token"
    authority: Path | None = None

    def line(self) -> dict[str, str]:
        """Return what ``environment.json`` says about it."""
        return {} if self.authority is None else {AUTHORITY: str(self.authority)}

    def check_address(self) -> None:
        """Refuse to let others read along without being told to; see `check_address`."""
        check_address(self.listen, secured=self.security is not None, insecure=self.insecure)


def check_address(listen: str, *, secured: bool, insecure: bool) -> None:
    """Refuse to let others read along without being told to.

    Args:
        listen: ``host:port``.
        secured: Whether callers prove who they are, and the wire is encrypted.
        insecure: Whether it is meant that they do not.

    Raises:
        ConfigError: It is an address that others can reach, unprotected and not on purpose, or
            there is no such port.
    """
    host, _, port = listen.rpartition(":")
    if port.isdecimal() and int(port) > LAST_PORT:
        raise ConfigError(f"--listen {listen} has the port {port}; ports go from 0 to {LAST_PORT}")
    if not secured and not insecure and host not in _LOOPBACK:
        raise ConfigError(
            f"--listen {listen} is not a loopback address, and the wire is not encrypted; "
            f"use one of {', '.join(f'{host}:PORT' for host in _LOOPBACK)}, or --insecure on a "
            "network that you trust"
        )


def check_free(listen: str) -> None:
    """Refuse an address that cannot be listened on, before anything is made.

    Raises:
        ConfigError: It is taken, or not this machine's.
    """
    host, _, port = listen.rpartition(":")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host.strip("[]"), int(port), type=socket.SOCK_STREAM
        )[0]
        with socket.socket(family, kind, protocol) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind(address)
    except (OSError, ValueError, OverflowError) as error:
        raise ConfigError(
            f"cannot listen on {listen}: choose a free address with --listen"
        ) from error


def invitation(
    address: str, options: str, *, secured: bool, inviting: str = Serving.inviting
) -> str:
    """Say what to type on a node.

    Args:
        address: Where the coordinator listens.
        options: What every node has to say besides, such as ``"--data PATH"``; may be empty.
        secured: Whether nodes need certificates.
        inviting: What makes a join token here.
    """
    host, _, port = address.rpartition(":")
    everywhere = host in _EVERYWHERE
    command = f"roundel join {socket.gethostname() if everywhere else host}:{port}"
    if options:
        command += f" {options}"
    if not secured:
        return f"{command} --insecure"
    here = f"127.0.0.1:{port}" if everywhere else address
    return (
        f"{command}, the first time with a --token, which is made here by "
        f"`{inviting} --coordinator {here}`"
    )


def announce(running: Coordinator, serving: Serving, options: str, *, resumed: bool) -> None:
    """Say where a coordinator listens, and what to type on nodes.

    Args:
        running: The coordinator.
        serving: How it is reached.
        options: What every node has to say besides; may be empty.
        resumed: Whether the run goes on.
    """
    began = "run resumed" if resumed else "run started"
    running.security.record(began, run=running.terms.run)
    join = invitation(
        running.address,
        options,
        secured=serving.security is not None,
        inviting=serving.inviting,
    )
    serving.say(f"listening on {running.address}; join with: {join}")


def looking(running: Coordinator, serving: Serving) -> AbstractContextManager[None]:
    """Show, all through the block, what the nodes are doing, if anybody wants to see it."""
    look = serving.on_status
    return polling(lambda: look(running.snapshot()), _LOOK_EVERY_S) if look else nullcontext()


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How to wait for nodes.

    Attributes:
        say: Is told how many clients are there, and for whom a round waits.
        timeout_s: How long to wait; None for ever.
        watch: Called while waiting; may raise.
    """

    say: Callable[[str], None]
    timeout_s: float | None = None
    watch: Callable[[], None] = lambda: None


def wait_for_nodes(running: Coordinator, clients: int, patience: Patience) -> None:
    """Wait until nodes host all clients.

    Raises:
        RunFailed: They do not in time.
    """
    if not nodes_come(running, clients, patience):
        raise RunFailed(
            f"only {running.nodes.hosted()} of {clients} clients were hosted after "
            f"{patience.timeout_s:g} s"
        )


def nodes_come(running: Coordinator, clients: int, patience: Patience) -> bool:
    """Wait for nodes; tell whether they host all clients in time."""
    began = time.monotonic()
    told = -1
    while not running.nodes.wait_for(clients, timeout_s=_LOOK_EVERY_S):
        patience.watch()
        running.store.journal.check()
        running.nodes.remove_silent(LEASE_S)  # so that others can host their clients
        if (hosted := running.nodes.hosted()) != told:
            patience.say(f"waiting for nodes: {hosted} of {clients} clients are hosted")
            told = hosted
        if patience.timeout_s is not None and time.monotonic() - began > patience.timeout_s:
            return False
    return True
