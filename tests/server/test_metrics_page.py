"""The page of figures on a port of its own."""

import http.client
import socket
import time
from typing import Any

import pytest

from roundel.core.errors import ConfigError
from roundel.server import metrics_page as pages
from roundel.server.metrics_page import READERS, metrics_address, metrics_page

TIMEOUT_S = 10.0


def ask(address: str, method: str = "GET", path: str = "/metrics") -> tuple[int, str, str]:
    """Return status, type and body."""
    connection = http.client.HTTPConnection(address, timeout=TIMEOUT_S)
    connection.request(method, path)
    reply = connection.getresponse()
    found = (reply.status, reply.getheader("Content-Type", ""), reply.read().decode())
    connection.close()
    return found


def test_the_page_is_made_anew_for_each_reader():
    texts = iter(["one 1\n", "one 2\n"])
    with metrics_page("0", lambda: next(texts)) as address:
        assert address.startswith("127.0.0.1:")
        assert ask(address) == (200, "text/plain; version=0.0.4; charset=utf-8", "one 1\n")
        assert ask(address, path="/metrics?again")[2] == "one 2\n"


def test_nothing_else_is_answered():
    with metrics_page("127.0.0.1:0", lambda: "secret") as address:
        assert ask(address, path="/")[0] == 404
        assert ask(address, path="/metrics/../etc")[0] == 404
        for method in ("POST", "PUT", "DELETE", "HEAD"):
            status, _, body = ask(address, method)
            assert status == 501
            assert "secret" not in body


def test_a_page_that_cannot_be_made_does_not_end_the_server():
    pages: list[Any] = [None, "well"]
    with metrics_page("0", lambda: pages.pop(0)) as address:
        with pytest.raises(http.client.HTTPException):
            ask(address)
        assert ask(address)[2] == "well"


def test_readers_that_say_nothing_keep_a_limited_number_of_places():
    with metrics_page("0", lambda: "page") as address:
        host, _, port = address.partition(":")
        silent = [socket.create_connection((host, int(port)), TIMEOUT_S) for _ in range(READERS)]
        with pytest.raises((http.client.HTTPException, ConnectionError)):
            ask(address)
        for one in silent:
            one.close()
        assert eventually(address) == "page"


def test_readers_that_say_a_little_now_and_then_lose_their_places(monkeypatch):
    monkeypatch.setattr(pages, "MOST_S", 0.05)
    with metrics_page("0", lambda: "page") as address:
        host, _, port = address.partition(":")
        slow = [socket.create_connection((host, int(port)), TIMEOUT_S) for _ in range(READERS)]
        for one in slow:
            one.sendall(b"G")
        assert [one.recv(1) for one in slow] == [b""] * READERS
        for one in slow:
            one.close()
        assert eventually(address) == "page"


def eventually(address: str) -> str:
    """Ask until there is a place again."""
    until_s = time.monotonic() + TIMEOUT_S
    while True:
        try:
            return ask(address)[2]
        except (http.client.HTTPException, ConnectionError):
            assert time.monotonic() < until_s


def test_a_port_that_is_taken_is_one_sentence():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with (
            pytest.raises(ConfigError, match=rf"^cannot listen on {address} for --metrics: "),
            metrics_page(address, lambda: ""),
        ):
            pass


@pytest.mark.parametrize(
    ("listen", "address"),
    [
        ("9464", ("127.0.0.1", 9464)),
        (":9464", ("127.0.0.1", 9464)),
        ("0.0.0.0:1", ("0.0.0.0", 1)),
        ("edge.example:80", ("edge.example", 80)),
    ],
)
def test_a_port_alone_is_one_of_loopback(listen, address):
    assert metrics_address(listen) == address


@pytest.mark.parametrize("listen", ["", "host", "host:", "1:2:3", "h:65536", "a b:1", "h:-1"])
def test_what_is_no_address_is_refused_with_an_example(listen):
    with pytest.raises(ConfigError, match="is not an address; write HOST:PORT or a port"):
        metrics_address(listen)
