"""THE parity check: is a copy, run by its own software, the same model?

It compares with the reference: the ids of conversations, the distributions over the next token
on held-out text (KL divergence of the copy from the reference, perplexity), greedy replies, and
the judge's outcomes. What a copy must keep depends on how many bits it has, see `LIMITS`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from stentor.export.format import Runtime, Tier
from stentor.export.reference import Conversation, Reference, log_softmax
from stentor.generate.text import alike

BRIEF_PROMPTS = 25
_CONTEXT = 8  # tokens that are told before the worst one
TIE = 0.02
"""Logits of the reference so near each other that rounding may decide between them."""


@dataclass(frozen=True)
class Limits:
    """What a copy must keep; None is no limit."""

    kl: float | None
    perplexity_rise: float | None
    """In per cent of the reference's."""
    greedy: bool
    """Greedy replies are equal, or part first at a tie."""
    aim: float | None = None
    """Copies that are delivered with their figures as a warning: the rise (per cent) aimed at."""


LIMITS: dict[Tier, Limits] = {
    "exact": Limits(1e-5, 0.5, True),
    "8 bit": Limits(2e-3, 0.5, False),
    "4 bit": Limits(None, 25.0, False, aim=4.0),
}


@dataclass(frozen=True)
class Parting:
    """Where a greedy reply leaves the reference's."""

    prompt: int
    place: int
    """Tokens in common before it."""
    reference: int
    copy: int
    gap: float
    """How much likelier the reference's token is to it than the copy's, in logits."""

    @property
    def tie(self) -> bool:
        return self.gap <= TIE


@dataclass(frozen=True)
class Worst:
    """The scored token of held-out text at which the copy's distribution is farthest off."""

    text: int
    """Which text of `assets/parity/text.jsonl`, from 1."""
    token: int
    """Which of its tokens is predicted there, from 1."""
    after: str
    """The words before it."""


@dataclass(frozen=True)
class Parity:
    """What the comparison found."""

    runtime: str
    conversations: int
    different_ids: tuple[str, ...]
    """Conversations whose ids differ, of those that spell no control piece."""
    control: int
    """Conversations that spell control pieces …"""
    control_obeyed: tuple[str, ...]
    """… and those in which the runtime takes the spelling for a control token."""
    scored: int
    """Tokens of held-out text that `kl` and the perplexities rest on."""
    kl: float
    """As summed up: rounding may leave it a little below zero."""
    kl_worst: float
    kl_worst_at: Worst
    perplexity: float
    reference_perplexity: float
    rise: float
    """Of perplexity, in per cent …"""
    rise_interval: tuple[float, float]
    """… and its 95 % interval, the tokens paired."""
    top_equal: float
    """Share of scored tokens where both have the same likeliest token."""
    prompts: int
    greedy_equal: int
    partings: tuple[Parting, ...]
    probe: int
    probe_changed: tuple[str, ...]
    """`id: outcome → outcome` of the probe's prompts whose outcome changed."""

    @property
    def outright(self) -> tuple[Parting, ...]:
        """Partings that no tie explains."""
        return tuple(p for p in self.partings if not p.tie)

    def figures(self) -> dict[str, Any]:
        """For JSON, which has no NaN and no infinity: None where a copy's figure is none."""
        told: dict[str, Any] = _finite(asdict(self))
        return told | {"partings_outright": len(self.outright)}


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def compare(runtime: Runtime, reference: Reference, *, brief: bool = False) -> Parity:
    """Run everything through a copy; nothing is judged yet.

    `brief`, for a second runtime of the same file: the first prompts only, and no probe.
    """
    different, obeyed = _compare_ids(runtime, reference.conversations)
    text = _compare_text(runtime, reference)
    prompts = reference.prompts[: BRIEF_PROMPTS if brief else None]
    equal, partings = _compare_greedy(runtime, reference, prompts)
    changed, probed = ((), 0) if brief else _compare_probe(runtime, reference)
    control = sum(c.spells_control for c in reference.conversations)
    return Parity(
        runtime=runtime.name,
        conversations=len(reference.conversations) - control,
        different_ids=different,
        control=control,
        control_obeyed=obeyed,
        **text,
        prompts=len(prompts),
        greedy_equal=equal,
        partings=partings,
        probe=probed,
        probe_changed=changed,
    )


def _compare_ids(
    runtime: Runtime, conversations: Sequence[Conversation]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    apart = [c for c in conversations if tuple(runtime.ids(c.messages)) != c.ids]
    return (
        tuple(c.name for c in apart if not c.spells_control),
        tuple(c.name for c in apart if c.spells_control),
    )


def _compare_text(runtime: Runtime, reference: Reference) -> dict[str, Any]:
    """Distributions over the next token; sums over tokens, in double precision."""
    kls, ours, theirs, tops = [], [], [], []
    where: list[tuple[int, int]] = []  # text and token of each place, both from 0
    for number, passage in enumerate(reference.passages):
        inputs, places = passage.ids[:-1], list(passage.scored)
        targets = np.array(passage.ids)[np.array(places) + 1]
        p = reference.distribution(passage).astype(np.float64)
        q = log_softmax(runtime.logits(inputs)[places])
        kls.append((np.exp(p) * (p - q)).sum(axis=-1))
        rows = np.arange(len(places))
        ours.append(-p[rows, targets])
        theirs.append(-q[rows, targets])
        tops.append(p.argmax(axis=-1) == q.argmax(axis=-1))
        where += [(number, place + 1) for place in places]
    kl, ours_, theirs_, top = (np.concatenate(x) for x in (kls, ours, theirs, tops))
    change = theirs_ - ours_
    spread = 1.96 * float(change.std(ddof=1)) / math.sqrt(len(change))
    low, high = (100 * math.expm1(float(change.mean()) + s) for s in (-spread, spread))
    return {
        "scored": len(change),
        "kl": float(kl.mean()),
        "kl_worst": float(kl.max()),
        "kl_worst_at": _worst(reference, *where[int(kl.argmax())]),
        "perplexity": math.exp(float(theirs_.mean())),
        "reference_perplexity": math.exp(float(ours_.mean())),
        "rise": 100 * math.expm1(float(change.mean())),
        "rise_interval": (low, high),
        "top_equal": float(top.mean()),
    }


def _worst(reference: Reference, text: int, token: int) -> Worst:
    before = reference.passages[text].ids[:token][-_CONTEXT:]
    return Worst(text + 1, token + 1, reference.loaded.tokenizer.decode(list(before)))


def _compare_probe(runtime: Runtime, reference: Reference) -> tuple[tuple[str, ...], int]:
    """The outcomes that changed, and of how many."""
    replies = runtime.greedy(reference.probe_prompts, reference.probe_tokens)
    outcomes = reference.outcomes(replies)
    changed = tuple(
        f"{prompt.id}: {was} → {now}"
        for prompt, was, now in zip(
            reference.probe.prompts, reference.probe_outcomes, outcomes, strict=True
        )
        if was != now
    )
    return changed, len(outcomes)


def _compare_greedy(
    runtime: Runtime, reference: Reference, prompts: Sequence[Sequence[int]]
) -> tuple[int, tuple[Parting, ...]]:
    replies = runtime.greedy(prompts, reference.tokens)
    partings = tuple(
        _parting(reference, number, ours, theirs)
        for number, (ours, theirs) in enumerate(
            zip(reference.greedy[: len(prompts)], replies, strict=True)
        )
        if tuple(theirs) != ours
    )
    return len(replies) - len(partings), partings


def _parting(
    reference: Reference, number: int, ours: Sequence[int], theirs: Sequence[int]
) -> Parting:
    """Where the copy's reply (`theirs`) to a prompt leaves the reference's."""
    place = alike(ours, theirs)
    if place == len(ours) or place == len(theirs):  # one ended early without saying so
        return Parting(number, place, -1, -1, math.inf)
    last = reference.logits([*reference.prompts[number], *ours[:place]])[-1]
    gap = float(last[ours[place]] - last[theirs[place]])
    return Parting(number, place, ours[place], theirs[place], gap)


def failures(parity: Parity, tier: Tier, max_rise: float | None = None) -> list[str]:
    """Every limit that a copy breaks, and where.

    `max_rise` (per cent) takes the place of the limit on perplexity of 4 and 5 bits; the limits
    of more bits, which say that a copy is the same model, it can only tighten.
    """
    limits = LIMITS[tier]
    allowed = limits.perplexity_rise
    if max_rise is not None:
        kept = math.inf if allowed is None or limits.aim is not None else allowed
        allowed = min(kept, max_rise)
    found = []
    if parity.different_ids:
        found.append(
            f"{len(parity.different_ids)} of {parity.conversations} conversations get other "
            f"token ids ({', '.join(parity.different_ids[:4])})"
        )
    if not math.isfinite(parity.kl):
        found.append(f"some of its logits are not finite, the first {_told(parity.kl_worst_at)}")
    if limits.kl is not None and parity.kl > limits.kl:
        found.append(
            f"KL divergence {parity.kl:.2g} (at its worst {parity.kl_worst:.2g}, "
            f"{_told(parity.kl_worst_at)}) is above {limits.kl:.0e}"
        )
    if allowed is not None and parity.rise > allowed:
        found.append(f"perplexity rises by {parity.rise:.2f} %, more than {allowed:g} %")
    if limits.greedy and parity.outright:
        first = parity.outright[0]
        found.append(
            f"{len(parity.outright)} of {parity.prompts} greedy replies part where the "
            f"reference is sure (prompt {first.prompt}, token {first.place + 1}: "
            f"{first.gap:.3f} logits apart)"
        )
    return found


def _told(worst: Worst) -> str:
    return f"in text {worst.text} at token {worst.token}, after {worst.after!r}"


def warnings(parity: Parity, tier: Tier) -> list[str]:
    """What a person should know of a copy that is delivered."""
    aim = LIMITS[tier].aim
    found = []
    if aim is not None:
        missed = f", above the aim of +{aim:g} %" if parity.rise > aim else ""
        found.append(
            f"not quite the same model: KL {parity.kl:.1e}, perplexity {parity.rise:+.1f} %"
            f"{missed}, {parity.greedy_equal} of {parity.prompts} greedy replies equal, "
            f"{len(parity.probe_changed)} of {parity.probe} outcomes of the probe changed"
        )
    if parity.control_obeyed:
        found.append(
            f"text that spells control pieces becomes control tokens in "
            f"{len(parity.control_obeyed)} of {parity.control} conversations: encode the text "
            "of users apart, with special tokens off"
        )
    return found
