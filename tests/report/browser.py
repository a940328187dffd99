"""A real browser for tests of pages, as fixtures.

Speaks the DevTools protocol (https://chromedevtools.github.io/devtools-protocol/) through a pipe:
the page that is looked at is the page that was written.
"""

from __future__ import annotations

import base64
import fcntl
import io
import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

DESKTOP = 1200
SECONDS = 60
# The browser reads commands from descriptor 3 and answers on 4.
LAUNCH = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.dup2(int(sys.argv[2]), 4)
os.execv(sys.argv[3], sys.argv[3:])
"""
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--remote-debugging-pipe",
    "--host-resolver-rules=MAP * ~NOTFOUND",
]


class Browser:
    """One page of a headless browser. ``events`` gathers what it reports."""

    def __init__(self, executable: str, profile: Path):
        reading, self._writing = os.pipe()
        self._reading, writing = os.pipe()
        # away from 3 and 4, which the launcher overwrites
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (reading, writing)]
        command = [executable, *FLAGS, f"--user-data-dir={profile}", "about:blank"]
        self._process = subprocess.Popen(
            [sys.executable, "-c", LAUNCH, *map(str, ends), *command],
            pass_fds=ends,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for end in (reading, writing, *ends):
            os.close(end)
        self._received = b""
        self._sent = 0
        self._session: str | None = None
        self.events: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """The result of one command."""
        self._sent += 1
        message = {"id": self._sent, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._writing, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self._sent:
                assert "error" not in answer, answer
                return dict(answer["result"])
            self.events.append(answer)

    def wait_for(self, method: str) -> None:
        while not any(event.get("method") == method for event in self.events):
            self.events.append(self._receive())

    def _receive(self) -> dict[str, Any]:
        deadline = time.monotonic() + SECONDS
        while b"\0" not in self._received:
            ready, _, _ = select.select([self._reading], [], [], deadline - time.monotonic())
            assert ready, f"the browser said nothing for {SECONDS} seconds"
            piece = os.read(self._reading, 2**16)
            assert piece, "the browser ended"
            self._received += piece
        message, _, self._received = self._received.partition(b"\0")
        return dict(json.loads(message))

    def close(self) -> None:
        try:
            self._session = None
            self.call("Browser.close")
            self._process.wait(SECONDS)
        finally:
            self._process.kill()
            for end in (self._reading, self._writing):
                os.close(end)


@dataclass
class Visit:
    """A page that was opened: what it asked for, what went wrong, and what its document says."""

    browser: Browser
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def ask(self, expression: str) -> Any:
        how = {"returnByValue": True, "awaitPromise": True}
        answer = self.browser.call("Runtime.evaluate", expression=expression, **how)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def looks(self, selector: str) -> list[npt.NDArray[np.uint8]]:
        """What is painted in the rectangle of each element, (height, width, 3), RGB.

        Those of no area (hidden, or not loaded) give an empty array.
        """
        found = self.ask(
            f"[...document.querySelectorAll({json.dumps(selector)})].map(e => {{"
            "const r = e.getBoundingClientRect();"
            "return [r.left + scrollX, r.top + scrollY, r.right + scrollX, r.bottom + scrollY]"
            ".map(Math.round)})"
        )
        shot = self.browser.call("Page.captureScreenshot", captureBeyondViewport=True)
        page = np.asarray(Image.open(io.BytesIO(base64.b64decode(shot["data"]))).convert("RGB"))
        return [page[top:bottom, left:right] for left, top, right, bottom in found]


def share_near(pixels: npt.NDArray[np.uint8], colour: str, tolerance: int = 60) -> float:
    """The share of pixels whose channels are all within ``tolerance`` of a colour, "#rrggbb"."""
    wanted = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])
    off = np.abs(pixels.astype(int) - wanted).max(axis=-1)
    return float((off <= tolerance).mean()) if off.size else 0.0


def _visit(browser: Browser, path: Path, width: int = DESKTOP, scheme: str = "light") -> Visit:
    browser.events.clear()
    preferred = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.call("Emulation.setEmulatedMedia", features=preferred)
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.call("Emulation.setDeviceMetricsOverride", **size)
    browser.call("Page.navigate", url=path.as_uri())
    browser.wait_for("Page.loadEventFired")
    found = Visit(browser)
    found.ask("Promise.all([...document.images].map(image => image.decode())).then(() => 1)")
    for event in browser.events:
        method, params = event.get("method"), event.get("params", {})
        if method == "Network.requestWillBeSent":
            found.requests.append(params["request"]["url"])
        elif method in ("Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown"):
            found.complaints.append(json.dumps(params))
    return found


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    names = ("chromium", "chromium-browser", "google-chrome")
    executable = next((path for name in names if (path := shutil.which(name))), None)
    if executable is None:
        pytest.skip(f"none of {', '.join(names)} is installed: the pages are not opened")
    running = Browser(executable, tmp_path_factory.mktemp("profile"))
    yield running
    running.close()


@pytest.fixture
def visit(browser: Browser) -> Callable[..., Visit]:
    """``visit(path, width, scheme)`` opens a page and waits for all its images."""
    return partial(_visit, browser)


@pytest.fixture(name="share_near")
def share_near_fixture() -> Callable[..., float]:
    return share_near
