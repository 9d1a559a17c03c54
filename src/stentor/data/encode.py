"""Examples as token ids: the system prompt put on, long replies cut at a sentence or dropped."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

from stentor.chat import Encoded, Message, Template
from stentor.data.examples import Example, Tally

# The end of a sentence: closing marks, perhaps a quote or bracket, then space or the end …
_SENTENCE_END = re.compile(
    r"(?<!\bDr)(?<!\bMr)(?<!\bMrs)(?<!\bMs)(?<!\bSt)(?<!\bvs)(?<!\be\.g)(?<!\bi\.e)(?<!\b[A-Z])"
    r"[.!?…][\"'”’)\]]*(?=\s|$)"
)
# … but not the number of a list's entry: "1." before its text.
_LIST_NUMBER = re.compile(r"(?:^|\n|[.:;!?]\s)\s*\d{1,3}\.$")


@dataclass(frozen=True)
class EncodedExample:
    """An example as ids and loss mask; where its reply was cut, `example` holds the cut one."""

    encoded: Encoded
    source: str
    example: Example
    rejected: Encoded | None = None
    """The same conversation with the worse reply, in a preference phase."""

    @property
    def length(self) -> int:
        return len(self.encoded.ids)


def encode(
    examples: Iterable[Example],
    source: str,
    template: Template,
    *,
    system: str | None,
    max_tokens: int,
    tally: Tally,
) -> list[EncodedExample]:
    """Encode what fits into `max_tokens`; everything cut or dropped is counted in `tally`."""
    found = []
    given = list(examples)
    conversations = [with_system(example.messages, system) for example in given]
    whole = template.encode_all(conversations)
    for example, messages, encoded in zip(given, conversations, whole, strict=True):
        if len(encoded.ids) > max_tokens:
            shorter = _shortened(messages, template, max_tokens)
            if shorter is None:
                tally.left_out[f"longer than {max_tokens} tokens"] += 1
                continue
            tally.changed["reply cut at the end of a sentence"] += 1
            encoded, reply = shorter
            example = replace(example, messages=(*example.messages[:-1], reply))
        if encoded.supervised < 2:  # a stop token alone teaches silence
            tally.left_out["no supervised text"] += 1
            continue
        found.append(EncodedExample(encoded, source, example))
    tally.kept = len(found)
    return found


def with_rejected(
    examples: Iterable[EncodedExample], template: Template, *, system: str | None, max_tokens: int
) -> list[EncodedExample]:
    """The examples, those that have a worse reply with it; one that is too long is cut or left out.

    A silent reply is a worse one too: its stop token is all there is of it.
    """
    found = []
    for e in examples:
        if e.example.rejected is None:
            found.append(e)
            continue
        *before, last = with_system(e.example.messages, system)
        messages = (*before, {**last, "content": e.example.rejected})
        rejected: Encoded | None = template.encode(messages)
        if rejected is not None and len(rejected.ids) > max_tokens:
            shorter = _shortened(messages, template, max_tokens)
            rejected = shorter[0] if shorter else None
        found.append(replace(e, rejected=rejected))
    return found


def with_system(messages: Iterable[Message], system: str | None) -> tuple[Message, ...]:
    """The conversation with the system prompt first, unless it brings one or `system` is empty.

    A plain document stays as it is.
    """
    given = tuple(messages)
    if not system or not given or given[0].get("role") in ("system", "text"):
        return given
    return ({"role": "system", "content": system}, *given)


def _shortened(
    messages: tuple[Message, ...], template: Template, limit: int
) -> tuple[Encoded, Message] | None:
    """The conversation with its last reply cut after the last sentence that fits; that reply."""
    *before, last = messages
    text = last["content"]
    ends = sentence_ends(text)
    low, high = 0, len(ends) - 1  # bisection: a longer text never has fewer tokens by much
    best: tuple[Encoded, Message] | None = None
    while low <= high:
        middle = (low + high) // 2
        cut = {**last, "content": text[: ends[middle]]}
        encoded = template.encode([*before, cut])
        if len(encoded.ids) <= limit:
            best, low = (encoded, cut), middle + 1
        else:
            high = middle - 1
    return best


def sentence_ends(text: str) -> list[int]:
    """Where the sentences of a text end."""
    ends = [match.end() for match in _SENTENCE_END.finditer(text)]
    return [end for end in ends if not _LIST_NUMBER.search(text, max(0, end - 8), end)]
