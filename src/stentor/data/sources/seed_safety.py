"""Hand-written refusals: short, kind, specific."""

from __future__ import annotations

from stentor.data.sources import Place
from stentor.data.sources.chat import read

__all__ = ["ABOUT", "DEFAULT", "LICENCE", "read"]

ABOUT = "hand-written harmful prompts with kind refusals (Apache-2.0)"
LICENCE = "apache-2.0"
DEFAULT = Place(bundled=("seed_safety.jsonl",))
