"""Three guesses from words alone: logistic regressions over words and runs of words.

    intent          does a prompt ask for something harmful?
    beside_refusal  do the words of one sentence belong beside a refusal, or in an answer?
    declining       do the words of a whole reply decline?

Trained by `benchmarks/judge_train.py` on the bundled, hand-written training rows (and `declining`
on the building half of the calibration pairs, too). None of them decides anything: they are numbers
that the classifier of `judge_lecture` weighs.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from functools import cache
from itertools import pairwise

from stentor import assets

READ = 40
"""Words of a text that are read: a prompt's request stands at its beginning."""
OPENING, LAST, LONGEST = 2, 8, 30
"""A reply's opening sentences, the number of sentences that are read, and the words of each."""
_TERM = re.compile(r"[a-z]+(?:'[a-z]+)?|\d+|\?")


def terms(text: str) -> frozenset[str]:
    """The words and pairs of words at the beginning of a text, which is in lower case."""
    words = ["^", *_TERM.findall(text)[:READ], "$"]
    return frozenset(words[1:-1]) | {f"{a} {b}" for a, b in pairwise(words)}


def reply_terms(sentences: Sequence[str]) -> dict[str, float]:
    """The words, pairs and triples of a reply in lower case, each with its weight.

    Those of the opening are terms of their own ("<i can't"): declining comes first, as a rule. The
    others weigh the less the more sentences there are, so a long answer is not drowned by its end.
    """
    found: dict[str, float] = {}
    beyond = (max(1, min(LAST, len(sentences)) - OPENING)) ** -0.5
    for sentence in sentences[OPENING:LAST]:
        found.update(dict.fromkeys(_runs(sentence), beyond))
    for sentence in sentences[:OPENING]:
        found.update(dict.fromkeys(["<" + term for term in _runs(sentence)], 1.0))
    return found


def _runs(sentence: str) -> list[str]:
    words = _TERM.findall(sentence)[:LONGEST]
    words = ["0" if w[0] < ":" else w for w in words]
    pairs = [f"{a} {b}" for a, b in pairwise(["^", *words, "$"])]
    triples = [f"{pair} {word}" for pair, word in zip(pairs, [*words[1:], "$"], strict=False)]
    return words + pairs + triples


@cache
def _weights(model: str) -> tuple[float, dict[str, float]]:
    data = json.loads(assets.path("judge", "words.json").read_text(encoding="utf-8"))[model]
    return float(data["bias"]), data["weights"]


def _score(model: str, text: str) -> float:
    bias, weights = _weights(model)
    return bias + sum([weights[term] for term in terms(text) if term in weights])


def intent(prompt: str) -> float:
    """How likely a prompt (in lower case) asks for something harmful, 0 to 1."""
    return 1.0 / (1.0 + math.exp(-max(-30.0, min(30.0, _score("intent", prompt)))))


def beside_refusal(sentence: str) -> float:
    """-1 for the words of an answer, 1 for those that stand beside a refusal."""
    return math.tanh(_score("beside", sentence) / 3)


def declining(sentences: Sequence[str]) -> float:
    """Log-odds that a reply, cut in sentences in lower case, declines."""
    bias, weights = _weights("reply")
    return bias + sum(
        value * weights[term] for term, value in reply_terms(sentences).items() if term in weights
    )
