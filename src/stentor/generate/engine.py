"""The decoding engine: conversations in, replies out, in batches.

The system prompt that requests share is computed once. Each request draws from its own seeded
generator, so a reply does not depend on which others are in the batch.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

from stentor.chat import Message, SegmentTemplate
from stentor.data.encode import with_system
from stentor.errors import InputError
from stentor.generate.backend import Backend
from stentor.generate.running import Drawn, Prefixes, Request, Running
from stentor.generate.sampling import Decoding, from_generation
from stentor.generate.text import Spelling
from stentor.model.light import ChatModel

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

    def __init__(
        self,
        loaded: ChatModel,
        *,
        batch: int = 32,
        backend: Backend | None = None,
        content: Callable[[], str] = lambda: "",
    ) -> None:
        """`backend` None: torch, the reference, for a model that was loaded with its weights.

        `content` gives the hash of the weights.
        """
        if backend is None:
            from stentor.generate.torch_backend import TorchBackend

            backend = TorchBackend(cast(Any, loaded).model)
        self.chat, self._backend, self._content = loaded, backend, content
        self._batch = batch
        self._prefixes = Prefixes(self._backend)
        self.window = backend.window
        self.backend = backend.name
        """What computes, for people."""
        self.defaults = from_generation(loaded.generation)
        self.system: str | None = loaded.generation.get("system")

    def _ids(self, messages: Sequence[Message], system: str | None) -> list[int]:
        return self.chat.template.prompt(with_system(messages, self._system(system)))

    def _system(self, system: str | None) -> str | None:
        return self.system if system is None else system

    @property
    def fingerprint(self) -> str:
        """Tells weights and precisions apart: else the same seed gives the same reply; or ""."""
        content = self._content()
        whole = f"{content} {self._backend.precision}"
        return f"fp_{hashlib.sha256(whole.encode()).hexdigest()[:12]}" if content else ""

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
        if seeds is None:
            seeds = [decoding.seed + number for number in range(len(conversations))]
        requests = [
            Request(self.prompt_ids(messages, system), decoding, seed, self._lead(messages, system))
            for messages, seed in zip(conversations, seeds, strict=True)
        ]
        return self.finish(requests, done)

    def finish(
        self, requests: Sequence[Request], done: Callable[[int], None] = lambda count: None
    ) -> list[Reply]:
        """What comes of each request, in their order. `done` hears how many are finished."""
        streams: dict[Request, list[int]] = {request: [] for request in requests}
        reasons: dict[Request, str] = {}
        running = self.running()
        waiting = deque(sorted(requests, key=lambda request: len(request.ids)))
        while waiting or running:
            free = self._batch - len(running)
            # several at a time, as joining costs a step; places left empty cost more
            if waiting and (not running or free >= max(1, self._batch // 4)):
                drawn = running.join([waiting.popleft() for _ in range(min(free, len(waiting)))])
            else:
                drawn = running.step()
            finished = len(reasons)
            for one in drawn:
                streams[one.request].append(one.token)
                if one.end:
                    reasons[one.request] = one.end
            if len(reasons) > finished:
                done(len(reasons))
        return [
            Reply(
                self.chat.template.text(streams[request]), tuple(streams[request]),
                reasons[request], len(request.ids),
            )
            for request in requests
        ]  # fmt: skip

    def stream(
        self,
        messages: Sequence[Message],
        decoding: Decoding,
        *,
        system: str | None = None,
        ended: Callable[[str], None] = lambda reason: None,
    ) -> Iterator[str]:
        """The text of one reply, piece by piece as it is drawn; `ended` hears why it ended."""
        spelling = self.spelling()
        for drawn in self.tokens([self.request(messages, decoding, system=system)]):
            if piece := spelling.add(drawn.token):
                yield piece
            if drawn.end:
                ended(drawn.end)
        if rest := spelling.end():
            yield rest

    def request(
        self,
        messages: Sequence[Message],
        decoding: Decoding,
        *,
        system: str | None = None,
        likeliest: int | None = None,
    ) -> Request:
        """What a running batch decodes for a conversation."""
        ids = self.prompt_ids(messages, system)
        return Request(ids, decoding, decoding.seed, self._lead(messages, system), likeliest)

    def text_ids(self, text: str) -> list[int]:
        """The ids of a plain text to be continued; control pieces in it are text."""
        begin = self.chat.tokenizer.bos_token_id
        return [*([] if begin is None else [begin]), *self.chat.template.segment(text)]

    def running(self) -> Running:
        """An empty batch that requests join and leave while it runs."""
        return Running(self._backend, self._prefixes, self.chat.template.stop_ids)

    def spelling(self, stops: Sequence[str] = (), *, after: Sequence[int] = ()) -> Spelling:
        """What turns the tokens of one reply into text as they come; see Spelling for `after`."""
        return Spelling(self.chat, stops, after=after)

    def tokens(self, requests: Sequence[Request]) -> Iterator[Drawn]:
        """The tokens of requests as they are drawn, stop tokens included."""
        running = self.running()
        yield from running.join(requests)
        while running:
            yield from running.step()

    def _lead(self, messages: Sequence[Message], system: str | None) -> int:
        """How many first ids the system prompt makes, which the next request will share."""
        if not isinstance(self.chat.template, SegmentTemplate):
            return 0
        return self.chat.template.encode(with_system(messages, self._system(system))).system
