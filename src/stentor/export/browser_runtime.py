"""Chromium as the runtime of a folder of `web`: the page is opened and its worker is asked."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np

from stentor.errors import MissingExtra, MissingProgram, ParityError
from stentor.export.format import Floats, Message

_ASK = "async (what) => (await import('./backend.js')).ask(what)"
_PATIENCE = 600_000.0  # milliseconds for one question


class _Handler(SimpleHTTPRequestHandler):
    """A plain file server, which takes the numbers that the page sends back too."""

    def do_POST(self) -> None:
        size = int(self.headers["Content-Length"])
        self.server.received = self.rfile.read(size)  # type: ignore[attr-defined]
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: Any) -> None: ...


class BrowserRuntime:
    """The page of a folder in headless Chromium."""

    def __init__(self, folder: Path) -> None:
        try:
            from playwright.sync_api import Error, sync_playwright
        except ImportError:
            raise MissingExtra("playwright", "web", "opening the page in Chromium") from None
        handler = partial(_Handler, directory=str(folder))
        # whatever fails here, what was opened is closed: a Playwright that is left open refuses
        # to be started again in this thread, so no other page could be checked
        with ExitStack() as opened:
            self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
            opened.callback(self._server.server_close)
            threading.Thread(target=self._server.serve_forever, daemon=True).start()
            opened.callback(self._server.shutdown)
            self.url = f"http://127.0.0.1:{self._server.server_address[1]}/"
            playwright = sync_playwright().start()
            opened.callback(playwright.stop)
            path = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
            try:
                self._browser: Any = playwright.chromium.launch(
                    executable_path=path, args=["--no-sandbox"]
                )
            except Error as error:
                first = str(error).strip().splitlines()[0]
                raise MissingProgram(
                    f"opening the page needs Chromium: {first}; install it with your system's "
                    "packages or with: playwright install chromium"
                ) from None
            opened.callback(self._browser.close)
            self.name = f"Chromium {self._browser.version}"
            self.complaints: list[str] = []
            self.page = self._browser.new_page()
            self.page.set_default_timeout(_PATIENCE)
            self.page.on("console", self._heard)
            self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
            self._before = self._renderer_bytes()
            self.page.goto(self.url)
            self.ask({"do": "greedy", "prompts": [[1]], "count": 1})  # loaded when it answers
            self._opened = opened.pop_all()

    def _heard(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)

    def ask(self, what: dict[str, Any]) -> Any:
        """What the worker answers; ParityError with what the page complained of when it can't."""
        from playwright.sync_api import Error

        try:
            return self.page.evaluate(_ASK, what)
        except Error as error:
            told = "; ".join([str(error).strip().splitlines()[0], *self.complaints])
            raise ParityError(f"the page does not work: {told}") from None

    def ids(self, messages: Sequence[Message]) -> list[int]:
        """The page's own template: text that spells a control piece stays text."""
        return [int(i) for i in self.ask({"do": "ids", "messages": list(messages)})]

    def logits(self, ids: Sequence[int]) -> Floats:
        self.ask({"do": "logits", "ids": list(ids), "to": "./logits"})
        received: bytes = self._server.received  # type: ignore[attr-defined]
        return np.frombuffer(received, "<f4").reshape(len(ids), -1)

    def greedy(self, prompts: Sequence[Sequence[int]], count: int) -> list[list[int]]:
        asked = {"do": "greedy", "prompts": [list(p) for p in prompts], "count": count}
        return [[int(i) for i in reply] for reply in self.ask(asked)]

    def grown(self) -> int | None:
        """Bytes by which the page's process grew at its largest; None where nothing tells."""
        return self._renderer_bytes("VmHWM") - self._before if self._before else None

    def _renderer_bytes(self, field: str = "VmRSS") -> int:
        """Of the process that runs the page; 0 where the system has no /proc."""
        session = self._browser.new_browser_cdp_session()
        found = session.send("SystemInfo.getProcessInfo")["processInfo"]
        sizes = [0]
        for process in found:
            status = Path(f"/proc/{process['id']}/status")
            if process["type"] == "renderer" and status.is_file():
                lines = status.read_text().splitlines()
                sizes += [int(x.split()[1]) * 1024 for x in lines if x.startswith(field)]
        session.detach()
        return max(sizes)

    def first_token(self, text: str, shown: Path | None = None) -> float:
        """Seconds from opening the page to the first piece of a reply, the browser's cache empty.

        The message is sent as a person would, by the page's own field, once the page takes it.
        `shown` becomes a picture of the page when the reply has ended.
        """
        context = self._browser.new_context()
        page = context.new_page()
        page.set_default_timeout(_PATIENCE)
        start = time.perf_counter()
        page.goto(self.url)
        page.wait_for_selector("#model-a option", state="attached")
        page.fill("#message", text)
        page.keyboard.press("Enter")
        page.wait_for_selector(".reply .said:not(:empty)")
        took = time.perf_counter() - start
        if shown is not None:
            page.wait_for_selector(".reply:not(.writing)")
            page.screenshot(path=str(shown))
        context.close()
        return took

    def close(self) -> None:
        self._opened.close()
