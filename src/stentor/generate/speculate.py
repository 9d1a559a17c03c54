"""Speculative decoding: a small model drafts, a larger one checks several tokens at a time.

The decoding itself is that of `transformers` (assisted generation, universal where the two models
have different vocabularies). Here it is set up right, counted and timed: greedy text is that of
the target alone, so what a draft can change is the speed, for better or worse.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from stentor.data.encode import with_system
from stentor.errors import InputError
from stentor.generate.text import alike
from stentor.model.load import LoadedModel
from stentor.model.quiet import quiet


@dataclass(frozen=True)
class Speculation:
    """What a draft did for a target on one prompt, greedily."""

    text: str
    identical: bool
    """The same tokens as the target alone."""
    first_difference: tuple[int, float] | None
    """Where they part, and how far apart the target's two best logits are there (a tie: near 0)."""
    tokens: int
    target_calls: int
    drafted: int
    accepted: int
    seconds: float
    seconds_alone: float

    @property
    def acceptance(self) -> float | None:
        """Share of drafted tokens that the target took."""
        return self.accepted / self.drafted if self.drafted else None

    @property
    def speed_up(self) -> float:
        """How many times as fast as the target alone, in the same implementation."""
        return self.seconds_alone / self.seconds

    def figures(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "response": self.text,
            "identical": self.identical,
            "first_difference": self.first_difference,
            "tokens": self.tokens,
            "target_calls": self.target_calls,
            "drafted": self.drafted,
            "accepted": self.accepted,
            "acceptance": self.acceptance,
            "tokens_per_second": self.tokens / self.seconds,
            "tokens_per_second_alone": self.tokens / self.seconds_alone,
            "speed_up": self.speed_up,
        }


def assistance(target: LoadedModel, draft: LoadedModel) -> dict[str, Any]:
    """What to add to `target.model.generate(...)`, so that `draft` drafts for it.

        target.model.generate(**inputs, **assistance(target, draft))

    Models with one vocabulary need the draft alone, others both tokenizers as well. transformers
    tells the two cases apart by the models' numbers of words, so a draft with as many words as the
    target, but not the same ones, is refused (InputError), and so is one that can't be compared.
    """
    sizes = [m.model.config.get_text_config().vocab_size for m in (target, draft)]
    if target.tokenizer is None or draft.tokenizer is None:
        raise InputError(
            f"the target has {sizes[0]:,} words and the draft {sizes[1]:,}: to draft with another "
            "vocabulary, or to know that it is the same, needs both tokenizers; load both models "
            "with theirs"
        )
    if sizes[0] != sizes[1]:  # also one vocabulary whose embedding is padded in one of them
        return {
            "assistant_model": draft.model,
            "tokenizer": target.tokenizer,
            "assistant_tokenizer": draft.tokenizer,
        }
    if not same_vocabulary(target, draft):
        raise InputError(
            f"target and draft both have {sizes[0]:,} words, but not the same ones, and "
            "transformers takes models with equally many for models with one vocabulary; take a "
            "draft with the target's tokenizer, or one with another number of words"
        )
    return {"assistant_model": draft.model}


def same_vocabulary(a: LoadedModel, b: LoadedModel) -> bool:
    """Whether a token of one is the same token of the other."""
    return bool(a.tokenizer.get_vocab() == b.tokenizer.get_vocab())


def speculate(
    target: LoadedModel,
    draft: LoadedModel,
    prompt: str,
    *,
    max_new_tokens: int = 80,
    draft_tokens: int = 5,
    rounds: int = 3,
    system: str | None = None,
) -> Speculation:
    """Reply to a prompt greedily with and without the draft, taking turns; times are medians.

    `system` None takes the target's own system prompt, "" none.
    """
    system = target.generation.get("system") if system is None else system
    ids = target.template.prompt(with_system([{"role": "user", "content": prompt}], system))
    help_ = assistance(target, draft)
    counted = {"target": target} | ({} if "tokenizer" in help_ else {"draft": draft})
    for name, model in counted.items():
        if len(ids) + max_new_tokens > model.window:
            raise InputError(
                f"the prompt has {len(ids)} tokens; with {max_new_tokens} new ones that is more "
                f"than the {name}'s window of {model.window}"
            )
    draft.model.generation_config.num_assistant_tokens = draft_tokens
    draft.model.generation_config.num_assistant_tokens_schedule = "constant"
    draft.model.generation_config.assistant_confidence_threshold = 0.0
    inputs = torch.tensor([ids], device=target.model.device)
    common = {
        "input_ids": inputs, "attention_mask": torch.ones_like(inputs), "do_sample": False,
        "max_new_tokens": max_new_tokens, "eos_token_id": sorted(target.template.stop_ids),
        "pad_token_id": target.tokenizer.pad_token_id or 0, "repetition_penalty": 1.0,
    }  # fmt: skip

    @torch.inference_mode()
    def run(extra: dict[str, Any]) -> tuple[list[int], float]:
        started = time.perf_counter()
        with quiet():
            out = target.model.generate(**common, **extra)
        return out[0, len(ids) :].tolist(), time.perf_counter() - started

    alone: list[int] = []
    took_alone, took = [], []
    for _ in range(rounds):
        alone, seconds = run({})
        took_alone.append(seconds)
        found, seconds = run(help_)
        took.append(seconds)
    with _counted(target.model) as lengths:
        run(help_)
    calls = len(lengths)
    drafted = sum(lengths) - len(ids) - (calls - 1)  # each call also reads one token that stands
    return Speculation(
        text=target.template.text(found),
        identical=found == alone,
        first_difference=None if found == alone else _parting(target, ids, alone, found),
        tokens=len(found),
        target_calls=calls,
        drafted=drafted,
        accepted=len(found) - calls,
        seconds=statistics.median(took),
        seconds_alone=statistics.median(took_alone),
    )


@contextmanager
def _counted(model: Any) -> Iterator[list[int]]:
    """The number of tokens that each call of a model reads."""
    lengths: list[int] = []

    def hook(module: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        ids = named["input_ids"] if "input_ids" in named else arguments[0]
        lengths.append(ids.shape[1])

    handle = model.register_forward_pre_hook(hook, with_kwargs=True)
    try:
        yield lengths
    finally:
        handle.remove()


@torch.inference_mode()
def _parting(
    target: LoadedModel, ids: list[int], alone: list[int], found: list[int]
) -> tuple[int, float]:
    same = alike(alone, found)
    read = torch.tensor([ids + alone[:same]], device=target.model.device)
    logits = target.model(input_ids=read).logits[0, -1]
    best = logits.float().topk(2).values
    return same, float(best[0] - best[1])


def report(found: Speculation, show: Callable[[str], None] = print) -> None:
    """For a terminal: the reply, and what the draft did."""
    show(found.text or "[no output]")
    accepted = "–" if found.acceptance is None else f"{100 * found.acceptance:.1f} %"
    with_, without = found.tokens / found.seconds, found.tokens / found.seconds_alone
    verdict = "it pays" if found.speed_up > 1 else "it does not pay"
    show("")
    show(f"drafted tokens accepted  {accepted} of {found.drafted}")
    show(f"calls of the target      {found.target_calls} for {found.tokens} tokens")
    show(f"tokens/s                 {with_:.1f} with the draft, {without:.1f} without")
    show(f"speed-up                 {found.speed_up:.2f}: {verdict} here")
    if found.first_difference is not None:
        place, gap = found.first_difference
        show(
            f"the text parts from the target's own at token {place}, where its two best are "
            f"{gap:.3f} apart"
        )
