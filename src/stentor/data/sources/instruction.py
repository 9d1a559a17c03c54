"""Instruction files in Alpaca's form: `instruction`, `input`, `output`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from stentor.data.examples import Example, Tally, conversation
from stentor.data.files import Row
from stentor.errors import DataError

ABOUT = "rows with instruction, input (may be empty) and output"
LICENCE = None
DEFAULT = None


def read(rows: Iterable[Row], tally: Tally, *, kind: str = "benign") -> Iterator[Example]:
    """Instruction and input make the prompt, a blank line between them."""
    for row in rows:
        parts = [row.fields.get("instruction"), row.fields.get("input")]
        prompt = "\n\n".join(str(p).strip() for p in parts if p and str(p).strip())
        try:
            yield conversation(
                prompt, row.fields.get("output"), str(row.fields.get("kind") or kind), row.where
            )
        except DataError as problem:
            tally.problems.append(str(problem))
