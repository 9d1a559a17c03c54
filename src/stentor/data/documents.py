"""Documents as tokens, kept in the cache so that no text is tokenised twice.

Each document is `<s>` text `</s>`. A shard is one file there, named by its content's hash. A corpus
from the hub is a folder of parts, named by what decides its text: a download that was broken off
goes on at the next row, and a recipe that asks for more tokens fetches the rest alone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stentor.data.files import Row, atomic, cache_folder, lock, read_hub, read_rows, sha256
from stentor.errors import DataError, nearest
from stentor.recipe import CorpusPart

_FORMAT = 1  # of the cached token files; rises when what they hold changes
_CHUNK = 512  # documents that are encoded at a time
_PART = 4_000_000  # tokens of a corpus from the hub that a kill may cost

Tokens = np.ndarray[Any, np.dtype[np.uint16]]


@dataclass(frozen=True)
class Documents:
    """Tokens of many documents: document i is tokens[ends[i - 1]:ends[i]]."""

    tokens: Tokens
    ends: np.ndarray[Any, np.dtype[np.int64]]
    sources: tuple[str, ...]
    """The `source` field of each document ("" where it has none)."""

    def __len__(self) -> int:
        return len(self.ends)

    def document(self, number: int) -> Tokens:
        start = int(self.ends[number - 1]) if number else 0
        return self.tokens[start : int(self.ends[number])]


# --- shards


def tokenise(shard: Path, tokenizer: Any) -> Documents:
    """The documents of a shard of `text` rows, from the cache when they were made before."""
    if not shard.is_file():
        raise DataError(f"{shard}: no such file; relative paths start from data.root")
    key = hashlib.sha256(
        f"{_FORMAT} {sha256(shard)} {_fingerprint(tokenizer)}".encode()
    ).hexdigest()[:24]
    cached = cache_folder() / "corpus" / f"{key}.npz"
    if not cached.exists():
        _encode_shard(shard, cached, tokenizer)
    with np.load(cached, allow_pickle=False) as data:
        sources = tuple(json.loads(data["sources"].tobytes()))
        return Documents(data["tokens"], data["ends"], sources)


def _encode_shard(shard: Path, cached: Path, tokenizer: Any) -> None:
    encode = _encoder(tokenizer)
    pieces: list[Tokens] = []
    sources: list[str] = []
    for chunk in _chunks(read_rows(shard)):
        for row in chunk:
            text = row.fields.get("text")
            if not isinstance(text, str) or not text.strip():
                raise DataError(f"{row.where}: there is no text in the row")
        pieces += encode([row.fields["text"] for row in chunk])
        sources += [row.fields.get("source", "") for row in chunk]
    if not pieces:
        raise DataError("a corpus has no documents")
    listed = np.frombuffer(json.dumps(sources).encode(), dtype=np.uint8)
    _save(cached, pieces, sources=listed)


def _save(path: Path, pieces: Sequence[Tokens], **more: Any) -> None:
    tokens = np.concatenate([np.empty(0, dtype=np.uint16), *pieces])
    ends = np.cumsum([len(p) for p in pieces], dtype=np.int64)
    with atomic(path) as stream:
        np.savez(stream, tokens=tokens, ends=ends, **more)


def _fingerprint(tokenizer: Any) -> str:
    return hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode()).hexdigest()


def _encoder(tokenizer: Any) -> Callable[[list[str]], list[Tokens]]:
    """Texts to documents; `tokenizers` encodes a list in parallel."""
    backend = type(tokenizer.backend_tokenizer).from_str(tokenizer.backend_tokenizer.to_str())
    backend.encode_special_tokens = True
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id

    def encode(texts: list[str]) -> list[Tokens]:
        encoded = backend.encode_batch_fast(texts, add_special_tokens=False)
        return [np.array([bos, *e.ids, eos], dtype=np.uint16) for e in encoded]

    return encode


def _chunks(rows: Iterable[Row]) -> Iterator[list[Row]]:
    chunk = []
    for row in rows:
        chunk.append(row)
        if len(chunk) == _CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


# --- the hub


def stream_hub(name: str, part: CorpusPart, tokenizer: Any) -> Documents:
    """The first documents of a data set on the hub, as many as make up `part.tokens`, or all.

    They are streamed into the cache. Of several processes one downloads; the others wait and then
    read what it left. Rows without words are passed over. DataError when the hub fails; what came
    before is kept.
    """
    if part.tokens is None:
        raise DataError(f"corpus {name}: a corpus from the hub needs `tokens`, how much to read")
    decides = (part.hub, part.config, part.split, part.text, part.revision)
    key = hashlib.sha256(
        json.dumps([_FORMAT, *decides, _fingerprint(tokenizer)]).encode()
    ).hexdigest()[:24]
    folder = cache_folder() / "corpus" / key
    if not _kept(folder).holds(part.tokens):
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "lock").open("w") as file:
            lock(file, wait=True)
            _fetch(folder, part, part.tokens, tokenizer)
    return _first(folder, name, part.tokens)


@dataclass(frozen=True)
class _Kept:
    """What the cache has of a corpus from the hub.

    A part is named by the first row in it and holds the one after it (`next`), so that parts make
    a chain without gaps, whichever of them were written.
    """

    parts: tuple[Path, ...]
    tokens: int
    row: int
    """The row after the last one, from 0."""
    ended: bool
    """Whether the set has no more rows."""

    def holds(self, tokens: int) -> bool:
        return self.ended or self.tokens >= tokens


def _kept(folder: Path) -> _Kept:
    parts: list[Path] = []
    tokens, row, ended = 0, 0, False
    while not ended and (path := _part(folder, row)).exists():
        with np.load(path, allow_pickle=False) as data:
            tokens += int(data["ends"][-1]) if len(data["ends"]) else 0
            row, ended = int(data["next"]), bool(data["ended"])
        parts.append(path)
    return _Kept(tuple(parts), tokens, row, ended)


def _part(folder: Path, row: int) -> Path:
    return folder / f"{row:012}.npz"


def _fetch(folder: Path, part: CorpusPart, wanted: int, tokenizer: Any) -> None:
    """Stream rows into the cache, from the first that is not there, until `wanted` tokens are."""
    kept = _kept(folder)
    if kept.holds(wanted):  # by another process, while this one waited
        return
    encode = _encoder(tokenizer)
    rows = read_hub(
        str(part.hub), part.config, part.split,
        streaming=True, revision=part.revision, start=kept.row,
    )  # fmt: skip
    first = row = kept.row
    pieces: list[Tokens] = []
    fresh, missing = 0, wanted - kept.tokens
    ended, failure = False, None
    try:
        for chunk in _chunks(rows):
            found = encode([t for r in chunk if (t := _text(r, part.text)).strip()])
            pieces += found
            row += len(chunk)
            fresh += sum(map(len, found))
            if fresh >= missing:
                break
            if fresh >= _PART:
                _save(_part(folder, first), pieces, next=row, ended=False)
                first, pieces, fresh, missing = row, [], 0, missing - fresh
        else:
            ended = True
    except DataError as error:
        failure = error
    if row > first or ended:
        _save(_part(folder, first), pieces, next=row, ended=ended)
    if failure is not None:
        raise failure


def _text(row: Row, field: str) -> str:
    if field not in row.fields:
        raise DataError(f"{row.where}: there is no field {field!r}{nearest(field, row.fields)}")
    text = row.fields[field]
    if not isinstance(text, str | None):
        raise DataError(f"{row.where}: {field} is a {type(text).__name__} where a text is due")
    return text or ""


def _first(folder: Path, name: str, wanted: int) -> Documents:
    """The cached documents up to the one that makes the tokens `wanted`."""
    tokens: list[Tokens] = []
    ends: list[np.ndarray[Any, np.dtype[np.int64]]] = []
    total = 0
    for path in _kept(folder).parts:
        if total >= wanted:
            break
        with np.load(path, allow_pickle=False) as data:
            tokens.append(data["tokens"])
            ends.append(data["ends"] + total)
        total += len(tokens[-1])
    if not total:
        raise DataError(f"corpus {name}: it has no documents")
    every = np.concatenate(ends)
    count = min(int(np.searchsorted(every, wanted)) + 1, len(every))
    return Documents(
        np.concatenate(tokens)[: int(every[count - 1])], every[:count], (name,) * count
    )
