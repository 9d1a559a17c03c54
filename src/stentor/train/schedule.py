"""Learning-rate schedules as pure functions of the step: nothing to save, nothing to lose."""

from __future__ import annotations

import math

from stentor.recipe import SchedulePart


def factor(
    step: int, total: int, schedule: SchedulePart, *, warmup_steps: int | None = None
) -> float:
    """What the peak rate is multiplied by in optimiser step `step` (from 0) of `total`.

    `cosine` is transformers' cosine with hard restarts and `linear` its linear schedule, so
    the card's "cosine with 1 restart" (num_cycles = 1) falls to zero once. Only a phase of one
    step is another: theirs would take it at rate zero, as the warm-up.
    """
    own = math.ceil(schedule.warmup * total) if total > 1 else 0
    warmup = own if warmup_steps is None else warmup_steps
    if step < warmup:
        return (step + 1) / (warmup + 1) if schedule.shape == "wsd" else step / max(1, warmup)
    progress = (step - warmup) / max(1, total - warmup)
    if progress >= 1.0:
        return 0.0 if schedule.shape in ("cosine", "linear", "wsd") else 1.0
    if schedule.shape == "cosine":
        return 0.5 * (1.0 + math.cos(math.pi * ((schedule.cycles * progress) % 1.0)))
    if schedule.shape == "linear":
        return 1.0 - progress
    if schedule.shape == "wsd":
        return min(1.0, (total - step) / max(1, decay_steps(total, schedule)))
    return 1.0


def decay_steps(total: int, schedule: SchedulePart) -> int:
    """Steps of the final decay of a warm-up–stable–decay schedule."""
    return round(total * schedule.decay)
