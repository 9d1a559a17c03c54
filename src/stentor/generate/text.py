"""The text of a reply while its tokens come, and where a stop sequence ends it."""

from __future__ import annotations

from collections.abc import Sequence

from stentor.model.light import ChatModel

_SETTLE = 24
"""Tokens after which the earlier ones are decoded no more: decoding costs more than linear time."""


def alike(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens two replies have in common before they part or one of them ends."""
    differing = (n for n, (x, y) in enumerate(zip(a, b, strict=False)) if x != y)
    return next(differing, min(len(a), len(b)))


class Spelling:
    """Turns drawn tokens into pieces of text that never change once given out.

    What may yet change is held back: the bytes of an unfinished character, and text that may be
    the beginning of a stop sequence. A stop sequence and all after it are never given out.
    """

    def __init__(
        self, loaded: ChatModel, stops: Sequence[str] = (), *, after: Sequence[int] = ()
    ) -> None:
        """`after`: the ids of a text that the reply goes on from, within a sentence perhaps."""
        self._template, self._tokenizer = loaded.template, loaded.tokenizer
        self._stops = tuple(stops)
        self._ids = self._known(after)
        self._settled = ""  # the text of the ids before `_open` that belong to the reply
        self._open = len(self._ids)
        self._given = ""
        self.stopped = False
        """Whether a stop sequence occurred."""

    def add(self, token: int) -> str:
        """The text that can be shown now that this token came too; "" when none."""
        self._ids.append(token)
        text = self._text()
        # the middle of a character made of several bytes, or what may yet become one
        if text.endswith("\ufffd") or self._is_byte(token):
            return ""
        if len(self._ids) - self._open >= _SETTLE and self._template.text([token]):
            self._settled, self._open = text, len(self._ids)
        return self._give(text, held=True)

    def end(self) -> str:
        """The rest of the text, when no token follows."""
        return self._give(self._text(), held=False)

    def _text(self) -> str:
        if self._open == 0:
            return self._template.text(self._ids)
        # decoding drops the space before the first piece, so it begins with one that is known
        known = self._template.text(self._ids[self._open - 1 : self._open])
        return self._settled + self._template.text(self._ids[self._open - 1 :])[len(known) :]

    def _known(self, after: Sequence[int]) -> list[int]:
        """The last id that spells whole characters alone, to be decoded in front of the reply."""
        for token in reversed(after):
            text = self._template.text([token, token])  # twice: a space may be all that it spells
            if text and "\ufffd" not in text and not self._is_byte(token):
                return [token]
        return []

    def _is_byte(self, token: int) -> bool:
        """Whether a piece spells one byte: what a run of them spells shows only at its end."""
        piece: str | None = self._tokenizer.convert_ids_to_tokens(token)
        return piece is not None and piece.startswith("<0x") and len(piece) == 6

    def _give(self, text: str, *, held: bool) -> str:
        if self.stopped:
            return ""
        places = [place for stop in self._stops if (place := text.find(stop)) >= 0]
        if places:
            self.stopped = True
            text = text[: min(places)]
        elif held:
            text = text[: len(text) - self._beginning(text)]
        piece = text[len(self._given) :]
        self._given += piece
        return piece

    def _beginning(self, text: str) -> int:
        """How many of the last characters may be the beginning of a stop sequence."""
        longest = 0
        for stop in self._stops:
            for size in range(min(len(stop) - 1, len(text)), longest, -1):
                if text.endswith(stop[:size]):
                    longest = size
                    break
        return longest
