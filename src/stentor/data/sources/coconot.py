"""COCONot's contrast set: requests that should be complied with (ODC-BY)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from stentor.data.examples import Example, Tally, conversation
from stentor.data.files import Row
from stentor.errors import DataError

ABOUT = "benign look-alikes with answers, and needless refusals beside them (ODC-BY)"
LICENCE = "odc-by"
DEFAULT = None


def read(rows: Iterable[Row], tally: Tally) -> Iterator[Example]:
    """`chosen` complies; `rejected` refuses without need."""
    for row in rows:
        category = str(row.fields.get("subcategory") or "")
        try:
            yield conversation(
                row.fields.get("prompt"),
                row.fields.get("chosen"),
                "borderline",
                row.where,
                category=category,
                rejected=row.fields.get("rejected"),
            )
        except DataError as problem:
            tally.problems.append(str(problem))
