"""Pairs of replies: `prompt`, `chosen`, `rejected` (texts, or lists of messages)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from stentor.data.examples import Example, Tally, conversation
from stentor.data.files import Row
from stentor.errors import DataError

ABOUT = "rows with prompt, chosen and rejected; fine-tuning phases learn the chosen reply"
LICENCE = None
DEFAULT = None


def read(rows: Iterable[Row], tally: Tally) -> Iterator[Example]:
    """The chosen reply, with the rejected one beside it for preference phases."""
    for row in rows:
        chosen, rejected = (_reply(row.fields.get(name)) for name in ("chosen", "rejected"))
        kind = str(row.fields.get("kind") or "benign")
        try:
            if not isinstance(rejected, str):
                raise DataError(f"{row.where}: the rejected reply is missing")
            prompt = _prompt(row.fields.get("prompt"), row.where)
            yield conversation(prompt, chosen, kind, row.where, rejected=rejected)
        except DataError as problem:
            tally.problems.append(str(problem))


def _prompt(value: Any, where: str) -> Any:
    """The text of a prompt that may be a list of one message."""
    if not isinstance(value, list):
        return value
    if len(value) != 1 or not isinstance(value[0], dict) or value[0].get("role") != "user":
        raise DataError(f"{where}: a prompt that is a list must hold one message, the user's")
    return value[0].get("content")


def _reply(value: Any) -> Any:
    """The text of a reply that may be the last of a list of messages."""
    if isinstance(value, list) and value and isinstance(value[-1], dict):
        return value[-1].get("content")
    return value
