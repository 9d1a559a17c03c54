"""Prompts that nearly repeat one another: told by the words that they share."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable

from stentor.data.examples import normalise

NEAR = 0.7
"""A Jaccard similarity of the sets of words from which on two prompts are too near."""


class Prompts:
    """Prompts, found again by the words that they share with another."""

    def __init__(self, texts: Iterable[str]) -> None:
        self.sets = [frozenset(normalise(text).split()) for text in texts]
        self._holding: dict[str, list[int]] = defaultdict(list)
        for number, words in enumerate(self.sets):
            for word in words:
                self._holding[word].append(number)

    def near(self, text: str, share: float = NEAR) -> list[int]:
        """The numbers of all prompts that share so much with `text`, in order.

        They hold all but 1 - `share` of its words, so one of its rarest few at least.
        """
        words = frozenset(normalise(text).split())
        rarest = sorted(words, key=lambda word: len(self._holding.get(word, ())))
        few = rarest[: len(words) - math.ceil(share * len(words)) + 1]
        candidates = {number for word in few for number in self._holding.get(word, ())}
        return sorted(
            number
            for number in candidates
            if len(words & self.sets[number]) >= share * len(words | self.sets[number])
        )
