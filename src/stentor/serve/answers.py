"""Replies written as OpenAI's objects: whole, or as the chunks of a stream."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from stentor.chat import added_pieces
from stentor.generate.running import Drawn
from stentor.model.light import ChatModel
from stentor.serve.openai import (
    AssistantMessage,
    ChatChoice,
    ChatCompletion,
    ChatFacts,
    ChatLogprobs,
    Completion,
    CompletionChoice,
    CompletionLogprobs,
    LikelyToken,
    TokenChance,
    Usage,
)

_LEAST = -9999.0
"""What is given for a log-probability of minus infinity, which JSON can't say (as OpenAI does)."""


@dataclass
class Reply:
    """What has come of one choice so far."""

    text: str = ""
    drawn: list[Drawn] = field(default_factory=list)
    end: Any = None


def _alphabet() -> dict[str, int]:
    """How byte-level BPE writes bytes: printable ones as they are, the others from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [value for value in range(256) if value not in printable]
    signs = {chr(value): value for value in printable}
    return signs | {chr(256 + place): value for place, value in enumerate(others)}


_ALPHABET = _alphabet()


class Tokens:
    """Names tokens and their log-probabilities as OpenAI does."""

    def __init__(self, loaded: ChatModel) -> None:
        self._tokenizer = loaded.tokenizer
        self._unread = loaded.template.stop_ids | loaded.template.controls
        backend = loaded.tokenizer.backend_tokenizer
        self._added = frozenset(added_pieces(loaded.tokenizer))
        # byte-level BPE (GPT-2's, Llama 3's) writes a space as Ġ
        self._by_bytes = backend.decoder is not None and backend.decoder.decode(["aĠ"]) == "a "

    def name(self, token: int) -> tuple[str, list[int]]:
        """A token's text, in which bytes that are no character stand as `\\xe2`, and its bytes."""
        octets = self._bytes(token)
        return octets.decode("utf-8", "backslashreplace"), list(octets)

    def _bytes(self, token: int) -> bytes:
        piece: str | None = self._tokenizer.convert_ids_to_tokens(token)
        if piece is None:  # a row of the model's vocabulary that the tokenizer leaves free
            return b""
        if token in self._added:  # written as it is
            return piece.encode()
        if self._by_bytes:
            return bytes(_ALPHABET[sign] for sign in piece)
        if piece.startswith("<0x") and len(piece) == 6:
            return bytes([int(piece[3:5], 16)])
        return piece.replace("▁", " ").encode()

    def chances(self, drawn: Sequence[Drawn]) -> list[TokenChance]:
        """Of the tokens that make text; control pieces, the stop token with them, are not."""
        found = []
        for one in drawn:
            if one.chances is None or one.token in self._unread:
                continue
            text, octets = self.name(one.token)
            top = [self._likely(token, value) for token, value in one.chances.likeliest]
            logprob = max(one.chances.drawn, _LEAST)
            found.append(TokenChance(token=text, logprob=logprob, bytes=octets, top_logprobs=top))
        return found

    def _likely(self, token: int, value: float) -> LikelyToken:
        text, octets = self.name(token)
        return LikelyToken(token=text, logprob=max(value, _LEAST), bytes=octets)


class ChatWriter:
    """chat.completion and its chunks."""

    def __init__(
        self, model: str, fingerprint: str, tokens: Tokens, *, logprobs: bool, dropped: int = 0
    ) -> None:
        """`dropped`: how many turns of the conversation were left out."""
        self._tokens, self._logprobs = tokens, logprobs
        self._facts = ChatFacts(dropped_turns=dropped)
        self._head = {
            "id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": model,
            "system_fingerprint": fingerprint,
        }  # fmt: skip

    def whole(self, replies: Sequence[Reply], usage: Usage) -> ChatCompletion:
        choices = [
            ChatChoice(
                index=index,
                message=AssistantMessage(content=reply.text),
                logprobs=self._chances(reply.drawn),
                finish_reason=reply.end,
            )
            for index, reply in enumerate(replies)
        ]
        return ChatCompletion(choices=choices, usage=usage, stentor=self._facts, **self._head)

    def opening(self, index: int) -> dict[str, Any] | None:
        chunk = self._chunk(index, {"role": "assistant", "content": ""}, None, None)
        return chunk | {"stentor": self._facts.model_dump()}

    def piece(self, index: int, before: str, text: str, drawn: Sequence[Drawn]) -> dict[str, Any]:
        return self._chunk(index, {"content": text}, self._chances(drawn), None)

    def closing(self, index: int, end: str) -> dict[str, Any]:
        return self._chunk(index, {}, None, end)

    def usage(self, usage: Usage) -> dict[str, Any]:
        kind = {"object": "chat.completion.chunk"}
        return self._head | kind | {"choices": [], "usage": usage.model_dump()}

    def _chances(self, drawn: Sequence[Drawn]) -> ChatLogprobs | None:
        return ChatLogprobs(content=self._tokens.chances(drawn)) if self._logprobs else None

    def _chunk(
        self, index: int, delta: dict[str, Any], chances: ChatLogprobs | None, end: str | None
    ) -> dict[str, Any]:
        found = None if chances is None else chances.model_dump()
        choice = {"index": index, "delta": delta, "logprobs": found, "finish_reason": end}
        return self._head | {"object": "chat.completion.chunk", "choices": [choice]}


class TextWriter:
    """text_completion and its chunks."""

    def __init__(self, model: str, fingerprint: str, tokens: Tokens, *, logprobs: bool) -> None:
        self._tokens, self._logprobs = tokens, logprobs
        self._head = {
            "id": f"cmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": model,
            "system_fingerprint": fingerprint,
        }  # fmt: skip

    def whole(self, replies: Sequence[Reply], usage: Usage) -> Completion:
        choices = [
            CompletionChoice(
                index=index,
                text=reply.text,
                logprobs=self._chances("", reply.text, reply.drawn),
                finish_reason=reply.end,
            )
            for index, reply in enumerate(replies)
        ]
        return Completion(choices=choices, usage=usage, **self._head)

    def opening(self, index: int) -> dict[str, Any] | None:
        return None

    def piece(self, index: int, before: str, text: str, drawn: Sequence[Drawn]) -> dict[str, Any]:
        return self._chunk(index, text, self._chances(before, text, drawn), None)

    def closing(self, index: int, end: str) -> dict[str, Any]:
        return self._chunk(index, "", None, end)

    def usage(self, usage: Usage) -> dict[str, Any]:
        kind = {"object": "text_completion"}
        return self._head | kind | {"choices": [], "usage": usage.model_dump()}

    def _chances(self, before: str, text: str, drawn: Sequence[Drawn]) -> CompletionLogprobs | None:
        """Of the tokens of `text`, which follows what was written `before`."""
        if not self._logprobs:
            return None
        found = self._tokens.chances(drawn)
        offsets, offset = [], len(before)
        if not before and found and found[0].token.startswith(" ") and not text.startswith(" "):
            offset -= 1  # a text's first word is written without the space of its token
        for chance in found:
            offsets.append(max(0, offset))
            offset += len(chance.token)
        return CompletionLogprobs(
            tokens=[chance.token for chance in found],
            token_logprobs=[chance.logprob for chance in found],
            top_logprobs=[{t.token: t.logprob for t in c.top_logprobs} for c in found],
            text_offset=offsets,
        )

    def _chunk(
        self, index: int, text: str, chances: CompletionLogprobs | None, end: str | None
    ) -> dict[str, Any]:
        found = None if chances is None else chances.model_dump()
        choice = {"index": index, "text": text, "logprobs": found, "finish_reason": end}
        return self._head | {"object": "text_completion", "choices": [choice]}


Writer = ChatWriter | TextWriter
