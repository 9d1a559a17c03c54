"""What decodes: a backend turns tokens into logits over a cache of keys and values.

A backend is `forward` and `new_cache`, nothing else; which token follows is decided in one place
for all of them (`sampling`), in numpy, so that a reply does not depend on what computed it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


class Backend(Protocol):
    """One model, ready to decode."""

    name: str
    """What computes, and in which precision, for people."""
    precision: str
    """Of the weights: what is drawn depends on it."""
    window: int
    """The most tokens that a row can hold."""

    def new_cache(self, rows: int, room: int) -> Cache:
        """An empty cache of `rows` rows of at most `room` tokens."""

    def forward(self, ids: Ints, counts: Ints, cache: Cache) -> Floats:
        """Append ids (B, T), of which the first `counts` (B,) of a row are real.

        Returns the logits (B, V) after each row's last real token; they may be overwritten by
        the next call.
        """


_places = itertools.count()


class Cache:
    """Keys and values (layers, B, heads, room, size) and the length of each row.

    Row r holds `lengths[r]` tokens; its next token is written at that place and sees everything
    before it, so nothing is padded on the left. The arrays are numpy's or torch's, as `zeros`
    makes them. The storage may hold more rows and more room than are in use; rows come with
    `add` and go with `keep`.
    """

    def __init__(self, keys: Any, values: Any, lengths: Ints, zeros: Callable[..., Any]) -> None:
        self._keys, self._values, self._lengths = keys, values, lengths
        self._zeros = zeros
        self.rows = len(lengths)
        self.place = next(_places)
        """Another number whenever rows stand elsewhere in memory than before."""

    @classmethod
    def empty(
        cls, layers: int, rows: int, heads: int, room: int, size: int, zeros: Callable[..., Any]
    ) -> Cache:
        """A cache of rows without tokens; `zeros(shape)` makes an array."""
        shape = (layers, rows, heads, room, size)
        return cls(zeros(shape), zeros(shape), np.zeros(rows, np.int64), zeros)

    @property
    def keys(self) -> Any:
        return self._keys[:, : self.rows]

    @property
    def values(self) -> Any:
        return self._values[:, : self.rows]

    @property
    def lengths(self) -> Ints:
        return self._lengths[: self.rows]

    @property
    def room(self) -> int:
        return int(self._keys.shape[3])

    def row(self, place: int) -> Cache:
        """One row, as a cache over the same storage."""
        part = slice(place, place + 1)
        return Cache(self._keys[:, part], self._values[:, part], self._lengths[part], self._zeros)

    def add(self, count: int, room: int) -> Cache:
        """`count` more rows of at most `room` tokens, empty, after the others.

        Returns them as a cache of their own over the same storage, to be filled before the next
        `add` or `keep`.
        """
        first, self.rows = self.rows, self.rows + count
        self.place = next(_places)
        have, had = self._keys.shape[1], self.room
        if self.rows > have or room > had:
            # where rows come and go, storage grows in leaps, and seldom
            rows = self.rows if first == 0 else max(self.rows, have if room > had else 2 * have)
            self._keys = self._moved(self._keys, first, max(rows, have), max(room, had))
            self._values = self._moved(self._values, first, max(rows, have), max(room, had))
            lengths = np.zeros(max(rows, have), np.int64)
            lengths[:first] = self._lengths[:first]
            self._lengths = lengths
        part = slice(first, self.rows)
        self._lengths[part] = 0
        return Cache(self._keys[:, part], self._values[:, part], self._lengths[part], self._zeros)

    def _moved(self, old: Any, used: int, rows: int, room: int) -> Any:
        # zeros and not empty: a masked place counts nothing, unless it is not a number
        new = self._zeros((old.shape[0], rows, old.shape[2], room, old.shape[4]))
        new[:, :used, :, : old.shape[3]] = old[:, :used]
        return new

    def keep(self, alive: list[int]) -> list[int]:
        """Keep only these rows, in place; returns which of the old rows stands where now.

        The last rows move into the gaps, so dropping a row copies one row at most.
        """
        count = len(alive)
        kept = set(alive)
        gaps = [place for place in range(count) if place not in kept]
        order = list(range(count))
        for gap, moved in zip(gaps, sorted(row for row in alive if row >= count), strict=True):
            order[gap] = moved
            for part in (self._keys, self._values):
                part[:, gap] = part[:, moved]
            self._lengths[gap] = self._lengths[moved]
        self.rows = count
        self.place = next(_places)
        return order

    def start_from(self, prefix: Cache) -> None:
        """Begin every row with the one row of `prefix`."""
        used = int(prefix.lengths[0])
        self.keys[:, :, :, :used] = prefix.keys[:, :, :, :used]
        self.values[:, :, :, :used] = prefix.values[:, :, :, :used]
        self.lengths.fill(used)
