"""A browser to open pages in, and what they ask it for."""

import base64
import shutil
import time
from pathlib import Path

import pytest

CAMERA = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")


@pytest.fixture(scope="session")
def chromium():
    """Debian's Chromium where it is, else one that Playwright has installed itself."""
    api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    names = ("chromium", "chromium-browser", "google-chrome")
    path = next((found for found in map(shutil.which, names) if found), None)
    with api.sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(
                executable_path=path, args=["--no-sandbox", *CAMERA]
            )
        except api.Error as error:
            pytest.skip(f"no Chromium can be started: {str(error).splitlines()[0]}")
        yield browser
        browser.close()


class Tab:
    """A page, what it asked for, and what it complained of."""

    def __init__(self, page):
        self.page = page
        self.asked, self.complaints = [], []
        page.on("request", lambda request: self.asked.append(request.url))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", self._console)

    def _console(self, message):
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)

    def hosts(self):
        """Servers that were asked; blob: and data: addresses are the page's own memory."""
        return {url.split("/")[2].split(":")[0] for url in self.asked if url.startswith("http")}

    def until(self, script, seconds=60):
        """Wait until an expression is true. Playwright's own way to wait needs eval, which the
        pages forbid.
        """
        end = time.monotonic() + seconds
        while not self.page.evaluate(f"!!({script})"):
            assert time.monotonic() < end, f"{script}: {self.page.inner_text('body')[:500]}"
            self.page.wait_for_timeout(20)

    def drop(self, path: Path, name: str | None = None):
        """Drop a file on the page."""
        text = base64.b64encode(path.read_bytes()).decode()
        transfer = self.page.evaluate_handle(
            """([text, name]) => {
              const bytes = Uint8Array.from(atob(text), (sign) => sign.charCodeAt(0));
              const transfer = new DataTransfer();
              transfer.items.add(new File([bytes], name));
              return transfer;
            }""",
            [text, name or path.name],
        )
        self.page.dispatch_event("body", "drop", {"dataTransfer": transfer})


@pytest.fixture
def tab(chromium):
    """A new page of a usual size."""
    context = chromium.new_context(viewport={"width": 1200, "height": 900}, locale="en")
    yield Tab(context.new_page())
    context.close()
