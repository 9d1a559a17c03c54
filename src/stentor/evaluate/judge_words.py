"""Two guesses from words alone: does a prompt ask for harm, does a sentence stand beside a refusal?

Logistic regressions over words and pairs of words, trained by `benchmarks/judge_words.py` on the
bundled, hand-written training rows. Neither decides anything: they are two of the numbers that the
classifier of `judge_lecture` weighs.
"""

from __future__ import annotations

import json
import math
import re
from functools import cache
from itertools import pairwise

from stentor import assets

READ = 40
"""Words of a text that are read: a prompt's request stands at its beginning."""
_TERM = re.compile(r"[a-z]+(?:'[a-z]+)?|\d+|\?")


def terms(text: str) -> frozenset[str]:
    """The words and pairs of words at the beginning of a text, which is in lower case."""
    words = ["^", *_TERM.findall(text)[:READ], "$"]
    return frozenset(words[1:-1]) | {f"{a} {b}" for a, b in pairwise(words)}


@cache
def _weights(model: str) -> tuple[float, dict[str, float]]:
    data = json.loads(assets.path("judge", "words.json").read_text(encoding="utf-8"))[model]
    return float(data["bias"]), data["weights"]


def _score(model: str, text: str) -> float:
    bias, weights = _weights(model)
    return bias + sum(weights.get(term, 0.0) for term in terms(text))


def intent(prompt: str) -> float:
    """How likely a prompt (in lower case) asks for something harmful, 0 to 1."""
    return 1.0 / (1.0 + math.exp(-max(-30.0, min(30.0, _score("intent", prompt)))))


def beside_refusal(sentence: str) -> float:
    """-1 for the words of an answer, 1 for those that stand beside a refusal."""
    return math.tanh(_score("beside", sentence) / 3)
