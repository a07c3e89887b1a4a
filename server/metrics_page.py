"""The page that Prometheus reads, on a port of its own.

It answers ``GET /metrics`` and nothing else, to a limited number of readers at a time.
"""

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socket import SHUT_RDWR, socket
from socketserver import TCPServer

from roundel.core.errors import ConfigError
from roundel.server.metrics_text import CONTENT_TYPE

TIMEOUT_S = 5.0
"""How long a reader may keep silent before it has asked."""

MOST_S = 15.0
"""How long a reader may take in all, however often it says a little or reads a little."""

READERS = 8
"""How many are answered at a time; more are hung up on."""

_LOOPBACK = "127.0.0.1"
_PORTS = 1 << 16


@contextmanager
def metrics_page(listen: str, text: Callable[[], str]) -> Iterator[str]:
    """Serve the page from a thread all through the block; yield where, as ``host:port``.

    Args:
        listen: ``host:port``, or a port alone for loopback; port 0 picks a free one.
        text: Returns the page; called for each reader, from several threads.

    Raises:
        ConfigError: The address cannot be listened on.
    """
    host, port = metrics_address(listen)
    try:
        server = _Server((host, port), _handler(text))
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {host}:{port} for --metrics: {error.strerror}; choose another port"
        ) from error
    thread = threading.Thread(
        target=server.serve_forever, args=(0.1,), name="metrics page", daemon=True
    )
    thread.start()
    try:
        yield f"{host}:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def metrics_address(listen: str) -> tuple[str, int]:
    """Return host and port; loopback if only a port is named.

    >>> metrics_address("9464"), metrics_address("0.0.0.0:9464")
    (('127.0.0.1', 9464), ('0.0.0.0', 9464))

    Raises:
        ConfigError: It is no address.
    """
    match = re.fullmatch(r"(?:([\w.-]*):)?(\d{1,5})", listen, re.ASCII)
    if match is None or int(match[2]) >= _PORTS:
        raise ConfigError(
            f"--metrics {listen!r} is not an address; write HOST:PORT or a port, such as 9464"
        )
    return match[1] or _LOOPBACK, int(match[2])


class _Server(ThreadingHTTPServer):
    """A server that answers a limited number of readers at a time."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = READERS

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        self._places = threading.BoundedSemaphore(READERS)
        super().__init__(address, handler)

    def server_bind(self) -> None:
        TCPServer.server_bind(self)  # without asking a name server who this host is
        self.server_name, self.server_port = "roundel", self.socket.getsockname()[1]

    def process_request(
        self, request: socket | tuple[bytes, socket], client_address: object
    ) -> None:
        if self._places.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(
        self, request: socket | tuple[bytes, socket], client_address: object
    ) -> None:
        over = threading.Timer(MOST_S, _hang_up, (request,))
        over.daemon = True
        over.start()
        try:
            super().process_request_thread(request, client_address)
        finally:
            over.cancel()
            self._places.release()

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: a reader that hangs up is no news."""


def _hang_up(request: socket | tuple[bytes, socket]) -> None:
    with suppress(OSError):  # it has ended meanwhile
        (request if isinstance(request, socket) else request[1]).shutdown(SHUT_RDWR)


def _handler(text: Callable[[], str]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = TIMEOUT_S
        server_version = "roundel"
        sys_version = ""

        def do_GET(self) -> None:
            if self.path.partition("?")[0] != "/metrics":
                self._answer(HTTPStatus.NOT_FOUND, b"the page is /metrics\n")
            else:
                self._answer(HTTPStatus.OK, text().encode())

        def _answer(self, status: HTTPStatus, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", CONTENT_TYPE)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its base says so
            """Say nothing."""

    return Handler
