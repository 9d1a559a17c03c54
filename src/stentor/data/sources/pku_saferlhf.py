"""PKU-SafeRLHF: answers that people labelled safe (CC BY-NC 4.0)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from stentor.data.examples import Example, Tally, conversation
from stentor.data.files import Row
from stentor.errors import DataError

ABOUT = "prompts with answers labelled safe (CC BY-NC 4.0, non-commercial)"
LICENCE = "cc-by-nc-4.0"
DEFAULT = None


def read(rows: Iterable[Row], tally: Tally) -> Iterator[Example]:
    """A safe answer, or of a pair [safe, unsafe] the safe one with the other as rejected."""
    for row in rows:
        reply, rejected = row.fields.get("response"), None
        if isinstance(reply, list):
            reply, rejected = [*reply, None, None][:2]
        try:
            yield conversation(
                row.fields.get("prompt"), reply, "borderline", row.where, rejected=rejected
            )
        except DataError as problem:
            tally.problems.append(str(problem))
