"""How a coordinator is reached."""

import socket
from pathlib import Path

import pytest

from roundel.cli.security import Access
from roundel.core.errors import ConfigError
from roundel.simulations.serving import check_address, check_free, invitation


@pytest.mark.parametrize("listen", ["127.0.0.1:8470", "localhost:0", "[::1]:1"])
def test_loopback_needs_no_encryption(listen):
    check_address(listen, secured=False, insecure=False)


@pytest.mark.parametrize("listen", ["192.0.2.1:8470", "[::]:8470"])
def test_others_can_read_along_only_if_it_is_meant(listen):
    with pytest.raises(ConfigError, match="is not a loopback address, and the wire is not"):
        check_address(listen, secured=False, insecure=False)
    check_address(listen, secured=True, insecure=False)
    check_address(listen, secured=False, insecure=True)


def test_an_address_that_is_taken_is_refused():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ConfigError, match=f"cannot listen on {address}: choose a free"):
            check_free(address)
    check_free("127.0.0.1:0")


def test_a_node_is_invited_to_where_it_can_call(monkeypatch):
    monkeypatch.setattr(socket, "gethostname", lambda: "here")
    assert invitation("127.0.0.1:1", "", secured=False) == "roundel join 127.0.0.1:1 --insecure"
    assert invitation("0.0.0.0:1", "--flower APP", secured=True) == (
        "roundel join here:1 --flower APP, the first time with a --token, which is made here by "
        "`roundel nodes token --coordinator 127.0.0.1:1`"
    )
    own = Access(authority=Path("our authority")).inviting
    assert invitation("127.0.0.1:1", "", secured=True, inviting=own).endswith(
        "`roundel nodes token --authority 'our authority' --coordinator 127.0.0.1:1`"
    )


@pytest.mark.parametrize("insecure", [True, False])
def test_a_port_that_there_is_not_is_refused(insecure):
    with pytest.raises(ConfigError, match="has the port 65536; ports go from 0 to 65535"):
        check_address("127.0.0.1:65536", secured=not insecure, insecure=insecure)
    check_address("127.0.0.1:65535", secured=not insecure, insecure=insecure)
