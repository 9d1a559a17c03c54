"""Counts the English statistics with which the judge tells text from word salad.

    python benchmarks/judge_english.py CORPUS.jsonl.zst [...]

Reads the training shards (JSON lines with `text`), and writes
`src/stentor/assets/judge/english.json`: the common words, most frequent first, and for each pair
of word classes the pointwise mutual information log2(P(b | a) / P(b)), which is high where one
may follow the other in English and low where it may not ("the of", "is was"). The frequent words
are classes of their own; the rest fall into classes by ending. Only counts leave the corpus.
Takes about two minutes and 300 MB; `english.json` holds the count of tokens it rests on.
"""

from __future__ import annotations

import base64
import io
import itertools
import json
import math
import sys
import zlib
from collections import Counter
from pathlib import Path

import zstandard

from stentor.evaluate.english import ENDINGS, tokens

COMMON = 6000
"""Words known as English; the rest of the vocabulary counts as unknown."""
FREQUENT = 300
"""Words that are a class of their own."""
LEVELS = 4
"""Steps a bit: the table is a byte a pair, 128 + LEVELS * bits, clipped to +-6 bits."""
CHARACTERS = 80_000_000
MIXED = ("dialogues", "storybooks", "gsm8k_train", "onestop_english")
"""Sources read whole; of the others every fourth document, or Wikipedia would decide alone."""


def documents(paths: list[str]) -> list[str]:
    texts, size = [], 0
    for path in paths:
        with Path(path).open("rb") as raw:
            lines = io.TextIOWrapper(zstandard.ZstdDecompressor().stream_reader(raw), "utf-8")
            for number, line in enumerate(lines):
                row = json.loads(line)
                if row["source"] in MIXED or number % 4 == 0:
                    texts.append(row["text"])
                    size += len(row["text"])
                if size > CHARACTERS:
                    return texts
    return texts


def main(paths: list[str]) -> None:
    texts = documents(paths)
    words = Counter(token for text in texts for token in tokens(text.lower()))
    ranked = [w for w, _ in words.most_common(3 * COMMON) if w.isascii() and w[0].isalpha()]
    common = [w for w in ranked if len(w) > 1 or w in ("a", "i")][:COMMON]
    names = [*common[:FREQUENT], *(f"-{e}" for e in ENDINGS), "#", ".", ",", "?"]
    index = {name: number for number, name in enumerate(names)}
    known = set(common)

    def class_of(token: str) -> int:
        if token in index:
            return index[token]
        if token[0].isdigit():
            return index["#"]
        if token not in known:
            return index["?"]
        return next((index[f"-{e}"] for e in ENDINGS if token.endswith(e)), index["-"])

    classes = {token: class_of(token) for token in words}
    pairs: Counter[tuple[int, int]] = Counter()
    for text in texts:
        ids = [classes[t] for t in tokens(text.lower())]
        pairs.update(itertools.pairwise(ids))
    size = len(names)
    first, second = Counter[int](), Counter[int]()
    for (a, b), n in pairs.items():
        first[a] += n
        second[b] += n
    total = sum(pairs.values())
    table = bytearray()
    for a in range(size):
        for b in range(size):
            expected = first[a] * second[b] / total
            bits = math.log2((pairs[a, b] + 0.5) / (expected + 0.5))
            table.append(128 + round(LEVELS * max(-6.0, min(6.0, bits))))
    out = Path(__file__).parents[1] / "src/stentor/assets/judge/english.json"
    packed = base64.b64encode(zlib.compress(bytes(table), 9)).decode()
    out.write_text(
        json.dumps(
            {
                "tokens": total,
                "levels": LEVELS,
                "frequent": FREQUENT,
                "words": " ".join(common),
                "classes": " ".join(names[FREQUENT:]),
                "table": packed,
            }
        )
    )
    print(f"{total:,} tokens, {size} classes, {out.stat().st_size:,} bytes -> {out}")


if __name__ == "__main__":
    main(sys.argv[1:])
