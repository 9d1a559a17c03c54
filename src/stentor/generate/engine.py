"""The decoding engine: conversations in, replies out, in batches.

The system prompt that requests share is computed once. Each request draws from its own seeded
generator, so a reply does not depend on which others are in the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from stentor.chat import Message
from stentor.data.encode import with_system
from stentor.errors import InputError
from stentor.generate.decoder import Cache, Decoder
from stentor.generate.sampling import Decoding, choose, from_generation
from stentor.model.load import LoadedModel

__all__ = ["Decoding", "Engine", "Reply"]


@dataclass(frozen=True)
class Reply:
    """A generated reply. `finish_reason`: `stop` (it ended itself) or `length`."""

    text: str
    ids: tuple[int, ...]
    finish_reason: str
    prompt_tokens: int


class Engine:
    """Replies of one model."""

    def __init__(self, loaded: LoadedModel, *, batch: int = 32) -> None:
        self._loaded = loaded
        self._decoder = Decoder(loaded.model)
        self._batch = batch
        self._prefix: tuple[tuple[int, ...], Cache] | None = None
        self.window = self._decoder.window
        self.defaults = from_generation(loaded.generation)
        self.system: str | None = loaded.generation.get("system")

    def _ids(self, messages: Sequence[Message], system: str | None) -> list[int]:
        chosen = self.system if system is None else system
        return self._loaded.template.prompt(with_system(messages, chosen))

    def count(self, messages: Sequence[Message], system: str | None = None) -> int:
        """How many tokens a request has before its reply."""
        return len(self._ids(messages, system))

    def prompt_ids(self, messages: Sequence[Message], system: str | None = None) -> list[int]:
        """The ids of a request; `system` None takes the model's own prompt, "" none."""
        ids = self._ids(messages, system)
        if len(ids) >= self.window:
            raise InputError(
                f"the conversation has {len(ids)} tokens, but the model's window is {self.window} "
                "and a reply needs room; shorten it"
            )
        return ids

    def replies(
        self,
        conversations: Sequence[Sequence[Message]],
        decoding: Decoding,
        *,
        system: str | None = None,
        seeds: Sequence[int] | None = None,
        done: Callable[[int], None] = lambda count: None,
    ) -> list[Reply]:
        """A reply to each conversation, in their order. `done` hears how many are finished."""
        prompts = [self.prompt_ids(messages, system) for messages in conversations]
        if seeds is None:
            seeds = [decoding.seed + number for number in range(len(prompts))]
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        replies: dict[int, Reply] = {}
        for start in range(0, len(order), self._batch):
            chosen = order[start : start + self._batch]
            rows = [prompts[i] for i in chosen]
            streams: list[list[int]] = [[] for _ in rows]
            reasons = ["length"] * len(rows)
            for row, token in self._tokens(rows, decoding, [seeds[i] for i in chosen]):
                streams[row].append(token)
                if token in self._loaded.template.stop_ids:
                    reasons[row] = "stop"
            for row, i in enumerate(chosen):
                text = self._loaded.template.text(streams[row])
                replies[i] = Reply(text, tuple(streams[row]), reasons[row], len(rows[row]))
            done(len(replies))
        return [replies[i] for i in range(len(prompts))]

    def stream(
        self, messages: Sequence[Message], decoding: Decoding, *, system: str | None = None
    ) -> Iterator[str]:
        """The text of one reply, piece by piece as it is drawn."""
        ids: list[int] = []
        shown = ""
        prompt = self.prompt_ids(messages, system)
        for _, token in self._tokens([prompt], decoding, [decoding.seed]):
            ids.append(token)
            text = self._loaded.template.text(ids)
            # the middle of a character made of several bytes, or what may yet become one
            if text.endswith("\ufffd") or self._is_byte(token):
                continue
            yield text[len(shown) :]
            shown = text
        rest = self._loaded.template.text(ids)
        if rest != shown:
            yield rest[len(shown) :]

    def _is_byte(self, token: int) -> bool:
        """Whether a piece spells one byte: what a run of them spells shows only at its end."""
        piece = self._loaded.tokenizer.convert_ids_to_tokens(token)
        return piece.startswith("<0x") and len(piece) == 6

    def _tokens(
        self, prompts: Sequence[Sequence[int]], decoding: Decoding, seeds: Sequence[int]
    ) -> Iterator[tuple[int, int]]:
        """(row, token) as they are drawn, the stop token included."""
        device = self._decoder.device
        longest = max(map(len, prompts))
        room = min(self.window, longest + decoding.max_new_tokens)
        shared = self._shared(prompts)
        cache = self._decoder.new_cache(len(prompts), room)
        if shared:
            cache.start_from(self._prefix_cache(tuple(prompts[0][:shared])))
        width = longest - shared
        ids = torch.zeros(len(prompts), width, dtype=torch.long, device=device)
        for row, prompt in enumerate(prompts):
            ids[row, : len(prompt) - shared] = torch.tensor(prompt[shared:])
        counts = torch.tensor([len(p) - shared for p in prompts], device=device)
        logits = self._decoder.forward(ids, counts, cache)
        seen = torch.zeros_like(logits, dtype=torch.bool)
        for row, prompt in enumerate(prompts):
            seen[row, torch.tensor(prompt, device=device)] = True
        generators = [torch.Generator(device).manual_seed(seed) for seed in seeds]
        rows = list(range(len(prompts)))
        left = [min(decoding.max_new_tokens, self.window - len(p)) for p in prompts]
        while True:
            tokens = choose(logits, seen, decoding, generators)
            alive = []
            for place, token in enumerate(tokens.tolist()):
                yield rows[place], token
                left[place] -= 1
                if token not in self._loaded.template.stop_ids and left[place] > 0:
                    alive.append(place)
            if not alive:
                return
            if len(alive) < len(rows):
                kept = torch.tensor(alive, device=device)
                cache, seen, tokens = cache.pick(kept), seen[kept], tokens[kept]
                rows, left = [rows[i] for i in alive], [left[i] for i in alive]
                generators = [generators[i] for i in alive]
            seen.scatter_(1, tokens[:, None], True)
            ones = torch.ones(len(rows), dtype=torch.long, device=device)
            logits = self._decoder.forward(tokens[:, None], ones, cache)

    @staticmethod
    def _shared(prompts: Sequence[Sequence[int]]) -> int:
        """How many first tokens all prompts share, one of each left over; 0 when too few."""
        first, last = min(map(tuple, prompts)), max(map(tuple, prompts))
        count = 0
        limit = min(map(len, prompts)) - 1
        while count < limit and first[count] == last[count]:
            count += 1
        return count if count >= 16 and len(prompts) > 1 else 0

    def _prefix_cache(self, prefix: tuple[int, ...]) -> Cache:
        """Keys and values of a prefix, kept for the next request that begins the same way."""
        if self._prefix is None or self._prefix[0] != prefix:
            cache = self._decoder.new_cache(1, len(prefix))
            count = torch.tensor([len(prefix)], device=self._decoder.device)
            self._decoder.forward(torch.tensor([prefix], device=self._decoder.device), count, cache)
            self._prefix = (prefix, cache)
        return self._prefix[1]
