"""Conversations in files of anybody's: `messages`, or `prompt` and `response`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from stentor.data.examples import Example, Tally, conversation, from_messages
from stentor.data.files import Row
from stentor.errors import DataError

ABOUT = "rows with messages, or prompt and response; kind and category where given"
LICENCE = None
DEFAULT = None


def read(rows: Iterable[Row], tally: Tally) -> Iterator[Example]:
    """Each row as it is; a bad row is noted and left out."""
    for row in rows:
        kind = str(row.fields.get("kind") or "benign")
        category = str(row.fields.get("category") or "")
        try:
            if row.fields.get("messages") is not None:  # a table has the column in every row
                yield from_messages(row.fields["messages"], kind, row.where, category=category)
            else:
                prompt, reply = row.fields.get("prompt"), row.fields.get("response")
                yield conversation(prompt, reply, kind, row.where, category=category)
        except DataError as problem:
            tally.problems.append(str(problem))
