"""Safety-tuned LLaMAs (Bianchi et al. 2024): red-team instructions, safe answers (CC BY-NC 4.0)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from stentor.data.examples import Example, Tally
from stentor.data.files import Row
from stentor.data.sources import instruction

ABOUT = "red-team instructions with safe answers, mostly refusals (CC BY-NC 4.0, non-commercial)"
LICENCE = "cc-by-nc-4.0"
DEFAULT = None


def read(rows: Iterable[Row], tally: Tally) -> Iterator[Example]:
    """Instructions of kind `harmful`."""
    return instruction.read(rows, tally, kind="harmful")
