"""Bounds of a task's knobs; their types are checked from the annotations."""

from math import isfinite

from roundel.core.errors import ConfigError


def at_least(least: float, **knobs: float) -> None:
    """Check that knobs are finite and not too small.

    Args:
        least: The smallest value allowed.
        knobs: Values by the knobs' names.

    Raises:
        ConfigError: One is not.
    """
    for name, value in knobs.items():
        if not isfinite(value) or value < least:
            raise ConfigError(
                f"task.{name} = {value:g} is out of range; make it a finite number of "
                f"{least:g} or more"
            )
