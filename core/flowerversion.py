"""Which releases of Flower work, and what to say about the others."""

from importlib.metadata import PackageNotFoundError, version

from roundel.core.errors import ConfigError

WORKS = "1.41"
INSTALL = "install one that works with `pip install 'roundel[flower]'`"


def installed() -> str | None:
    """Return the release of Flower that is installed, or None."""
    try:
        return version("flwr")
    except PackageNotFoundError:
        return None


def need_flower(found: str | None) -> None:
    """Refuse to begin with no Flower, or with a release that may work otherwise than expected.

    Args:
        found: What `installed` returns.

    Raises:
        ConfigError: It is not one that works.

    >>> need_flower("1.41.3")
    >>> need_flower("1.42.0")
    Traceback (most recent call last):
    ...
    roundel.core.errors.ConfigError: flwr 1.42.0 is installed, and Roundel works with flwr \
1.41.*; install one that works with `pip install 'roundel[flower]'`
    """
    if found is None:
        raise ConfigError(
            f"Flower apps and strategies need flwr {WORKS}.*, which is missing; {INSTALL}"
        )
    if ".".join(found.split(".")[:2]) != WORKS:
        raise ConfigError(
            f"flwr {found} is installed, and Roundel works with flwr {WORKS}.*; {INSTALL}"
        )
