"""Is this English, and do its words stand in an order that English allows?

Statistics counted by `benchmarks/judge_english.py`: the common words, and how well one class of
words may follow another (bits of pointwise mutual information; about 1 bit a pair in plain
English, below 0 in shuffled words). No model, 80 kB, read once.
"""

from __future__ import annotations

import base64
import itertools
import json
import re
import zlib
from functools import cache

from stentor import assets

ENDINGS = ("ing", "ed", "ly", "s", "er", "tion", "y", "")
_TOKEN = re.compile(r"[a-z]+(?:'[a-z]+)?|\d+|[.,;:!?]")
_MARKS = str.maketrans({";": ".", ":": ".", "!": ".", "?": ".", "’": "'"})


def tokens(text: str) -> list[str]:
    """Lower-case words, numbers and the marks `.` and `,` (every end of a sentence is `.`)."""
    return _TOKEN.findall(text.translate(_MARKS))


class English:
    """The counted statistics; `bits` is what the judge asks."""

    def __init__(self, data: dict[str, object]) -> None:
        words = str(data["words"]).split()
        names = [*words[: int(str(data["frequent"]))], *str(data["classes"]).split()]
        self.size = len(names)
        self.table = zlib.decompress(base64.b64decode(str(data["table"])))
        self.scale = 1.0 / int(str(data["levels"]))
        index = {name: number for number, name in enumerate(names)}
        self.known = frozenset(words)
        self._classes = {word: self._rest(word, index) for word in words} | {
            mark: index[mark] for mark in ".,"
        }
        self._unknown, self._number = index["?"], index["#"]

    @staticmethod
    def _rest(word: str, index: dict[str, int]) -> int:
        if word in index:
            return index[word]
        return next((index[f"-{e}"] for e in ENDINGS if word.endswith(e)), index["-"])

    def bits(self, words: list[str]) -> float:
        """Mean bits a pair of neighbours; 0 where there are fewer than two words."""
        if len(words) < 2:
            return 0.0
        number, unknown, find = self._number, self._unknown, self._classes.get
        ids = [find(w, number if w.isdigit() else unknown) for w in words]
        size, table = self.size, self.table
        # lists, since a generator takes half as long again
        total = sum([table[a * size + b] for a, b in itertools.pairwise(ids)])
        return (total / (len(ids) - 1) - 128) * self.scale


@cache
def english() -> English:
    """The bundled statistics."""
    return English(json.loads(assets.path("judge", "english.json").read_text(encoding="utf-8")))
