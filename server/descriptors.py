"""How many connections a process may hold, so that files can always be opened beside them."""

import resource

_MOST = 20_000


def connections_at_most() -> int:
    """Raise the limit of open files as far as this process may, and return half of it at most."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return _MOST if hard == resource.RLIM_INFINITY else min(_MOST, hard // 2)
