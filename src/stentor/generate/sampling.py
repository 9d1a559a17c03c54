"""From logits to the next token: repetition penalty, temperature, top-p, in that order.

The order and the rules are those of `transformers` (the penalty counts the prompt's tokens too).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from stentor.errors import InputError


@dataclass(frozen=True)
class Decoding:
    """How replies are drawn; the defaults are the public card's quick start."""

    temperature: float = 1.1
    """0 is greedy: the likeliest token each time."""
    top_p: float = 0.6
    repetition_penalty: float = 1.3
    max_new_tokens: int = 80
    seed: int = 0

    def __post_init__(self) -> None:
        problems = []
        if self.temperature < 0:
            problems.append("temperature must be 0 (greedy) or more")
        if not 0 < self.top_p <= 1:
            problems.append("top-p must be above 0 and at most 1")
        if self.repetition_penalty <= 0:
            problems.append("repetition penalty must be above 0 (1 is none)")
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
    """The decoding that a model's generation settings ask for."""
    known = ("temperature", "top_p", "repetition_penalty", "max_new_tokens")
    return Decoding().changed(**{name: generation.get(name) for name in known})


def choose(logits: Tensor, seen: Tensor, decoding: Decoding, generators: list[Any]) -> Tensor:
    """The next token (B,) for logits (B, V); `seen` (B, V) marks tokens that occurred."""
    if decoding.temperature == 0:
        return _penalised(logits, seen, decoding).argmax(dim=-1)
    kept, order = distribution(logits, seen, decoding)
    # One number for each row, so that what a row draws depends on nothing but its generator:
    # how many candidates there are depends on the other rows.
    numbers = [torch.rand(1, generator=g, device=kept.device) for g in generators]
    upto = kept.cumsum(dim=-1)
    place = torch.searchsorted(upto, torch.stack(numbers) * upto[:, -1:], right=True)
    last = (kept > 0).sum(dim=-1, keepdim=True) - 1  # rounding may lead beyond it
    return order.gather(1, torch.minimum(place, last)).squeeze(1)


def distribution(logits: Tensor, seen: Tensor, decoding: Decoding) -> tuple[Tensor, Tensor]:
    """Probabilities (B, K), the largest first, and the tokens (B, K) that have them.

    Tokens beyond the K have none; K is as small as it may be for all rows together.
    """
    logits = _penalised(logits, seen, decoding)
    probabilities = torch.softmax(logits / decoding.temperature, dim=-1)
    if decoding.top_p == 1:  # no token is too unlikely, whatever sums round to
        return probabilities.sort(dim=-1, descending=True)
    ordered, order = _likeliest(probabilities, decoding.top_p)
    # a token stays while the probability before it is below top-p, so one always stays
    before = ordered.cumsum(dim=-1) - ordered
    kept = ordered.masked_fill(before >= decoding.top_p, 0.0)
    return kept / kept.sum(dim=-1, keepdim=True), order


def _penalised(logits: Tensor, seen: Tensor, decoding: Decoding) -> Tensor:
    logits = logits.float()
    penalty = decoding.repetition_penalty
    if penalty == 1.0:
        return logits
    punished = torch.where(logits > 0, logits / penalty, logits * penalty)
    return torch.where(seen, punished, logits)


def _likeliest(probabilities: Tensor, top_p: float) -> tuple[Tensor, Tensor]:
    """The likeliest tokens in order, enough of them to hold `top_p`: sorting all is slow."""
    for count in (64, 1024):
        if count < probabilities.shape[-1]:
            ordered, order = probabilities.topk(count, dim=-1)
            if bool((ordered.sum(dim=-1) > top_p).all()):
                return ordered, order
    return probabilities.sort(dim=-1, descending=True)
