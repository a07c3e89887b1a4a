"""What can go wrong, as one tree.

    RoundelError
    ├── ConfigError          a key, a value or a file of the configuration
    ├── CompositionError     parts of a strategy that contradict each other
    ├── DataError            examples that cannot be read or divided
    ├── ParameterError       vectors, names or shapes that do not fit the model
    ├── RunDirectoryError    a run directory that is missing, taken, damaged or full
    ├── ProtocolError        a peer that sent what the wire format does not allow
    │   └── SessionLost      ... in a session that is not known, or no longer
    └── RunFailed            a run that could not finish its rounds
        └── RoundAborted     ... because a round had too few updates to count

Every message is one sentence that says what was wrong, shows the value and names the remedy. The
command line prints that sentence and exits with the error's `exit_code`. A client that fails is not
an error here: it is a value, `roundel.core.messages.ClientFailure`.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar

from roundel.core.records import ClientRecord


class RoundelError(Exception):
    """Base of every error that Roundel raises on purpose.

    Attributes:
        exit_code: What the `roundel` command exits with when this error ends it.
    """

    exit_code: ClassVar[int] = 2


class ConfigError(RoundelError):
    """A key, a value or a file of the configuration is wrong."""


class CompositionError(RoundelError):
    """Two parts of a strategy contradict each other, or one lacks what it needs."""


class DataError(RoundelError):
    """Examples cannot be read, divided or used for the task."""


class ParameterError(RoundelError):
    """A vector, a name or a shape does not fit the model it is meant for."""


class RunDirectoryError(RoundelError):
    """A run directory is missing, already taken, damaged or cannot be written."""


class ProtocolError(RoundelError):
    """A peer sent something that the wire format does not allow."""


class SessionLost(ProtocolError):
    """A node's session is not known, or no longer; it may join anew."""


class RunFailed(RoundelError):
    """A run could not finish: too few clients answered, or recomputed rounds disagreed."""

    exit_code: ClassVar[int] = 1


class RoundAborted(RunFailed):
    """A round had too few updates to count, which ends the run.

    Attributes:
        clients: One record for each client of the cohort.
        failures: Client number to traceback, for clients that failed in user code.
    """

    def __init__(
        self, message: str, clients: Sequence[ClientRecord], failures: Mapping[int, str]
    ) -> None:
        super().__init__(message)
        self.clients = clients
        self.failures = failures
