"""A running batch: rows join and leave it between steps, and a step draws a token for each.

A request draws from its own seeded generator and sees its own places of the cache only, so its
tokens don't depend on which others are in the batch.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

import numpy as np

from stentor.generate.backend import Backend, Cache, Floats, Ints
from stentor.generate.sampling import Decoding, choose

_WORTH = 16
"""A prefix of fewer tokens is computed again rather than copied."""


@dataclass(frozen=True, eq=False)
class Request:
    """What one row decodes. Its identity, not its value, tells it from others."""

    ids: Sequence[int]
    """The prompt: at least one token, and fewer than the window."""
    decoding: Decoding
    seed: int
    lead: int = 0
    """How many of the first ids later requests are likely to begin with (a system prompt)."""
    likeliest: int | None = None
    """Report the log-probability of each token drawn, and of this many of the likeliest."""


@dataclass(frozen=True)
class Chances:
    """Natural log-probabilities of the model itself, before penalty, temperature and top-p."""

    drawn: float
    likeliest: tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Drawn:
    """One token of a request; `end` tells whether it is the last, and why."""

    request: Request
    token: int
    end: str | None = None
    chances: Chances | None = None


class _Row:
    """A request that is being decoded."""

    def __init__(self, request: Request, window: int) -> None:
        self.request = request
        self.left = min(request.decoding.max_new_tokens, window - len(request.ids))
        self.room = len(request.ids) + self.left
        # Random takes a number without its sign, and a seed of its own is due to -1 too
        self._draw: Callable[[], float] = Random(request.seed % 2**64).random
        self._tokens = np.empty(self.room, np.int64)
        self._tokens[: len(request.ids)] = request.ids
        self._used = len(request.ids)

    @property
    def last(self) -> int:
        return int(self._tokens[self._used - 1])

    def next(self, logits: Floats, stop_ids: frozenset[int]) -> Drawn:
        """Draw the next token from logits (V,)."""
        request = self.request
        token = choose(logits, self._tokens[: self._used], request.decoding, self._draw)
        self._tokens[self._used] = token
        self._used += 1
        self.left -= 1
        end = "stop" if token in stop_ids else "length" if self.left == 0 else None
        if request.likeliest is None:
            return Drawn(request, token, end)
        return Drawn(request, token, end, _chances(logits, token, request.likeliest))


class Prefixes:
    """Keys and values of the beginnings that requests share, the latest few of them."""

    def __init__(self, backend: Backend, most: int = 4) -> None:
        self._backend, self._most = backend, most
        self._known: OrderedDict[tuple[int, ...], Cache] = OrderedDict()

    def cache(self, prefix: tuple[int, ...]) -> Cache:
        """The cache of one row that holds the prefix."""
        found = self._known.pop(prefix, None)
        if found is None:
            found = self._backend.new_cache(1, len(prefix))
            ids = np.array([prefix], np.int64)
            self._backend.forward(ids, np.array([len(prefix)], np.int64), found)
        self._known[prefix] = found
        while len(self._known) > self._most:
            self._known.popitem(last=False)
        return found


class Running:
    """The rows that are decoded together."""

    def __init__(self, backend: Backend, prefixes: Prefixes, stop_ids: frozenset[int]) -> None:
        self._backend, self._prefixes, self._stop_ids = backend, prefixes, stop_ids
        self._cache = backend.new_cache(0, 0)
        self._rows: list[_Row] = []

    def __len__(self) -> int:
        return len(self._rows)

    def join(self, requests: Sequence[Request]) -> list[Drawn]:
        """Take requests in: computes their prompts and draws the first token of each, in order."""
        prompts = [tuple(request.ids) for request in requests]
        rows = [_Row(request, self._backend.window) for request in requests]
        added = self._cache.add(len(rows), max(row.room for row in rows))
        shared = self._shared(requests)
        if shared:
            added.start_from(self._prefixes.cache(prompts[0][:shared]))
        counts = np.array([len(prompt) - shared for prompt in prompts], np.int64)
        ids = np.zeros((len(rows), int(counts.max())), np.int64)
        for place, prompt in enumerate(prompts):
            ids[place, : counts[place]] = prompt[shared:]
        drawn = self._draw(self._backend.forward(ids, counts, added), rows)
        first = len(self._rows)
        self._rows += rows
        self._keep(drawn, first)
        return drawn

    def step(self) -> list[Drawn]:
        """Draw one more token for each row; rows that end are gone afterwards."""
        ids = np.array([[row.last] for row in self._rows], np.int64)
        ones = np.ones(len(ids), np.int64)
        drawn = self._draw(self._backend.forward(ids, ones, self._cache), self._rows)
        self._keep(drawn)
        return drawn

    def leave(self, request: Request) -> None:
        """Take a row out, wherever it stands; nothing happens when it has ended."""
        alive = [place for place, row in enumerate(self._rows) if row.request is not request]
        if len(alive) < len(self._rows):
            self._pick(alive)

    def _draw(self, logits: Floats, rows: list[_Row]) -> list[Drawn]:
        pairs = zip(logits, rows, strict=True)
        return [row.next(of_row, self._stop_ids) for of_row, row in pairs]

    def _keep(self, drawn: list[Drawn], first: int = 0) -> None:
        """Drop the rows from `first` on that have just ended."""
        if any(one.end for one in drawn):
            alive = [first + place for place, one in enumerate(drawn) if not one.end]
            self._pick([*range(first), *alive])

    def _pick(self, alive: list[int]) -> None:
        self._rows = [self._rows[place] for place in self._cache.keep(alive)]

    @staticmethod
    def _shared(requests: Sequence[Request]) -> int:
        """How many first tokens all requests share, one of each left over; 0 when too few.

        No more than their system prompts, where they have some: those are what the next ones
        share too.
        """
        first, last = min(tuple(r.ids) for r in requests), max(tuple(r.ids) for r in requests)
        limit = min(len(request.ids) for request in requests) - 1
        lead = min(request.lead for request in requests)
        if lead or len(requests) == 1:
            limit = min(limit, lead)
        count = 0
        while count < limit and first[count] == last[count]:
            count += 1
        return count if count >= _WORTH else 0


def _chances(logits: Floats, token: int, likeliest: int) -> Chances:
    """Of logits (V,)."""
    largest = logits.max()
    logs = logits - largest - np.log(np.exp(logits - largest).sum(dtype=np.float64))
    found: Ints = np.argpartition(-logs, likeliest)[:likeliest]
    found = found[np.argsort(-logs[found], kind="stable")]
    pairs = zip(found.tolist(), logs[found].tolist(), strict=True)
    return Chances(float(logs[token]), tuple(pairs))
