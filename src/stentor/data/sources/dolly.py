"""databricks-dolly-15k: instructions written by people (CC BY-SA 3.0)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from stentor.data.examples import Example, Tally, conversation
from stentor.data.files import Row
from stentor.data.sources import Place
from stentor.errors import DataError

ABOUT = "instructions and answers written by people (CC BY-SA 3.0)"
LICENCE = "cc-by-sa-3.0"
DEFAULT = Place(hub="databricks/databricks-dolly-15k")


def read(rows: Iterable[Row], tally: Tally) -> Iterator[Example]:
    """The context, where there is one, follows the instruction after a blank line."""
    for row in rows:
        parts = [row.fields.get("instruction"), row.fields.get("context")]
        prompt = "\n\n".join(str(p).strip() for p in parts if p and str(p).strip())
        category = str(row.fields.get("category") or "")
        try:
            yield conversation(
                prompt, row.fields.get("response"), "benign", row.where, category=category
            )
        except DataError as problem:
            tally.problems.append(str(problem))
