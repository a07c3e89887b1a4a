"""Addresses of coordinators."""

import pytest

from roundel.core.addresses import host_and_port
from roundel.core.errors import ConfigError


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("127.0.0.1:8470", ("127.0.0.1", 8470)),
        ("edge-7.example.org:1", ("edge-7.example.org", 1)),
        ("[2001:db8::7]:65535", ("2001:db8::7", 65535)),
        ("[fe80::1%eth0]:8470", ("fe80::1%eth0", 8470)),
    ],
)
def test_an_address_is_a_host_and_a_port(address, expected):
    assert host_and_port(address) == expected


@pytest.mark.parametrize(
    "address",
    ["", "host", "host:", ":8470", "host:http", "host:-1", "::1:8470", "a b:1", "http://host:1"],
)
def test_what_is_no_address_is_refused(address):
    with pytest.raises(ConfigError, match=r"is not an address; write HOST:PORT, such as"):
        host_and_port(address)


@pytest.mark.parametrize("port", [0, 65536, 99999])
def test_a_port_that_cannot_be_is_refused(port):
    with pytest.raises(ConfigError, match=rf"has the port {port}; ports go from 1 to 65535"):
        host_and_port(f"host:{port}")
