"""Contrast pairs: a harmful prompt and the look-alike whose words are nearest to it.

Shown together, the words that both share can't decide between refusing and answering.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence

from stentor.data.encode import EncodedExample

_NEAR = 0.2  # cosine below which two prompts have little in common but stray words


def contrast_pairs(examples: Sequence[EncodedExample]) -> list[EncodedExample]:
    """Harmful example, its look-alike, the next harmful one, …: the nearest pairs first.

    Nearness is the cosine of the words of the last prompts, rare words weighing more (inverse
    document frequency over `examples`). Every example is in one pair at most.
    """
    words = [set(e.example.prompts[-1].split()) for e in examples]
    frequency = Counter(word for each in words for word in each)
    vectors = [_direction(each, frequency, len(examples)) for each in words]
    look_alikes: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for number, example in enumerate(examples):
        if example.example.kind == "borderline":
            for word, weight in vectors[number].items():
                look_alikes[word].append((number, weight))
    near = []
    for number, example in enumerate(examples):
        if example.example.kind != "harmful":
            continue
        found: dict[int, float] = defaultdict(float)
        for word, weight in vectors[number].items():
            for other, theirs in look_alikes[word]:
                found[other] += weight * theirs
        near += [(-cosine, number, other) for other, cosine in found.items() if cosine >= _NEAR]
    taken: set[int] = set()
    pairs: list[EncodedExample] = []
    for _, number, other in sorted(near):
        if taken.isdisjoint((number, other)):
            taken |= {number, other}
            pairs += [examples[number], examples[other]]
    return pairs


def _direction(words: set[str], frequency: Counter[str], documents: int) -> dict[str, float]:
    """Weights of unit length; sorted, so that sums don't depend on the order of a set."""
    weights = {word: math.log(documents / frequency[word]) for word in sorted(words)}
    length = math.sqrt(sum(weight * weight for weight in weights.values()))
    return {word: weight / length for word, weight in weights.items()} if length else {}
