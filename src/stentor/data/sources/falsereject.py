"""FalseReject: harmless prompts that look risky, with answers (CC BY-NC 4.0)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from stentor.data.examples import Example, Tally, conversation
from stentor.data.files import Row
from stentor.data.sources import Place
from stentor.errors import DataError

ABOUT = "harmless prompts that look risky, answered (CC BY-NC 4.0, non-commercial)"
LICENCE = "cc-by-nc-4.0"
DEFAULT = Place(hub="AmazonScience/FalseReject")


def read(rows: Iterable[Row], tally: Tally) -> Iterator[Example]:
    """The instruct answer; rows without one are noted and left out."""
    for row in rows:
        reply = row.fields.get("instruct_response") or row.fields.get("response")
        category = str(row.fields.get("category_text") or row.fields.get("category") or "")
        try:
            prompt = row.fields.get("prompt")
            yield conversation(prompt, reply, "borderline", row.where, category=category)
        except DataError as problem:
            tally.problems.append(str(problem))
