"""Plain documents among the conversations, so that fine-tuning does not unlearn the base's text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from stentor.data.examples import Example, Tally
from stentor.data.files import Row
from stentor.data.sources import Place

ABOUT = "plain documents (rows with text), every token supervised; long ones cut at a sentence"
LICENCE = None
DEFAULT = Place(bundled=("base_text.jsonl.gz",), licence="cc0-1.0")


def read(rows: Iterable[Row], tally: Tally) -> Iterator[Example]:
    """Each row's `text` as a document of kind `text`; a bad row is noted and left out."""
    for row in rows:
        text = row.fields.get("text")
        if isinstance(text, str) and text.strip():
            yield Example(({"role": "text", "content": text.strip()},), "text", row.where)
        else:
            tally.problems.append(f"{row.where}: there is no text in the row")
