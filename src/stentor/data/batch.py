"""What one optimiser step sees."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from stentor.model.layout import Layout


@dataclass(frozen=True)
class Micro:
    """One forward pass: a stream of N tokens, M of them supervised.

    ids (N,); places (M,): where in the stream a prediction is scored; targets (M,): what is due
    there; rows: names of the examples, for errors.
    """

    ids: Tensor
    layout: Layout
    places: Tensor
    targets: Tensor
    vocabulary: Tensor | None = None
    """(K,) the pieces over which the softmax is taken (targets then count in it); None: all."""
    offset: Tensor | None = None
    """(K,) what is added to the logits of these pieces: one that was drawn stands for several."""
    weights: Tensor | None = None
    """(M,) how much each prediction counts in what is learned; None: all alike."""
    spoken: Tensor | None = None
    """(M, C) what each reply has said before a place and does not say there, the latest last; −1
    where that is less than C. Counted as in `vocabulary`."""
    unlikelihood: float = 0.0
    """How much making these unlikely counts in what is learned."""
    guesses: int = 0
    """How many predictions, the last ones, are learned from and reported nowhere: no reply's."""
    rows: tuple[str, ...] = ()
    lengths: tuple[int, ...] = ()
    """Supervised tokens of each sequence, where there are pairs."""
    pairs: tuple[tuple[int, int], ...] = ()
    """(chosen, rejected): numbers of sequences with a better and a worse reply to one prompt."""

    @property
    def supervised(self) -> int:
        """How many tokens are to be learned: all scored but guesses and rejected replies'."""
        rejected = sum(self.lengths[rejected] for _, rejected in self.pairs)
        return len(self.targets) - self.guesses - rejected

    def to(self, device: torch.device) -> Micro:
        """The same on another device."""
        if device.type == "cpu":
            return self

        def move(x: Tensor | None) -> Tensor | None:
            return None if x is None else x.to(device, non_blocking=True)

        return replace(
            self,
            ids=self.ids.to(device),
            layout=self.layout.to(device),
            places=self.places.to(device),
            targets=self.targets.to(device),
            vocabulary=move(self.vocabulary),
            offset=move(self.offset),
            weights=move(self.weights),
            spoken=move(self.spoken),
        )


@dataclass(frozen=True)
class Batch:
    """The micro-batches of one optimiser step; their losses are weighted by tokens."""

    parts: tuple[Micro, ...]
    examples: int

    @property
    def supervised(self) -> int:
        return sum(part.supervised for part in self.parts)

    @property
    def tokens(self) -> int:
        return sum(len(part.ids) for part in self.parts)
