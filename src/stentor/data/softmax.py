"""Over which pieces a softmax is taken in training, where not over the whole vocabulary.

The head is most of a tiny model's work. Of the pieces that the text holds, the commonest and
those that are due always take part; a sample stands for all others (importance sampling of the
sum below the softmax, as in Bengio & Senécal 2008, with a uniform proposal).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from stentor.data.batch import Micro
from stentor.recipe import SoftmaxPart


@dataclass(frozen=True)
class Pieces:
    """The pieces that a softmax is taken over.

    `ids` ascending. `frequent` marks those that always take part; the others do when they are due
    or drawn, `sampled` at a time. None: all take part. A piece beyond `ids` does when it is due.
    """

    ids: np.ndarray[Any, np.dtype[np.int64]]
    frequent: np.ndarray[Any, np.dtype[np.bool_]] | None = None
    sampled: int = 0

    def draw(self, due: Any, generator: np.random.Generator) -> tuple[Any, Any]:
        """(ids, ascending; what to add to their logits) for one micro-batch in which `due` are due.

        Each drawn piece stands for several others, so its logit is raised by the logarithm of
        their number: the sum below every softmax is then right on average.
        """
        assert self.frequent is not None
        sure = self.frequent.copy()
        sure[np.isin(self.ids, due)] = True
        others = np.flatnonzero(~sure)
        count = min(self.sampled, len(others))
        drawn = generator.choice(others, count, replace=False)
        taken = sure
        taken[drawn] = True
        offset = np.zeros(len(self.ids), dtype=np.float32)
        if count:
            offset[drawn] = np.log(len(others) / count)
        return self.ids[taken], offset[taken]


def choose(part: SoftmaxPart, learned: Any, vocabulary: int, others: Any = ()) -> Pieces | None:
    """What a recipe wants the softmax to be taken over before its end; None for all pieces.

    learned: the ids of the text, as often as they occur in it; others: more that count as seen.
    """
    ids = np.arange(vocabulary)
    if part.seen_only:
        ids = np.union1d(learned, np.asarray(others, dtype=np.int64)).astype(np.int64)
    if part.frequent is None or part.frequent + part.sampled >= len(ids):
        return Pieces(ids) if part.seen_only else None
    counts = np.bincount(learned, minlength=vocabulary)[ids]
    frequent = np.zeros(len(ids), dtype=bool)
    frequent[np.argsort(-counts, kind="stable")[: part.frequent]] = True
    return Pieces(ids, frequent, part.sampled)


def whole_from(part: SoftmaxPart, steps: int) -> int:
    """The step of `steps` from which on all pieces take part."""
    return steps - round(steps * part.whole)


def narrowed(
    parts: Sequence[Micro], pieces: Pieces, seed: Sequence[int] | None = None
) -> list[Micro]:
    """Micro-batches with their softmax over `pieces`, or a part of these drawn with `seed`."""
    return [
        _narrowed(part, pieces, None if seed is None else [*seed, number])
        for number, part in enumerate(parts)
    ]


def _narrowed(part: Micro, pieces: Pieces, seed: Sequence[int] | None) -> Micro:
    due = part.targets.numpy()
    vocabulary, offset = pieces.ids, None
    if seed is not None and pieces.frequent is not None:
        vocabulary, offset = pieces.draw(due, np.random.default_rng(seed))
    extra = np.setdiff1d(due, vocabulary)  # control pieces, in dialogues alone
    if len(extra):
        at = np.searchsorted(vocabulary, extra)
        vocabulary = np.insert(vocabulary, at, extra)
        offset = None if offset is None else np.insert(offset, at, 0.0)
    spoken = part.spoken  # all of it is due somewhere in the same micro-batch
    if spoken is not None:
        said = spoken.numpy()
        spoken = torch.from_numpy(np.where(said < 0, -1, np.searchsorted(vocabulary, said)))
    return replace(
        part,
        spoken=spoken,
        targets=torch.from_numpy(np.searchsorted(vocabulary, due)),
        vocabulary=torch.from_numpy(vocabulary),
        offset=None if offset is None else torch.from_numpy(offset),
    )
