"""The batches of a fine-tuning phase, and of an evaluation."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from stentor.chat import Encoded
from stentor.data.batch import Batch, Micro
from stentor.data.decisions import due
from stentor.data.encode import EncodedExample
from stentor.data.softmax import choose, narrowed, whole_from
from stentor.errors import DataError
from stentor.model.layout import Span, lay_out
from stentor.recipe import OpeningPart, SoftmaxPart

_WORTH_A_LANE = 128  # tokens; fewer are done faster by all cores together


_REMEMBERED = 32
"""How many pieces of a reply are made unlikely at a later place of it, the latest."""


@dataclass(frozen=True)
class Emphasis:
    """What of right replies counts more, and what less, in what is learned.

    Reported losses are plain.
    """

    opening: OpeningPart | None = None
    pieces: Mapping[int, float] = field(default_factory=dict)
    """The ids of decisions, and how often each counts."""
    unlikelihood: float = 0.0
    """How much it counts that what a reply has said already is unlikely elsewhere in it."""
    gain: float = 0.0
    """How much guessing the decision counts along the prompt, as a share of what it counts."""

    def guesses(self, encoded: Encoded, learned: Sequence[int]) -> list[tuple[int, int, float]]:
        """(place, piece, weight): at each token of the last prompt, the decision it leads to.

        Their weights grow linearly towards the prompt's end ("linear gain", Dai & Le, 2015) and
        add up to the gain times that of the decision itself.
        """
        at = next((i for i in reversed(learned) if encoded.ids[i] in self.pieces), None)
        if not self.gain or at is None:
            return []
        before = max((i for i in learned if i < at - 1), default=encoded.system - 1)
        places = range(before + 1, at - 1)  # at its own last token it is drawn
        piece, most = encoded.ids[at], len(places) * (len(places) + 1) / 2
        unit = self.gain * self.pieces[piece] / max(most, 1)
        return [(i, piece, unit * (n + 1)) for n, i in enumerate(places)]

    def weights(self, encoded: Encoded, learned: Sequence[int]) -> list[float]:
        """How much each place of `learned` counts; each reply is a run of places."""
        found: list[float] = []
        run = 0
        for place, begins in _runs(learned):
            run = 1 if begins else run + 1
            if (weight := self.pieces.get(encoded.ids[place])) is not None:
                found.append(weight)
                run = 0  # the words begin after it
            elif self.opening is not None and run <= self.opening.tokens:
                found.append(self.opening.weight)
            else:
                found.append(1.0)
        return found

    @staticmethod
    def spoken(encoded: Encoded, learned: Sequence[int]) -> list[list[int]]:
        """For each place of `learned` the pieces that its reply holds before it, but its own."""
        found: list[list[int]] = []
        said: dict[int, None] = {}  # in the order in which they were said last
        for place, begins in _runs(learned):
            if begins:
                said = {}
            piece = encoded.ids[place]
            said.pop(piece, None)
            found.append([*said][-_REMEMBERED:])
            said[piece] = None
        return found


def _runs(learned: Sequence[int]) -> Iterator[tuple[int, bool]]:
    """Each supervised place, and whether a reply begins there."""
    for before, place in zip([-1, *learned], learned, strict=False):
        yield place, place != before + 1


class ExampleStream:
    """Epochs over examples, each in its own seeded order; the last batch may be smaller."""

    def __init__(
        self,
        examples: Sequence[EncodedExample],
        *,
        batch: int,
        micro_batch: int,
        epochs: int,
        seed: int,
        micro_tokens: int | None = None,
        lanes: int = 1,
        emphasis: Emphasis | None = None,
        softmax: SoftmaxPart | None = None,
        vocabulary: int = 0,
    ) -> None:
        """A step sees `batch` examples; at most `micro_batch` of them, and `micro_tokens` tokens
        (a prefix that they share counted once), are one of its parts. `lanes`: how many parts go
        through the model at a time, in all processes together. `emphasis`: see
        `micro`. `softmax`: over which of the `vocabulary` pieces it is taken; None: all."""
        if not examples:
            raise DataError("a phase has no examples; see stentor data show")
        self._examples = examples
        self._batch, self._micro, self._seed = batch, micro_batch, seed
        self._tokens, self._lanes = micro_tokens, lanes
        self._emphasis = emphasis
        self.steps_per_epoch = math.ceil(len(examples) / batch)
        self.steps = self.steps_per_epoch * epochs
        self._pieces, self._whole_from = None, 0
        if softmax is not None:
            learned = np.concatenate([_learned(e) for e in examples])
            self._pieces = choose(softmax, learned, vocabulary)
            self._whole_from = whole_from(softmax, self.steps)

    def batch(self, step: int) -> Batch:
        """The examples of optimiser step `step`, similar lengths together."""
        epoch, place = divmod(step, self.steps_per_epoch)
        order = np.random.default_rng([self._seed, epoch]).permutation(len(self._examples))
        picked = [self._examples[i] for i in order[place * self._batch : (place + 1) * self._batch]]
        picked.sort(key=lambda e: e.length)
        parts = list(micro_batches(picked, self._micro, self._tokens, self._lanes, self._emphasis))
        if self._pieces is not None and step < self._whole_from:
            parts = narrowed(parts, self._pieces, [self._seed, 4, step])
        return Batch(tuple(parts), len(picked))


def micro_batches(
    examples: Sequence[EncodedExample],
    size: int,
    tokens: int | None = None,
    lanes: int = 1,
    emphasis: Emphasis | None = None,
) -> Iterator[Micro]:
    """Examples in their order, at most `size` of them and about `tokens` tokens at a time.

    With several `lanes` they are shared out evenly among a multiple of these, where that leaves
    enough for each.
    """
    weights = [_own(e) for e in examples]
    total, parts = sum(weights), 1
    if lanes > 1:
        needed = max(math.ceil(total / (tokens or total)), math.ceil(len(examples) / size))
        parts = min(lanes * math.ceil(needed / lanes), max(1, total // _WORTH_A_LANE))
    chosen: list[EncodedExample] = []
    held, before, due = 0, 0, 1
    for example, own in zip(examples, weights, strict=True):
        full = len(chosen) == size or (tokens is not None and held + own > tokens)
        if chosen and (full or (before + own / 2) * parts > due * total):
            yield micro(chosen, emphasis)
            chosen, held = [], 0
            due = max(due, int((before + own / 2) * parts / total)) + 1
        chosen.append(example)
        held, before = held + own, before + own
    if chosen:
        yield micro(chosen, emphasis)


def _learned(example: EncodedExample) -> Any:
    """The ids of its supervised tokens, those of its rejected reply with them."""
    both = [e for e in (example.encoded, example.rejected) if e is not None]
    return np.concatenate([np.array(e.ids)[np.array(e.mask, dtype=bool)] for e in both])


def _own(example: EncodedExample) -> int:
    """The tokens of an example, its rejected reply with it, without the prefix that all share."""
    own = example.length - example.encoded.system
    if example.rejected is not None:
        own += len(example.rejected.ids) - example.rejected.system
    return own


def micro(examples: Sequence[EncodedExample], emphasis: Emphasis | None = None) -> Micro:
    """One stream of the examples' tokens; a prefix that several share stands in it once."""
    spans: list[Span] = []
    ids: list[int] = []
    places: list[int] = []
    targets: list[int] = []
    prefixes: dict[tuple[int, ...], int] = {}
    weights: list[float] = []
    spoken: list[list[int]] = []
    lengths: list[int] = []
    pairs: list[tuple[int, int]] = []
    guessed: list[tuple[int, int, float]] = []

    def add(encoded: Encoded, *, plain: bool) -> None:
        """`plain`: all its tokens count alike."""
        shared = encoded.system
        prefix = None
        if shared:
            key = encoded.ids[:shared]
            if key not in prefixes:
                prefixes[key] = len(spans)
                spans.append(Span(len(ids), shared))
                ids.extend(key)
            prefix = prefixes[key]
        base = len(ids) - shared
        spans.append(Span(len(ids), len(encoded.ids) - shared, prefix))
        ids.extend(encoded.ids[shared:])
        # the token at i is predicted at i - 1; what is supervised never follows a prefix directly
        learned = [i for i in range(1, len(encoded.ids)) if encoded.mask[i]]
        places.extend(base + i - 1 for i in learned)
        targets.extend(encoded.ids[i] for i in learned)
        lengths.append(len(learned))
        if emphasis is not None:
            weights.extend([1.0] * len(learned) if plain else emphasis.weights(encoded, learned))
            silent = plain or not emphasis.unlikelihood
            spoken.extend([[]] * len(learned) if silent else emphasis.spoken(encoded, learned))
            found = [] if plain else emphasis.guesses(encoded, learned)
            guessed.extend((base + i, piece, weight) for i, piece, weight in found)

    for example in examples:
        add(example.encoded, plain=due(example.example) is None)
        if example.rejected is not None:
            add(example.rejected, plain=True)
            pairs.append((len(lengths) - 2, len(lengths) - 1))
    places.extend(place for place, _, _ in guessed)
    targets.extend(piece for _, piece, _ in guessed)
    weights.extend(weight for _, _, weight in guessed)
    spoken.extend([[]] * len(guessed) if spoken else [])
    widest = max(map(len, spoken), default=0)
    said = [s + [-1] * (widest - len(s)) for s in spoken]
    unlikelihood = emphasis.unlikelihood if emphasis is not None and widest else 0.0
    return Micro(
        ids=torch.tensor(ids),
        layout=lay_out(spans),
        places=torch.tensor(places),
        targets=torch.tensor(targets),
        weights=torch.tensor(weights) if emphasis is not None else None,
        spoken=torch.tensor(said) if unlikelihood else None,
        unlikelihood=unlikelihood,
        guesses=len(guessed),
        rows=tuple(e.example.where for e in examples),
        lengths=tuple(lengths) if pairs else (),
        pairs=tuple(pairs),
    )
