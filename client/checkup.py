"""Whether a machine can be a node: the way to the coordinator, certificates, clock, disk, data.

Each check is one `Finding`: what was looked at, how it is, and the remedy if it is not well.
"""

import os
import shutil
import socket
import ssl
import time
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from itertools import islice
from pathlib import Path

from roundel.core.certificates import from_pem, subject_of
from roundel.core.errors import ProtocolError
from roundel.core.wire.channel import COORDINATOR
from roundel.core.wire.versions import OURS, Version, mismatch

TIMEOUT_S = 5.0
"""How long the coordinator may take to answer."""

_GB = 10**9
DISK_BYTES = _GB
"""So much space a node should have for what it keeps."""

MEMORY_BYTES = _GB // 2
"""So much memory should be free for any node; how large a run's model is, only who joins hears."""

_NEEDED = f"a node needs {MEMORY_BYTES / _GB:g} GB beside its model and examples"

_CLOCK_S = 30.0
_CLOCK_LIMIT_S = 3600.0  # certificates begin an hour before they are made
_MEMORY_LIMIT = Path("/sys/fs/cgroup/memory.max")
_MEMORY_USED = Path("/sys/fs/cgroup/memory.current")
_MEMORY = Path("/proc/meminfo")


class Level(StrEnum):
    """How something is."""

    OK = "ok"
    WARN = "WARN"
    FAIL = "FAIL"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What one check has found.

    Attributes:
        what: Was looked at, in a word.
        said: How it is.
        level: Whether that is well.
        remedy: What to do about it if not.
    """

    what: str
    said: str
    level: Level = Level.OK
    remedy: str = ""

    def line(self) -> str:
        """Return it as one line."""
        remedy = f"; {self.remedy}" if self.remedy else ""
        return f"{self.level:<4}  {self.what:<11}  {self.said}{remedy}"


def warned(what: str, said: str, remedy: str) -> Finding:
    """Return that something may become trouble."""
    return Finding(what=what, said=said, level=Level.WARN, remedy=remedy)


def failed(what: str, said: str, remedy: str) -> Finding:
    """Return that something does not work."""
    return Finding(what=what, said=said, level=Level.FAIL, remedy=remedy)


# ---- the way to the coordinator


def check_name(host: str) -> Finding:
    """Look a host up."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or "no such name"
        return failed(
            "name",
            f"{host} cannot be looked up ({why})",
            "check the spelling and the name server, or write the address in numbers",
        )
    addresses = dict.fromkeys(str(address[0]) for *_, address in found)
    return Finding(what="name", said=f"{host} is {', '.join(islice(addresses, 3))}")


def check_enrolment(host: str, port: int) -> Finding:
    """Look whether a node can enrol at a port."""
    found = check_connection(host, port)
    if found.level is Level.OK:
        return replace(found, what="enrolment")
    return warned(
        "enrolment",
        f"{host} port {port} cannot be reached",
        f"let TCP port {port} through the firewalls, unless `roundel serve` has another "
        "--enrol-port",
    )


def check_connection(host: str, port: int) -> Finding:
    """Connect to a port and hang up."""
    began_s = time.monotonic()
    try:
        socket.create_connection((host, port), TIMEOUT_S).close()
    except TimeoutError:
        return failed(
            "connection",
            f"{host} port {port} did not answer in {TIMEOUT_S:g} s",
            f"let TCP port {port} through the firewalls on the way",
        )
    except OSError as error:
        return failed(
            "connection",
            f"{host} port {port}: {_why(error)}",
            "check the port, and that `roundel serve` runs and listens on an address that can be "
            "reached from here",
        )
    took_ms = 1000 * (time.monotonic() - began_s)
    return Finding(what="connection", said=f"{host} port {port} answers in {took_ms:.1f} ms")


def check_tls(host: str, port: int, authority: bytes | None, now: datetime) -> Finding:
    """Shake hands and look at the coordinator's certificate.

    Args:
        host: The coordinator.
        port: Of the federation.
        authority: In PEM; None if this node does not know its authority yet.
        now: In UTC.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.set_alpn_protocols(["h2"])
    if authority is None:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    else:
        context.load_verify_locations(cadata=authority.decode("ascii"))
    try:
        with (
            socket.create_connection((host, port), TIMEOUT_S) as plain,
            context.wrap_socket(plain, server_hostname=COORDINATOR) as secure,
        ):
            version, certificate = secure.version(), secure.getpeercert()
    except ssl.SSLCertVerificationError as error:
        return _mistrust(error, now)
    except ssl.SSLError:
        return failed(
            "tls",
            "the coordinator does not encrypt",
            "start it without --insecure, or use --insecure here too if the network is trusted",
        )
    except OSError as error:
        return failed("tls", f"the handshake broke off: {_why(error)}", "check what is in between")
    if not certificate:
        return Finding(what="tls", said=f"{version}; a node with a certificate can check whose")
    ends = datetime.fromtimestamp(
        ssl.cert_time_to_seconds(str(certificate["notAfter"])), tz=now.tzinfo
    )
    return Finding(
        what="tls", said=f"{version} with this node's coordinator, good for {_days(ends - now)}"
    )


def _mistrust(error: ssl.SSLCertVerificationError, now: datetime) -> Finding:
    """Say why the coordinator's certificate is not believed."""
    why = error.verify_message
    if "not yet valid" in why or "expired" in why:
        return failed(
            "tls",
            f"{why} by the clock here, which shows {now:%Y-%m-%d %H:%M} UTC",
            "set the clock if it is wrong, else restart `roundel serve` for a new certificate",
        )
    return failed(
        "tls",
        f"this is not the coordinator that this node enrolled with ({why})",
        "check the address; if the coordinator has a new authority, enrol anew with a token and an "
        "empty --state",
    )


# ---- what this node proves its name with


def certificate_finding(pem: bytes, now: datetime) -> Finding:
    """Say how a node's own certificate is.

    Args:
        pem: The certificate.
        now: In UTC.
    """
    try:
        subject = subject_of(from_pem(pem))
    except ProtocolError as error:
        return failed("certificate", str(error), "enrol anew with a token and an empty --state")
    whose = f"this is {subject.role} {subject.name!r}"
    if now < subject.starts:
        return failed(
            "certificate",
            f"{whose} from {subject.starts:%Y-%m-%d %H:%M} UTC on only, and the clock here shows "
            f"{now:%Y-%m-%d %H:%M}",
            "set the clock",
        )
    if now >= subject.ends:
        return failed(
            "certificate",
            f"{whose} until {subject.ends:%Y-%m-%d %H:%M} UTC, which is over",
            "set the clock if it is wrong, else revoke the name and enrol anew with a token",
        )
    said = f"{whose}, good for {_days(subject.ends - now)}"
    if subject.is_due(now):
        return warned("certificate", said, "it is renewed when the node joins")
    return Finding(what="certificate", said=said)


# ---- what the coordinator says


def protocol_finding(protocol: Version | None) -> Finding:
    """Say whether this node and its coordinator understand each other.

    Args:
        protocol: What the coordinator says it speaks.
    """
    if protocol is None:
        return warned(
            "protocol", "the coordinator does not say which it speaks", "upgrade Roundel there"
        )
    if problem := mismatch(socket.gethostname(), OURS, protocol):
        said, _, remedy = problem.partition("; ")
        return failed("protocol", said, remedy)
    return Finding(what="protocol", said=f"{OURS} here, {protocol} there")


def clock_finding(ahead_s: float | None, unsure_s: float) -> Finding:
    """Say how far the clocks are apart.

    Args:
        ahead_s: How many seconds the clock here is ahead of the coordinator's.
        unsure_s: By how much that may be wrong.
    """
    if ahead_s is None:
        return warned("clock", "the coordinator does not tell its time", "upgrade Roundel there")
    apart_s = max(0.0, abs(ahead_s) - unsure_s)
    side = "ahead of" if ahead_s > 0 else "behind"
    if apart_s < 1.0:
        return Finding(what="clock", said="as the coordinator's, within a second")
    said = f"{apart_s:.0f} s {side} the coordinator's"
    if apart_s <= _CLOCK_S:
        return Finding(what="clock", said=said)
    judged = failed if apart_s > _CLOCK_LIMIT_S else warned
    return judged("clock", said, "set both by NTP: certificates begin and end by the clock")


# ---- this machine


def check_disk(state: Path) -> Finding:
    """Look whether a node can keep its files in a directory, which need not be there yet."""
    place = next(path for path in (state.absolute(), *state.absolute().parents) if path.exists())
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        return failed(
            "disk", f"{place} cannot be written", "give this user the right, or choose --state"
        )
    free = shutil.disk_usage(place).free
    said = f"{free / _GB:.1f} GB free at {place}"
    if free < DISK_BYTES:
        return warned("disk", said, f"free {DISK_BYTES / _GB:g} GB, or choose another --state")
    return Finding(what="disk", said=said)


def memory_finding(free: int | None) -> Finding:
    """Say whether there is memory for a node, whatever it will train.

    Args:
        free: In bytes; None if that cannot be found out.
    """
    if free is None:
        return warned("memory", "this system does not say how much is free", "look yourself")
    said = f"{free / _GB:.1f} GB free; {_NEEDED}"
    if free < MEMORY_BYTES:
        return warned("memory", said, "end other programs, or give it more")
    return Finding(what="memory", said=said)


def free_memory() -> int | None:
    """Return how many bytes may still be used here, also if a container sets a limit."""
    try:
        lines = dict(line.split(":", 1) for line in _MEMORY.read_text().splitlines())
        free = 1024 * int(lines["MemAvailable"].split()[0])
    except (OSError, KeyError, ValueError, IndexError):
        return None
    try:
        return min(free, int(_MEMORY_LIMIT.read_text()) - int(_MEMORY_USED.read_text()))
    except (OSError, ValueError):  # no container, or one without a limit
        return free


def check_data(path: Path) -> Finding:
    """Look whether a node's own examples can be read; what they mean is the task's business."""
    try:
        if path.is_dir():
            count, unit = sum(1 for one in path.iterdir()), "entries"
        else:
            with path.open("rb") as file:
                file.read(1)
            count, unit = path.stat().st_size, "bytes"
    except OSError as error:
        return failed(
            "data",
            f"cannot read {path}: {_why(error)}",
            "check --data, and that this user may read it",
        )
    if not count:
        return failed("data", f"{path} is empty", "name the file or directory with the examples")
    return Finding(what="data", said=f"{path} can be read: {count} {unit}")


def _why(error: OSError) -> str:
    return (error.strerror or str(error)).lower()


def _days(left: timedelta) -> str:
    return f"{left.days} more day{'' if left.days == 1 else 's'}"
