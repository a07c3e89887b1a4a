"""What verbs need that is not installed with Roundel itself."""

from importlib.util import find_spec

from roundel.core.errors import ConfigError

_REPORT = ("jinja2", "matplotlib", "scipy")


def need_report(verb: str) -> None:
    """Refuse to begin what would end without its figures.

    Args:
        verb: Such as ``"roundel compare"``.

    Raises:
        ConfigError: A package is missing.
    """
    for package in _REPORT:
        if find_spec(package) is None:
            raise ConfigError(
                f"{verb} needs the package {package}, which is not installed; install it with "
                "`pip install 'roundel[report]'`"
            )
