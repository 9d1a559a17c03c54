"""Short answers of a small teacher to everyday questions, chosen by filters."""

from __future__ import annotations

from stentor.data.sources import Place
from stentor.data.sources.chat import read

__all__ = ["ABOUT", "DEFAULT", "LICENCE", "read"]

ABOUT = "answers of SmolLM2-135M-Instruct to everyday questions, filtered (see docs/data-card.md)"
LICENCE = "apache-2.0"
DEFAULT = Place(bundled=("distilled.jsonl.gz",))
