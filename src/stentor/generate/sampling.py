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
    logits = logits.float()
    if decoding.repetition_penalty != 1.0:
        penalty = decoding.repetition_penalty
        punished = torch.where(logits > 0, logits / penalty, logits * penalty)
        logits = torch.where(seen, punished, logits)
    if decoding.temperature == 0:
        return logits.argmax(dim=-1)
    probabilities = torch.softmax(logits / decoding.temperature, dim=-1)
    ordered, order = _likeliest(probabilities, decoding.top_p)
    # a token stays while the probability before it is below top-p, so one always stays
    before = ordered.cumsum(dim=-1) - ordered
    ordered = ordered.masked_fill(before >= decoding.top_p, 0.0)
    drawn = [
        torch.multinomial(row, 1, generator=generator)
        for row, generator in zip(ordered, generators, strict=True)
    ]
    return order.gather(1, torch.stack(drawn)).squeeze(1)


def _likeliest(probabilities: Tensor, top_p: float) -> tuple[Tensor, Tensor]:
    """The likeliest tokens in order, enough of them to hold `top_p`: sorting all is slow."""
    for count in (64, 1024):
        if count < probabilities.shape[-1]:
            ordered, order = probabilities.topk(count, dim=-1)
            if bool((ordered.sum(dim=-1) > top_p).all()):
                return ordered, order
    return probabilities.sort(dim=-1, descending=True)
