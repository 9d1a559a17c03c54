"""Conversations written as text: lines that begin with `User:` and `Assistant:`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from stentor.data.examples import Example, Tally, from_messages
from stentor.data.files import Row
from stentor.errors import DataError

ABOUT = "rows whose text is a transcript of User: and Assistant: lines; other rows are passed over"
LICENCE = None
DEFAULT = None

_TURN = re.compile(r"^(User|Assistant): *", re.MULTILINE)


def read(rows: Iterable[Row], tally: Tally) -> Iterator[Example]:
    """Whole exchanges of each transcript, up to its last reply."""
    for row in rows:
        text = row.fields.get("text")
        if not isinstance(text, str) or not text.startswith("User:"):
            tally.left_out["not a transcript"] += 1
            continue
        _, *parts = _TURN.split(text)
        messages = [
            {"role": role.lower(), "content": content}
            for role, content in zip(parts[::2], parts[1::2], strict=True)
        ]
        while messages and messages[-1]["role"] != "assistant":
            messages.pop()
        try:
            yield from_messages(messages, "benign", row.where)
        except DataError:
            tally.left_out["not whole exchanges"] += 1
