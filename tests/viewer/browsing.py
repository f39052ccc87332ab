"""A real browser over a real server: pages that fail the test on any error of theirs."""

from __future__ import annotations

import shutil
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uvicorn

from agentrl.viewer import Catalog, create_app

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page


@contextmanager
def served(target: Path) -> Iterator[str]:
    """The address of a viewer over these stores."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(64)
    server = uvicorn.Server(uvicorn.Config(create_app(Catalog(str(target))), log_level="error"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(timeout=20)
        listener.close()


@contextmanager
def launched() -> Iterator[Browser]:
    """Headless Chromium: the system's, else playwright's own."""
    from playwright.sync_api import sync_playwright

    found = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=found, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


@dataclass
class Visit:
    """A tab on a viewer."""

    browser: Browser
    base: str
    complaints: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)
    page: Page = field(init=False)

    def open(self, **settings: Any) -> Visit:
        context = self.browser.new_context(**{"viewport": {"width": 1366, "height": 820}, **settings})
        self.page = context.new_page()
        self.page.set_default_timeout(15_000)
        self.page.on("console", lambda said: said.type in ("error", "warning") and self.complaints.append(said.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.complaints.append(dialog.message), dialog.dismiss()))
        self.page.on("request", lambda asked: asked.url.startswith(self.base) or self.foreign.append(asked.url))
        return self

    def to(self, path: str) -> Page:
        """Go there, wait until its scripts have run."""
        self.page.goto(self.base + path)
        self.page.wait_for_selector("html[data-ready]")
        return self.page

    def address(self) -> str:
        """Path and query of where the page is."""
        return self.page.url.removeprefix(self.base)

    def close(self) -> None:
        """The page has complained of nothing and asked nobody else."""
        self.page.context.close()
        assert self.complaints == []
        assert self.foreign == []
