"""From logits to the next token: repetition penalty, temperature, top-p, in that order.

The order and the rules are those of `transformers` (the penalty counts the prompt's tokens too).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from stentor.errors import InputError, ModelError
from stentor.generate.backend import Floats, Ints

COOLEST = 1e-3
"""The lowest temperature that is not greedy: far below it, numbers in 32 bits overflow."""
PENALTIES = 0.01, 100.0
"""The least and the largest repetition penalty, for the same reason."""


@dataclass(frozen=True)
class Decoding:
    """How replies are drawn; the defaults are the public card's quick start."""

    temperature: float = 1.1
    """0 is greedy: the likeliest token each time."""
    top_p: float = 0.6
    repetition_penalty: float = 1.3
    """1 is none."""
    max_new_tokens: int = 80
    seed: int = 0

    def __post_init__(self) -> None:
        problems = []
        if self.temperature != 0 and not COOLEST <= self.temperature < math.inf:
            problems.append(f"temperature must be 0 (greedy), or at least {COOLEST:g}")
        if not 0 < self.top_p <= 1:
            problems.append("top-p must be above 0 and at most 1")
        least, most = PENALTIES
        if not least <= self.repetition_penalty <= most:
            problems.append(f"repetition penalty must be from {least:g} to {most:g} (1 is none)")
        if self.max_new_tokens < 1:
            problems.append("max new tokens must be at least 1")
        if problems:
            raise InputError("; ".join(problems))

    @classmethod
    def greedy(cls, max_new_tokens: int = 80) -> Decoding:
        """The likeliest token each time, nothing penalised."""
        return cls(0.0, 1.0, 1.0, max_new_tokens)

    def changed(self, **settings: Any) -> Decoding:
        """A copy with the settings that are not None."""
        return replace(self, **{k: v for k, v in settings.items() if v is not None})


def from_generation(generation: dict[str, Any]) -> Decoding:
    """The decoding that a model's generation settings ask for; ModelError when there is none."""
    known = ("temperature", "top_p", "repetition_penalty", "max_new_tokens")
    try:
        return Decoding().changed(**{name: generation.get(name) for name in known})
    except InputError as error:
        raise ModelError(f"the model's generation_config.json: {error}; change it there") from None


def choose(logits: Floats, seen: Ints, decoding: Decoding, draw: Callable[[], float]) -> int:
    """The next token for logits (V,); `seen` (N,) are the tokens that occurred, repeats or not.

    `draw` gives a number from 0 up to 1. It is asked once for each token that is not greedy.
    """
    if decoding.temperature == 0:
        return int(_penalised(logits, seen, decoding).argmax())
    kept, tokens = distribution(logits, seen, decoding)
    upto = kept.cumsum(dtype=np.float64)
    place = int(upto.searchsorted(draw() * upto[-1], side="right"))
    return int(tokens[min(place, len(tokens) - 1)])  # rounding may lead beyond the last


def distribution(logits: Floats, seen: Ints, decoding: Decoding) -> tuple[Floats, Ints]:
    """The tokens (K,) that may be drawn, and their probabilities (K,), which sum to 1."""
    logits = _penalised(logits, seen, decoding)
    shares = np.exp((logits - logits.max()) / np.float32(decoding.temperature))  # 1 the largest
    whole = shares.sum(dtype=np.float64)
    if decoding.top_p == 1:
        return (shares / whole).astype(np.float32), np.arange(len(shares))
    tokens = _likeliest(shares, decoding.top_p * whole)
    ordered = shares[tokens].astype(np.float64) / whole
    # a token stays while the probability before it is below top-p, so one always stays
    count = int((ordered.cumsum() - ordered < decoding.top_p).sum())
    # in the order of their numbers: in that of their chances, rounding would swap neighbours,
    # and what is drawn would depend on which backend computed the logits
    order = np.argsort(tokens[:count])
    kept = ordered[order]
    return (kept / kept.sum()).astype(np.float32), tokens[order]


def _penalised(logits: Floats, seen: Ints, decoding: Decoding) -> Floats:
    penalty = np.float32(decoding.repetition_penalty)
    if penalty == 1:
        return logits
    logits, found = logits.copy(), logits[seen]
    logits[seen] = np.where(found > 0, found / penalty, found * penalty)
    return logits


def _likeliest(shares: Floats, enough: float) -> Ints:
    """The likeliest tokens, in order, more than `enough` together; sorting all is slow."""
    for least in (2.0**-7, 2.0**-14):
        tokens = np.flatnonzero(shares >= least)
        if shares[tokens].sum(dtype=np.float64) > enough:
            break
    else:
        tokens = np.arange(len(shares))
    found: Ints = tokens[np.argsort(-shares[tokens], kind="stable")]
    return found
