"""What a coordinator says of itself along with the answer to a health check, as metadata."""

from collections.abc import Iterable
from dataclasses import dataclass
from math import isfinite

from roundel.core.wire.versions import Version

_PROTOCOL, _TIME = "roundel-protocol", "roundel-time"


@dataclass(frozen=True, kw_only=True)
class Greeting:
    """What a coordinator says of itself.

    Attributes:
        protocol: The version of the wire format that it speaks; None if it does not say.
        time_s: What its clock shows, in seconds since 1970; None if it does not say.
    """

    protocol: Version | None = None
    time_s: float | None = None


def greeting_to_metadata(protocol: Version, time_s: float) -> tuple[tuple[str, str], ...]:
    """Return what a coordinator says as metadata."""
    return ((_PROTOCOL, str(protocol)), (_TIME, f"{time_s:.3f}"))


def greeting_from_metadata(metadata: Iterable[tuple[str, str | bytes]]) -> Greeting:
    """Read metadata; what is not there or not understood is None."""
    said = dict(metadata)
    return Greeting(protocol=_version(said.get(_PROTOCOL)), time_s=_seconds(said.get(_TIME)))


def _version(text: str | bytes | None) -> Version | None:
    major, _, minor = text.partition(".") if isinstance(text, str) else ("", "", "")
    numbers = major.isdecimal() and minor.isdecimal()
    return Version(int(major), int(minor)) if numbers else None


def _seconds(text: str | bytes | None) -> float | None:
    try:
        seconds = float(text or "nan")
    except ValueError:
        return None
    return seconds if isfinite(seconds) else None
