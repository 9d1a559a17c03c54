"""The types of the pieces in `tokenizer.model`, as our template uses the vocabulary.

The SentencePiece model reserves hundreds of control pieces that no template of ours uses. A
program that reads their types there, as llama.cpp's converter does, takes text that spells one
for a token; marked as unused, they are never produced. Only types change, in place: a type is one
byte, so the file keeps its length, and neither SentencePiece nor protobuf is needed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from stentor.model.tokenizer import DECISIONS

CONTROL, UNUSED = 3, 5  # the same numbers in SentencePiece and in GGUF
_PIECES, _PIECE, _TYPE = 1, 1, 3  # fields of SentencePiece's ModelProto and of its pieces
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # how protobuf stores a field


def special_ids(tokenizer: Any) -> set[int]:
    """Ids of the pieces that are control pieces of our template.

    Those of decisions are none: no prompt may spell them, and Ollama shows control pieces to
    readers.
    """
    added = tokenizer.get_added_vocab()
    return {number for piece, number in added.items() if piece not in DECISIONS}


def is_unused(name: str, kind: int) -> bool:
    """Whether a piece that is not special is one that no text may become."""
    return kind == CONTROL or name.startswith("[REFERENCE_DOC_")


def retyped(model: bytes, tokenizer: Any) -> bytes:
    """A SentencePiece model (`tokenizer.model`) whose idle control pieces are marked unused."""
    found, special = bytearray(model), special_ids(tokenizer)
    pieces = [(s, e) for field, s, e in _fields(model, 0, len(model)) if field == _PIECES]
    for number, (start, end) in enumerate(pieces):
        places = {field: (s, e) for field, s, e in _fields(model, start, end)}
        if _TYPE not in places or number in special:  # a piece without a type is an ordinary one
            continue
        name = model[slice(*places[_PIECE])].decode("utf-8")
        place = places[_TYPE][0]
        if is_unused(name, model[place]):
            found[place] = UNUSED
    return bytes(found)


def _fields(raw: bytes, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Number, start and end of each field of a protobuf message in raw[start:end]."""
    while start < end:
        tag, start = _varint(raw, start)
        kind = tag & 7
        if kind == _BYTES:
            size, start = _varint(raw, start)
            stop = start + size
        elif kind == _VARINT:
            stop = _varint(raw, start)[1]
        else:
            stop = start + {_FIXED64: 8, _FIXED32: 4}[kind]
        yield tag >> 3, start, stop
        start = stop


def _varint(raw: bytes, place: int) -> tuple[int, int]:
    """The number stored at a place, and the place behind it."""
    value = shift = 0
    while True:
        byte = raw[place]
        value |= (byte & 127) << shift
        place, shift = place + 1, shift + 7
        if byte < 128:
            return value, place
