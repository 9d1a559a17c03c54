"""Sources by name. Each is a small module that maps rows to examples of a kind.

To add one, write a module with `ABOUT`, `LICENCE`, `DEFAULT` (where its rows come from when a
recipe does not say) and `read(rows, tally)`, and name it in `stentor.recipe.Reader`.
"""

from __future__ import annotations

import importlib
import random
import typing
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from stentor import assets
from stentor.data.examples import Example, Tally
from stentor.data.files import Row, expand, read_hub, read_rows
from stentor.errors import DataError, nearest
from stentor.recipe import Reader, SourcePart


@dataclass(frozen=True)
class Place:
    """Where the rows of a source come from: a bundled file, or a data set on the hub."""

    bundled: tuple[str, ...] = ()
    hub: str | None = None
    config: str | None = None
    split: str = "train"
    licence: str | None = None
    """Of these rows, where the reader takes others too."""


class Source(Protocol):
    """What a module of this package holds."""

    ABOUT: str
    LICENCE: str | None
    """Of the rows, in the hub's names; None where they are the user's own."""
    DEFAULT: Place | None

    def read(self, rows: Iterable[Row], tally: Tally) -> Iterator[Example]: ...


def find(name: str) -> Source:
    """The source called `name`."""
    if name not in names():
        raise DataError(f"no source is called {name!r}{nearest(name, names())}")
    module: Source = importlib.import_module(f"{__name__}.{name}")
    return module


def licence(part: SourcePart) -> str | None:
    """What the rows of a recipe's source may be used for: as the recipe says, or as known here."""
    return part.licence or _known_licence(part)


def _known_licence(part: SourcePart) -> str | None:
    source = find(part.use)
    if source.LICENCE is None and source.DEFAULT and not (part.path or part.hub):
        return source.DEFAULT.licence
    return source.LICENCE


def is_known(part: SourcePart) -> bool:
    """Whether its rows are a set that this package knows; all of these are English."""
    return _known_licence(part) is not None


def hub_id(part: SourcePart) -> str | None:
    """The data set on the hub that a recipe's source reads, if it is there."""
    default = find(part.use).DEFAULT
    return part.hub or (default.hub if default and not part.path else None)


def names() -> tuple[str, ...]:
    """All sources."""
    return typing.get_args(Reader)


def examples(
    part: SourcePart, root: Path, tally: Tally | None = None, *, seed: int = 0
) -> list[Example]:
    """The examples of a recipe's source: rows read, mapped, kinds kept, capped by a seeded draw."""
    tally = Tally() if tally is None else tally
    source = find(part.use)
    found = []
    for example in source.read(_counted(_rows(part, source, root, tally), tally), tally):
        if part.kinds and example.kind not in part.kinds:
            tally.left_out[f"kind {example.kind}"] += 1
        else:
            found.append(example)
    if part.cap is not None and len(found) > part.cap:
        tally.left_out["over the cap"] += len(found) - part.cap
        chosen = sorted(random.Random(seed).sample(range(len(found)), part.cap))
        found = [found[i] for i in chosen]
    tally.kept = len(found)
    return found


def _counted(rows: Iterable[Row], tally: Tally) -> Iterator[Row]:
    for row in rows:
        tally.read += 1
        yield row


def _rows(part: SourcePart, source: Source, root: Path, tally: Tally) -> Iterator[Row]:
    if part.path:
        for file in expand(root / Path(part.path).expanduser()):
            yield from read_rows(file, problems=tally.problems)
        return
    if part.hub:
        yield from read_hub(part.hub, part.config, part.split)
        return
    place = source.DEFAULT
    if place is None:
        raise DataError(f"source {part.use}: give a path or a hub data set; it has none of its own")
    for name in place.bundled:
        yield from read_rows(assets.path("data", name), problems=tally.problems)
    if place.hub:
        yield from read_hub(place.hub, place.config, place.split)
