"""The page's files, read once: no request ever reaches the file system."""

from __future__ import annotations

from importlib import resources

_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


def page_files() -> dict[str, tuple[bytes, str]]:
    """Path → content and media type; `/` is the page itself."""
    found = {}
    for entry in resources.files("stentor.serve").joinpath("page").iterdir():
        kind = _TYPES.get("." + entry.name.rpartition(".")[2])
        if kind is not None:
            found[f"/{entry.name}"] = (entry.read_bytes(), kind)
    found["/"] = found.pop("/index.html")
    return found
