"""THE chat template: messages → token ids and loss mask, and its Jinja twin.

    <s> SYS system text SYS_END [INST] user text [/INST] reply </s> [INST] user text [/INST] …

Every text stands between control pieces and is encoded alone, so the ids of a prefix never
depend on what follows, and no text can produce a control piece. The mask is 1 on the tokens of
a reply and on the `</s>` that ends it: the model learns to stop because the stop token is
visibly in the loss. Training, evaluation and generation all encode here. A model may have learned
to begin its replies with a control piece that says what they are (`decisions`); it is no part of
their text, so the next turn is encoded without it.

The Jinja twin (`JINJA`), saved in the tokenizer's configuration for other programs, gives the
same ids for every text that does not spell a control piece (`spells_control` tells); for the
rest this module decides: the text stays text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Protocol

from stentor.errors import DataError, ModelError
from stentor.model import tokenizer as pieces
from stentor.model.pieces import Pieces

Message = dict[str, str]
"""`{"role": "system" | "user" | "assistant", "content": text}`, as everybody writes it.

A single message of the role `text` is no conversation but a plain document.
"""

JINJA = (
    "{{- bos_token -}}"
    "{%- for message in messages -%}"
    "{%- if message['content'] is string -%}"
    "{%- set text = message['content'] -%}"
    "{%- else -%}"
    "{%- set text = message['content'] | map(attribute='text') | join('') -%}"
    "{%- endif -%}"
    "{%- if message['role'] == 'system' -%}"
    f"{{{{- '{pieces.SYSTEM}' -}}}}{{{{- text -}}}}{{{{- '{pieces.SYSTEM_END}' -}}}}"
    "{%- elif message['role'] == 'user' -%}"
    f"{{{{- '{pieces.USER}' -}}}}{{{{- text -}}}}{{{{- '{pieces.USER_END}' -}}}}"
    "{%- elif message['role'] == 'assistant' -%}"
    "{%- generation -%}{{- text -}}{{- eos_token -}}{%- endgeneration -%}"
    "{%- else -%}"
    "{{- raise_exception('unknown role: ' ~ message['role']) -}}"
    "{%- endif -%}"
    "{%- endfor -%}"
)


# Characters of private use around the number of a message: its text in OwnTemplate's rendering.
_OPEN, _CLOSE = "\uf8e4", "\uf8e5"
_MARK = re.compile(f"{_OPEN}([0-9]+){_CLOSE}")
_HALF = re.compile("[\ud800-\udfff]")  # what JSON may hold and no tokenizer takes


@dataclass(frozen=True)
class Encoded:
    """A conversation as `ids`, with `mask` 1 where the loss is taken.

    `system`: how many of the first ids come from the system message (and what precedes it);
    conversations with the same system message share them.
    """

    ids: tuple[int, ...]
    mask: tuple[int, ...]
    system: int = field(default=0, compare=False)

    @property
    def supervised(self) -> int:
        """How many ids are learned; the first can't be, since nothing precedes it."""
        return sum(self.mask[1:])


class Template(Protocol):
    """What training and generation need of a template."""

    stop_ids: frozenset[int]
    controls: frozenset[int]
    """Special ids: no text of a message is spelled by them."""
    decisions: tuple[int, ...]
    """Special ids that a reply may begin with: refusal, support, answer; () where there are none.
    """

    def encode(self, messages: Sequence[Message]) -> Encoded:
        """Ids and loss mask of a conversation; ends after the last message."""

    def encode_all(self, conversations: Sequence[Sequence[Message]]) -> list[Encoded]:
        """`encode` for each of many conversations, faster than one after the other."""

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """Ids up to where the reply to the last user message begins."""

    def segment(self, text: str) -> list[int]:
        """Ids of a text alone; what spells a control piece in it is text."""

    def text(self, ids: Sequence[int]) -> str:
        """The reply that generated `ids` spell, without control pieces."""


def check_messages(messages: Sequence[Message]) -> None:
    """DataError unless: an optional system message, then user and assistant in turn; or a text."""
    if not messages:
        raise DataError("a conversation has no messages; it needs at least one of the user")
    expected = "user"
    for number, message in enumerate(messages):
        role, content = message.get("role"), message.get("content")
        if not isinstance(content, str):
            raise DataError(f"message {number + 1} has no text in 'content'")
        if _HALF.search(content):
            raise DataError(
                f"message {number + 1} holds half of a character (a lone surrogate); "
                "write the file as UTF-8"
            )
        if number == 0 and (role == "system" or (role == "text" and len(messages) == 1)):
            continue
        if role != expected:
            raise DataError(f"message {number + 1} has role {role!r} where {expected!r} is due")
        expected = "assistant" if role == "user" else "user"
    if messages[-1]["role"] == "system":
        raise DataError("a conversation of a system message alone has nothing to reply to")


def document_ids(tokenizer: Any, text: str) -> list[int]:
    """A document as a base of ours learned it; a foreign tokenizer's own way otherwise.

    Where that is to begin with the text itself, the piece that begins texts, or else ends them, is
    put before it: without one nothing would predict the first piece.
    """
    if not pieces.is_bundled(tokenizer):
        found: list[int] = list(tokenizer(text)["input_ids"])
        ends = (tokenizer.bos_token_id, tokenizer.eos_token_id)
        begin = next((piece for piece in ends if piece is not None), None)
        return found if begin is None or found[:1] == [begin] else [begin, *found]
    ids = tokenizer(text, add_special_tokens=False, split_special_tokens=True, verbose=False)
    return [tokenizer.bos_token_id, *ids["input_ids"], tokenizer.eos_token_id]


def _check_prompt(messages: Sequence[Message]) -> None:
    if messages[-1]["role"] == "text":
        raise DataError("a plain document has no reply; give a conversation")
    if messages[-1]["role"] == "assistant":
        raise DataError("the last message is the assistant's; add the user's next one")


def added_pieces(tokenizer: Any) -> dict[int, Any]:
    """Id → piece (tokenizers.AddedToken) of what was added to a tokenizer's vocabulary."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return backend.get_added_tokens_decoder() if backend is not None else {}


def _encoder(tokenizer: Any, *, controls: bool) -> Any:
    """A copy of what a tokenizer encodes with; `controls`: text may spell its special pieces.

    A copy, because the tokenizer's own is set anew by whoever calls it, in any thread.
    """
    own = getattr(tokenizer, "backend_tokenizer", None)
    if own is None:
        raise ModelError(
            "the tokenizer has no fast form, which encoding needs; save it with a tokenizer.json"
        )
    backend = type(own).from_str(own.to_str())
    backend.encode_special_tokens = not controls
    backend.no_truncation()
    backend.no_padding()
    return backend


class SegmentTemplate:
    """Our template, over a tokenizer that holds its control pieces."""

    def __init__(self, tokenizer: Any) -> None:
        if not pieces.is_ours(tokenizer):
            raise ModelError(
                "the tokenizer has no pieces [INST], [/INST] and the two system delimiters; "
                "keep the model's own template (model.template: own), or add ours "
                "(model.template: stentor)"
            )
        self._tokenizer = tokenizer
        number = tokenizer.convert_tokens_to_ids
        self._eos = tokenizer.eos_token_id
        self._marks = {
            "system": (number(pieces.SYSTEM), number(pieces.SYSTEM_END)),
            "user": (number(pieces.USER), number(pieces.USER_END)),
        }
        bos = tokenizer.bos_token_id
        self._begin = [] if bos is None else [bos]
        marks = [i for pair in self._marks.values() for i in pair]
        # special ones only: others are shown to readers by programs that skip special tokens
        special = {i for i, p in added_pieces(tokenizer).items() if p.special}
        known = [number(piece) for piece in pieces.DECISIONS]
        self.decisions = tuple(known) if special.issuperset(known) else ()
        self.controls = frozenset([*self._begin, *marks, *self.decisions, self._eos])
        self.stop_ids = frozenset({self._eos})
        # nobody sets that of Pieces anew
        is_light = isinstance(tokenizer, Pieces)
        self._backend = (
            tokenizer.backend_tokenizer if is_light else _encoder(tokenizer, controls=False)
        )
        # every example of a run brings the same system prompt, often its longest text
        self._system_segment = lru_cache(maxsize=16)(self.segment)

    def segment(self, text: str) -> list[int]:
        ids: list[int] = self._backend.encode(text, add_special_tokens=False).ids
        return ids

    def encode(self, messages: Sequence[Message]) -> Encoded:
        check_messages(messages)
        segments = [
            (self._system_segment if message["role"] == "system" else self.segment)(
                message["content"]
            )
            for message in messages
        ]
        return self._joined(messages, segments)

    def encode_all(self, conversations: Sequence[Sequence[Message]]) -> list[Encoded]:
        for messages in conversations:
            check_messages(messages)
        texts = [m["content"] for c in conversations for m in c if m["role"] != "system"]
        encoded = iter(self._backend.encode_batch_fast(texts, add_special_tokens=False))
        return [
            self._joined(
                messages,
                [
                    self._system_segment(m["content"])
                    if m["role"] == "system"
                    else next(encoded).ids
                    for m in messages
                ],
            )
            for messages in conversations
        ]

    def _joined(self, messages: Sequence[Message], segments: Sequence[list[int]]) -> Encoded:
        ids, mask = list(self._begin), [0] * len(self._begin)
        system = 0
        for message, segment in zip(messages, segments, strict=True):
            is_system = message["role"] == "system"
            if message["role"] in ("assistant", "text"):
                ids += [*segment, self._eos]
                mask += [1] * (len(segment) + 1)
            else:
                start, end = self._marks[message["role"]]
                ids += [start, *segment, end]
                mask += [0] * (len(segment) + 2)
            if is_system:
                system = len(ids)
        return Encoded(tuple(ids), tuple(mask), system)

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        encoded = self.encode(messages)
        _check_prompt(messages)
        return list(encoded.ids)

    def text(self, ids: Sequence[int]) -> str:
        visible = [i for i in ids if i not in self.stop_ids and i not in self.controls]
        text: str = self._tokenizer.decode(visible, skip_special_tokens=True)
        return text


class OwnTemplate:
    """The Jinja template that a foreign tokenizer brings, with the same guarantees.

    The mask is found by rendering the conversation up to each reply and after it: what a
    reply adds, stop token included, is supervised. A text that spells one of the tokenizer's
    special tokens is rendered as a mark and encoded apart in the mark's place, so it stays text.
    """

    decisions: tuple[int, ...] = ()

    def __init__(self, tokenizer: Any, stop_ids: Iterable[int] = ()) -> None:
        if not getattr(tokenizer, "chat_template", None):
            raise ModelError(
                "the tokenizer has no chat template of its own; use ours (model.template: stentor)"
            )
        self._tokenizer = tokenizer
        self._markup = _encoder(tokenizer, controls=True)
        self._texts = _encoder(tokenizer, controls=False)
        self._specials = [t for t in tokenizer.all_special_tokens if t]
        self._specials += [str(t) for t in tokenizer.get_added_vocab()]
        self.stop_ids = frozenset({tokenizer.eos_token_id, *stop_ids} - {None})
        specials: list[int] = tokenizer.convert_tokens_to_ids(self._specials)
        self.controls = self.stop_ids | frozenset(specials)

    def _marked(self, messages: Sequence[Message]) -> list[Message]:
        """The messages, with a mark in place of each text that spells a special token."""
        shown = []
        for number, message in enumerate(messages):
            text = message["content"]
            if any(s in text for s in self._specials) or _MARK.search(text):
                text = f"{_OPEN}{number}{_CLOSE}"
            shown.append({**message, "content": text})
        return shown

    def _render(self, messages: Sequence[Message], *, reply: bool = False) -> str:
        text: str = self._tokenizer.apply_chat_template(
            list(messages), tokenize=False, add_generation_prompt=reply
        )
        return text

    def _ids(self, rendered: str, messages: Sequence[Message]) -> list[int]:
        """Ids of a rendered piece; a mark in it stands for the text of one of `messages`."""
        ids: list[int] = []
        for place, part in enumerate(_MARK.split(rendered)):
            if place % 2 == 1:
                ids += self.segment(messages[int(part)]["content"])
            else:
                ids += self._markup.encode(part, add_special_tokens=False).ids
        return ids

    def segment(self, text: str) -> list[int]:
        ids: list[int] = self._texts.encode(text, add_special_tokens=False).ids
        return ids

    def encode(self, messages: Sequence[Message]) -> Encoded:
        check_messages(messages)
        if messages[0]["role"] == "text":
            whole = document_ids(self._tokenizer, messages[0]["content"])
            return Encoded(tuple(whole), (0, *[1] * (len(whole) - 1)))
        shown = self._marked(messages)
        ids: list[int] = []
        mask: list[int] = []
        done = ""
        for number, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            opening = self._render(shown[:number], reply=True)
            through = self._render(shown[: number + 1])
            if not opening.startswith(done) or not through.startswith(opening):
                raise ModelError(
                    "the model's own template renders a reply differently once more follows; "
                    "its loss mask can't be known: use ours (model.template: stentor)"
                )
            head = self._ids(opening[len(done) :], messages)
            reply, end = self._reply_span(through[len(opening) :], messages)
            ids += head + reply + end
            mask += [0] * len(head) + [1] * len(reply) + [0] * len(end)
            done = through
        tail = self._ids(self._render(shown)[len(done) :], messages)
        return Encoded((*ids, *tail), (*mask, *[0] * len(tail)))

    def _reply_span(
        self, rendered: str, messages: Sequence[Message]
    ) -> tuple[list[int], list[int]]:
        """The supervised ids of a rendered reply (stop token last) and what trails it."""
        ids = self._ids(rendered, messages)
        for position, token in enumerate(ids):
            if token in self.stop_ids:
                return ids[: position + 1], ids[position + 1 :]
        raise ModelError(
            "the model's own template does not end a reply with a stop token; "
            "use ours (model.template: stentor)"
        )

    def encode_all(self, conversations: Sequence[Sequence[Message]]) -> list[Encoded]:
        return [self.encode(messages) for messages in conversations]

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        check_messages(messages)
        _check_prompt(messages)
        shown = self._marked(messages)
        whole = self._render(shown, reply=True)
        ids: list[int] = []
        start = 0
        for end in (*self._borders(shown, whole), len(whole)):
            ids += self._ids(whole[start:end], messages)
            start = end
        return ids

    def _borders(self, shown: Sequence[Message], whole: str) -> Iterator[int]:
        """Where replies begin and end in `whole`: ids are cut there in training too."""
        for number, message in enumerate(shown):
            if message["role"] == "assistant":
                opening = self._render(shown[:number], reply=True)
                through = self._render(shown[: number + 1])
                if whole.startswith(through) and through.startswith(opening):
                    yield from (len(opening), len(through))

    def text(self, ids: Sequence[int]) -> str:
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=True)
        return text


def template_for(tokenizer: Any, *, stop_ids: Iterable[int] = ()) -> Template:
    """Our template where the tokenizer holds its pieces, else the tokenizer's own."""
    if pieces.is_ours(tokenizer):
        return SegmentTemplate(tokenizer)
    return OwnTemplate(tokenizer, stop_ids)


def spells_control(tokenizer: Any, messages: Sequence[Message]) -> bool:
    """Whether a message spells a special piece, where the Jinja twin may differ from us."""
    specials = {*tokenizer.all_special_tokens, *tokenizer.get_added_vocab()}
    return any(s in m["content"] for s in specials for m in messages)


def jinja_ids(tokenizer: Any, messages: Sequence[Message]) -> Encoded:
    """What the Jinja twin gives, for the proof that both agree."""
    out = tokenizer.apply_chat_template(
        list(messages),
        tokenize=True,
        return_dict=True,
        return_assistant_tokens_mask=True,
    )
    return Encoded(tuple(out["input_ids"]), tuple(out["assistant_masks"]))
