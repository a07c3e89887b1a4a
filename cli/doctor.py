"""``roundel doctor``: say what keeps this machine from being a node."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from roundel.cli.options import node_states
from roundel.core.errors import RoundelError

if TYPE_CHECKING:
    from roundel.client.checkup import Finding
    from roundel.core.wire.channel import Identity


def doctor(
    address: Annotated[str, typer.Argument(metavar="HOST:PORT", help="The coordinator.")],
    state: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="The node's directory, as in `roundel join`.", show_default=False
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="The node's own examples, as in `roundel join`.",
            show_default=False,
        ),
    ] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Expect a coordinator without encryption.")
    ] = False,
) -> None:
    """Look whether this machine can join a coordinator, and say what to do if it cannot.

    One line each: the coordinator's name, the connection, its certificate and this node's, whether
    it answers, its version, the clocks, the disk, the memory and the data. A line that begins with
    FAIL says what is in the way and the remedy; the exit code is 1 then.

    For example:

        roundel doctor coordinator.example:8470 --state node
    """
    from roundel.client.checkup import Level

    worst = 0
    for finding in _findings(address, state, data, insecure=insecure):
        typer.echo(finding.line())
        worst = max(worst, int(finding.level is Level.FAIL))
    raise typer.Exit(worst)


def _findings(
    address: str, state: Path | None, data: Path | None, *, insecure: bool
) -> Iterator["Finding"]:
    """Check everything that can be checked; what depends on something that failed is left out."""
    from roundel.client.checkup import check_data, check_disk, free_memory, memory_finding
    from roundel.core.addresses import host_and_port

    host, port = host_and_port(address)
    place = state or _joined(host, port)
    yield from _of_coordinator(address, host, port, None if insecure else place)
    yield check_disk(place)
    yield memory_finding(free_memory())
    if data is not None:
        yield check_data(data)


def _of_coordinator(address: str, host: str, port: int, place: Path | None) -> Iterator["Finding"]:
    """Check the way to a coordinator.

    Args:
        address: ``host:port``.
        host: Its first part.
        port: Its second part.
        place: The node's directory; None without encryption.
    """
    from roundel.client.checkup import (
        Level,
        check_connection,
        check_enrolment,
        check_name,
        check_tls,
    )
    from roundel.client.grpc_checkup import ask_health

    for check in (partial(check_name, host), partial(check_connection, host, port)):
        finding = check()
        yield finding
        if finding.level is Level.FAIL:
            return
    identity = None
    if place is not None:
        now = datetime.now(UTC)
        certificate, identity = _certificate(place, now)
        tls = check_tls(host, port, identity.authority if identity else None, now)
        yield from (certificate, tls)
        if Level.FAIL in (certificate.level, tls.level):
            return
        if identity is None:
            yield check_enrolment(host, port + 1)
            return
    yield from ask_health(address, identity, time.time)


def _certificate(place: Path, now: datetime) -> tuple["Finding", "Identity | None"]:
    """Return how a node's certificate is, and the certificate, if there is one."""
    from roundel.client.checkup import certificate_finding, failed, warned
    from roundel.client.identity import CERTIFICATE, FOLDER, IdentityDirectory

    identity = None
    try:
        if (place / FOLDER / CERTIFICATE).exists():  # nothing is made here
            identity = IdentityDirectory(place).read()
    except RoundelError as error:
        said, _, remedy = str(error).partition("; ")
        return failed("certificate", said, remedy), None
    if identity is None:
        return warned(
            "certificate",
            f"there is none in {place}",
            "join with a --token, or name the directory of a node that has joined with --state",
        ), None
    return certificate_finding(identity.certificate, now), identity


def _joined(host: str, port: int) -> Path:
    """Return the directory of the node that has joined this coordinator, or where it would be."""
    from roundel.client.identity import CERTIFICATE, FOLDER

    nodes = node_states(host, port)
    joined = sorted(path.parents[1] for path in nodes.glob(f"*/{FOLDER}/{CERTIFICATE}"))
    return joined[0] if joined else nodes
