"""The training mix written for this project (see docs/data-card.md)."""

from __future__ import annotations

from stentor.data.sources import Place
from stentor.data.sources.chat import read

__all__ = ["ABOUT", "DEFAULT", "LICENCE", "read"]

ABOUT = "our own mix: harmful prompts refused, look-alikes answered, everyday talk (Apache-2.0)"
LICENCE = "apache-2.0"
DEFAULT = Place(bundled=("mix_safety.jsonl", "mix_everyday.jsonl", "mix_dialogues.jsonl"))
