"""Which tokens of a stream see each other.

A *stream* is the tokens of all sequences one after the other, shape (N,), without padding. A
`Layout` says how it falls into sequences, and which of them see a common prefix first.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import torch
from torch import Tensor

_BUCKET = 32  # sequences are attended together when they round up to the same multiple


@dataclass(frozen=True)
class Group:
    """Sequences that are attended together.

    `index` (B, L): place in the stream of each token; right padding repeats a real place.
    `prefix`: the slice of the stream that every sequence of the group sees first, or None.
    """

    index: Tensor
    prefix: slice | None


@dataclass(frozen=True)
class Run:
    """`rows` sequences of `length` tokens each that stand one after the other from `start`."""

    start: int
    rows: int
    length: int


@dataclass(frozen=True)
class Reach:
    """All tokens of the slice `tokens` of a stream see those of `prefix` (besides their own)."""

    tokens: slice
    prefix: slice


@dataclass(frozen=True)
class Layout:
    """How a stream of N tokens falls into sequences, in two ways.

    `positions` (N,): the position of each token in its sequence, prefix counted.

    `runs` cover the stream, `reaches` add the prefixes: nothing need be gathered or padded.

    `groups` suit devices that want few and large calls: sequences of like length, padded.
    `inverse` (N,): where each token stands among the flattened outputs of all groups.
    """

    positions: Tensor
    runs: tuple[Run, ...]
    reaches: tuple[Reach, ...]
    groups: tuple[Group, ...]
    inverse: Tensor
    dense: tuple[int, int] | None
    """(B, L) when the stream is B sequences of L tokens in order: there are no groups then."""

    @property
    def longest(self) -> int:
        """How many tokens the longest sequence has, its prefix not counted."""
        return max((run.length for run in self.runs), default=0)

    def lengthened(self, total: int) -> Layout:
        """The layout of a stream of `total` tokens, whose last ones are a sequence of filling.

        For attention on slices alone: the groups know nothing of it.
        """
        filling = total - len(self.positions)
        if not filling:
            return self
        run = Run(len(self.positions), 1, filling)
        positions = torch.cat([self.positions, torch.arange(filling)])
        return replace(self, positions=positions, runs=(*self.runs, run))

    def to(self, device: torch.device) -> Layout:
        """The same on another device."""
        groups = tuple(Group(g.index.to(device), g.prefix) for g in self.groups)
        return replace(
            self,
            positions=self.positions.to(device),
            groups=groups,
            inverse=self.inverse.to(device),
        )


@dataclass(frozen=True)
class Span:
    """`length` tokens of the stream from `start`; they also see the sequence number `prefix`."""

    start: int
    length: int
    prefix: int | None = None


def lay_out(sequences: Sequence[Span]) -> Layout:
    """The layout of a stream whose `sequences` follow each other without gaps."""
    runs, reaches = _runs(sequences), _reaches(sequences)
    total = sum(s.length for s in sequences)
    positions = torch.empty(total, dtype=torch.long)
    buckets: dict[tuple[int, int | None], list[Span]] = {}
    for s in sequences:
        offset = 0 if s.prefix is None else sequences[s.prefix].length
        positions[s.start : s.start + s.length] = torch.arange(offset, offset + s.length)
        rounded = -(-s.length // _BUCKET) * _BUCKET
        buckets.setdefault((rounded, s.prefix), []).append(s)
    lengths = {s.length for s in sequences}
    if len(lengths) == 1 and all(s.prefix is None for s in sequences):
        shape = (len(sequences), lengths.pop())
        return Layout(positions, runs, reaches, (), torch.empty(0, dtype=torch.long), shape)
    inverse = torch.empty(total, dtype=torch.long)
    groups = []
    base = 0
    for (_, prefix), members in buckets.items():
        width = max(s.length for s in members)
        steps = torch.arange(width)
        starts = torch.tensor([s.start for s in members])
        sizes = torch.tensor([s.length for s in members])
        index = starts[:, None] + torch.minimum(steps[None], sizes[:, None] - 1)
        real = steps[None] < sizes[:, None]
        places = base + torch.arange(len(members) * width).view(len(members), width)
        inverse[index[real]] = places[real]
        base += len(members) * width
        seen = None
        if prefix is not None:
            owner = sequences[prefix]
            seen = slice(owner.start, owner.start + owner.length)
        groups.append(Group(index, seen))
    return Layout(positions, runs, reaches, tuple(groups), inverse, None)


def _runs(sequences: Sequence[Span]) -> tuple[Run, ...]:
    """Neighbours of one length together."""
    found = []
    for length, members in groupby(sequences, key=lambda s: s.length):
        spans = list(members)
        found.append(Run(spans[0].start, len(spans), length))
    return tuple(found)


def _reaches(sequences: Sequence[Span]) -> tuple[Reach, ...]:
    """Neighbours that see one prefix together."""
    found = []
    for prefix, members in groupby(sequences, key=lambda s: s.prefix):
        if prefix is not None:
            spans = list(members)
            end = spans[-1].start + spans[-1].length
            seen = sequences[prefix]
            reach = Reach(slice(spans[0].start, end), slice(seen.start, seen.start + seen.length))
            found.append(reach)
    return tuple(found)


def padded_rows(ids: Tensor, layout: Layout) -> Iterator[tuple[int, Tensor]]:
    """(length of the prefix in front, ids (B, prefix + L)) of each group of a stream."""
    if layout.dense is not None:
        yield 0, ids.view(*layout.dense)
    for group in layout.groups:
        if group.prefix is None:
            yield 0, ids[group.index]
        else:
            before = ids[group.prefix].expand(len(group.index), -1)
            yield before.shape[1], torch.cat([before, ids[group.index]], dim=1)
