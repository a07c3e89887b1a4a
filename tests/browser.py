"""A real browser without a window, told what to do through a pipe."""

import base64
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
_OPTIONS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
    *("--no-first-run", "--disable-background-networking", "--disable-component-update"),
    *("--hide-scrollbars", "--remote-debugging-pipe"),
)
_PATIENCE_S = 60.0


@dataclass
class Browser:
    """One page of a browser, by the DevTools protocol."""

    told: int
    tells: int
    events: list[dict[str, Any]] = field(default_factory=list)
    _rest: bytes = b""
    _count: int = 0
    _session: str | None = None

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Ask for something, and return what comes of it; events are kept."""
        self._count += 1
        message = {"id": self._count, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self.told, json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != self._count:
            self.events.append(answer)
        assert "error" not in answer, f"{method}: {answer['error']}"
        result: dict[str, Any] = answer["result"]
        return result

    def wait_for(self, method: str) -> dict[str, Any]:
        """Wait for an event that has come or comes."""
        while not (found := self.of(method)):
            self.events.append(self._next())
        return found[0]

    def of(self, method: str) -> list[dict[str, Any]]:
        """The events of a kind so far."""
        return [event["params"] for event in self.events if event.get("method") == method]

    def attach(self) -> None:
        """Open an empty page, and hear of everything that happens on it."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def open(self, path: Path) -> None:
        """Open a file, and wait until everything on it is there."""
        self.events.clear()
        self.call("Page.navigate", url=path.resolve().as_uri())
        self.wait_for("Page.loadEventFired")

    def show_as(self, *, width: int, media: str = "screen", scheme: str = "light") -> None:
        """Choose how wide the page is, whether it is printed, and whether it is dark."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=900,
            deviceScaleFactor=1,
            mobile=False,
        )
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", media=media, features=features)

    def evaluate(self, expression: str) -> Any:
        """The value of an expression of the page's own language, once it is settled."""
        found = self.call(
            "Runtime.evaluate",
            expression=expression,
            awaitPromise=True,
            returnByValue=True,
            userGesture=True,
        )
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def screenshot(self) -> bytes:
        """The whole page as PNG."""
        found = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        return base64.b64decode(found["data"])

    def complaints(self) -> list[str]:
        """What the console has said of errors and warnings."""
        found = [event["entry"]["text"] for event in self.of("Log.entryAdded")]
        found += [str(event["exceptionDetails"]) for event in self.of("Runtime.exceptionThrown")]
        return found + [str(event["args"]) for event in self.of("Runtime.consoleAPICalled")]

    def requests(self) -> list[str]:
        """The addresses that were asked for."""
        return [event["request"]["url"] for event in self.of("Network.requestWillBeSent")]

    def _next(self) -> dict[str, Any]:
        limit = time.monotonic() + _PATIENCE_S
        while b"\0" not in self._rest:
            left = limit - time.monotonic()
            assert left > 0, "the browser does not answer"
            if select.select([self.tells], [], [], left)[0]:
                piece = os.read(self.tells, 1 << 20)
                assert piece, "the browser has ended"
                self._rest += piece
        line, _, self._rest = self._rest.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        return message


@contextmanager
def browser(place: Path) -> Iterator[Browser]:
    """A browser that keeps what it has to keep in a directory; without one the test is skipped."""
    program = next(filter(None, map(shutil.which, _NAMES)), None)
    if program is None:
        pytest.skip("no browser is installed; `apt-get install chromium` brings one")
    told_end, told = os.pipe()
    tells, tells_end = os.pipe()
    # The browser reads from descriptor 3 and writes to 4: bash puts the pipes there.
    puts = f'exec "$0" "$@" 3<&{told_end} 4>&{tells_end}'
    words = [program, *_OPTIONS, f"--user-data-dir={place / 'profile'}", "about:blank"]
    process = subprocess.Popen(
        ["bash", "-c", puts, *words],
        pass_fds=(told_end, tells_end),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(told_end)
    os.close(tells_end)
    try:
        found = Browser(told=told, tells=tells)
        found.attach()
        yield found
    finally:
        os.close(told)
        os.close(tells)
        process.terminate()
        process.wait()
