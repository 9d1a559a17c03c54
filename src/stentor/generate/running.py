"""A running batch: rows join and leave it between steps, and a step draws a token for each.

A request draws from its own seeded generator and sees its own places of the cache only, so its
tokens don't depend on which others are in the batch.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from stentor.generate.decoder import Cache, Decoder
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


@dataclass
class _Row:
    request: Request
    generator: Any
    left: int


class Prefixes:
    """Keys and values of the beginnings that requests share, the latest few of them."""

    def __init__(self, decoder: Decoder, most: int = 4) -> None:
        self._decoder, self._most = decoder, most
        self._known: OrderedDict[tuple[int, ...], Cache] = OrderedDict()

    def cache(self, prefix: tuple[int, ...]) -> Cache:
        """The cache of one row that holds the prefix."""
        found = self._known.pop(prefix, None)
        if found is None:
            device = self._decoder.device
            found = self._decoder.new_cache(1, len(prefix))
            count = torch.tensor([len(prefix)], device=device)
            self._decoder.forward(torch.tensor([prefix], device=device), count, found)
        self._known[prefix] = found
        while len(self._known) > self._most:
            self._known.popitem(last=False)
        return found


class Running:
    """The rows that are decoded together."""

    def __init__(self, decoder: Decoder, prefixes: Prefixes, stop_ids: frozenset[int]) -> None:
        self._decoder, self._prefixes, self._stop_ids = decoder, prefixes, stop_ids
        self._cache = decoder.new_cache(0, 0)
        self._rows: list[_Row] = []
        self._tokens = torch.zeros(0, dtype=torch.long, device=decoder.device)
        self._seen = torch.zeros(0, 0, dtype=torch.bool, device=decoder.device)

    def __len__(self) -> int:
        return len(self._rows)

    @torch.inference_mode()
    def join(self, requests: Sequence[Request]) -> list[Drawn]:
        """Take requests in: computes their prompts and draws the first token of each, in order."""
        device, window = self._decoder.device, self._decoder.window
        prompts = [tuple(request.ids) for request in requests]
        rows = [
            _Row(
                request,
                torch.Generator(device).manual_seed(request.seed),
                min(request.decoding.max_new_tokens, window - len(request.ids)),
            )
            for request in requests
        ]
        room = max(len(row.request.ids) + row.left for row in rows)
        added = self._cache.add(len(rows), room)
        shared = self._shared(requests)
        if shared:
            added.start_from(self._prefixes.cache(prompts[0][:shared]))
        counts = torch.tensor([len(prompt) - shared for prompt in prompts], device=device)
        ids = torch.zeros(len(rows), int(counts.max()), dtype=torch.long, device=device)
        for place, prompt in enumerate(prompts):
            ids[place, : len(prompt) - shared] = torch.tensor(prompt[shared:])
        logits = self._decoder.forward(ids, counts, added)
        seen = torch.zeros_like(logits, dtype=torch.bool)
        for place, prompt in enumerate(prompts):
            seen[place, torch.tensor(prompt, device=device)] = True
        drawn, tokens = self._draw(logits, seen, rows)
        self._seen = torch.cat([self._seen, seen]) if self._rows else seen
        self._tokens = torch.cat([self._tokens, tokens])
        self._rows += rows
        self._keep(drawn, first=len(self._rows) - len(rows))
        return drawn

    @torch.inference_mode()
    def step(self) -> list[Drawn]:
        """Draw one more token for each row; rows that end are gone afterwards."""
        ones = torch.ones_like(self._tokens)
        logits = self._decoder.forward(self._tokens[:, None], ones, self._cache)
        drawn, self._tokens = self._draw(logits, self._seen, self._rows)
        self._keep(drawn)
        return drawn

    @torch.inference_mode()
    def leave(self, request: Request) -> None:
        """Take a row out, wherever it stands; nothing happens when it has ended."""
        alive = [place for place, row in enumerate(self._rows) if row.request is not request]
        if len(alive) < len(self._rows):
            self._pick(alive)

    def _draw(self, logits: Tensor, seen: Tensor, rows: list[_Row]) -> tuple[list[Drawn], Tensor]:
        """The next token of each row, and all of them as (B,); marks them as seen."""
        groups: dict[tuple[float, float, float], list[int]] = {}
        for place, row in enumerate(rows):
            decoding = row.request.decoding
            rule = (decoding.temperature, decoding.top_p, decoding.repetition_penalty)
            groups.setdefault(rule, []).append(place)
        if len(groups) == 1:
            tokens = choose(logits, seen, rows[0].request.decoding, [r.generator for r in rows])
        else:
            tokens = torch.empty(len(rows), dtype=torch.long, device=logits.device)
            for places in groups.values():
                chosen = [rows[place] for place in places]
                tokens[places] = choose(
                    logits[places], seen[places], chosen[0].request.decoding,
                    [row.generator for row in chosen],
                )  # fmt: skip
        seen.scatter_(1, tokens[:, None], True)
        drawn = []
        for place, (row, token) in enumerate(zip(rows, tokens.tolist(), strict=True)):
            row.left -= 1
            end = "stop" if token in self._stop_ids else "length" if row.left == 0 else None
            chances = None
            if row.request.likeliest is not None:
                chances = _chances(logits[place], token, row.request.likeliest)
            drawn.append(Drawn(row.request, token, end, chances))
        return drawn, tokens

    def _keep(self, drawn: list[Drawn], first: int = 0) -> None:
        """Drop the rows from `first` on that have just ended."""
        if any(one.end for one in drawn):
            alive = [first + place for place, one in enumerate(drawn) if not one.end]
            self._pick([*range(first), *alive])

    def _pick(self, alive: list[int]) -> None:
        order = self._cache.keep(alive)
        self._rows = [self._rows[place] for place in order]
        self._tokens, self._seen = self._tokens[order], self._seen[order]

    @staticmethod
    def _shared(requests: Sequence[Request]) -> int:
        """How many first tokens all requests share, one of each left over; 0 when too few."""
        first, last = min(tuple(r.ids) for r in requests), max(tuple(r.ids) for r in requests)
        limit = min(len(request.ids) for request in requests) - 1
        if len(requests) == 1:
            limit = min(limit, requests[0].lead)
        count = 0
        while count < limit and first[count] == last[count]:
            count += 1
        return count if count >= _WORTH else 0


def _chances(logits: Tensor, token: int, likeliest: int) -> Chances:
    """Of logits (V,)."""
    logs = torch.log_softmax(logits.float(), dim=-1)
    values, order = logs.topk(likeliest)
    pairs = zip(order.tolist(), values.tolist(), strict=True)
    return Chances(float(logs[token]), tuple(pairs))
