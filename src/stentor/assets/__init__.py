"""Files that ship with the package; `path` finds them wherever the package is installed."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parent


def path(*parts: str) -> Path:
    """The path of a bundled file or folder (it may not exist)."""
    return ROOT.joinpath(*parts)
