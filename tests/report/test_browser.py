"""The pages in a real browser: no error, no request, every image shown, no sideways scrolling.

Speaks the DevTools protocol (https://chromedevtools.github.io/devtools-protocol/) through a pipe:
the page that is looked at is the page that was written.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from transfer_maskrcnn.report.run_page import write_run_report
from transfer_maskrcnn.report.study_page import write_study_report

PHONE, DESKTOP = 375, 1200
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


def visit(browser: Browser, path: Path, width: int = DESKTOP) -> Visit:
    browser.events.clear()
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width == PHONE}
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


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    names = ("chromium", "chromium-browser", "google-chrome")
    executable = next((path for name in names if (path := shutil.which(name))), None)
    if executable is None:
        pytest.skip(f"none of {', '.join(names)} is installed: the pages are not opened")
    running = Browser(executable, tmp_path_factory.mktemp("profile"))
    yield running
    running.close()


@pytest.fixture(params=["study", "run"])
def page(request: pytest.FixtureRequest) -> Path:
    if request.param == "study":
        return write_study_report(request.getfixturevalue("whole_study"))
    return write_run_report(request.getfixturevalue("whole_run"))


def test_the_page_asks_for_nothing_and_complains_of_nothing(browser: Browser, page: Path) -> None:
    found = visit(browser, page)
    outside = [url for url in found.requests if not url.startswith("data:")]
    assert outside == [page.as_uri()]
    assert found.complaints == []
    assert found.ask("document.scripts.length") == 0


def test_every_image_is_shown_and_has_words(browser: Browser, page: Path) -> None:
    found = visit(browser, page)
    images = found.ask("[...document.images].map(i => [i.naturalWidth, i.clientWidth, i.alt])")
    assert len(images) > 4
    assert all(natural > 0 and shown > 0 and alt for natural, shown, alt in images)


def test_names_are_text(browser: Browser, page: Path) -> None:
    found = visit(browser, page)
    assert '<b>"x"&' in found.ask("document.body.innerText")
    assert found.ask("[...document.querySelectorAll('b')].every(b => !b.innerText.includes('x'))")


@pytest.mark.parametrize("width", [PHONE, DESKTOP])
def test_no_sideways_scrolling(browser: Browser, page: Path, width: int) -> None:
    found = visit(browser, page, width)
    assert found.ask("innerWidth") == width  # a page that is too wide is zoomed out on a phone
    assert found.ask("document.documentElement.scrollWidth") <= width


def test_wide_tables_scroll_in_their_own_box_on_a_phone(browser: Browser, page: Path) -> None:
    found = visit(browser, page, PHONE)
    boxes = found.ask(
        "[...document.querySelectorAll('.wide')].map(b => [b.scrollWidth, b.clientWidth])"
    )
    assert any(content > box for content, box in boxes)
    assert all(box <= PHONE for _, box in boxes)


def test_the_checks_find_what_they_look_for(browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "bad.html"
    path.write_text(
        "<!DOCTYPE html><meta name=viewport content='width=device-width'>"
        "<p style='width: 900px'>wide</p><script>console.error('oh')</script>"
        "<script src='http://example.org/x.js'></script>"
    )
    found = visit(browser, path, PHONE)
    assert "http://example.org/x.js" in found.requests
    assert any("oh" in text for text in found.complaints)
    assert any("ERR_NAME_NOT_RESOLVED" in text for text in found.complaints)
    assert found.ask("document.documentElement.scrollWidth") > PHONE
