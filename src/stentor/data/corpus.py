"""Documents as windows of tokens for pretraining.

Documents follow each other in a seeded order and are cut into windows; tokens see only their
own document. Which windows make up a step is a pure function of the step's number, so a run
resumes at the exact token with nothing saved.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stentor.chat import SegmentTemplate
from stentor.data.batch import Batch, Micro
from stentor.data.documents import Documents, stream_hub, tokenise
from stentor.data.files import expand
from stentor.data.softmax import Pieces, narrowed
from stentor.errors import DataError, nearest
from stentor.model.layout import Span, lay_out
from stentor.recipe import CorpusPart, PretrainRecipe, data_root


def gather(recipe: PretrainRecipe, tokenizer: Any) -> list[tuple[Documents, CorpusPart]]:
    """All documents that a recipe names, shard by shard."""
    root = data_root(recipe.data.root)
    found: list[tuple[Documents, CorpusPart]] = []
    for name, part in recipe.data.corpora.items():
        if part.hub:
            documents = [stream_hub(name, part, tokenizer)]
        elif part.path:
            shards = expand(root / Path(part.path).expanduser())
            with ThreadPoolExecutor(1) as pool:
                documents = list(pool.map(lambda s: tokenise(s, tokenizer), shards))
        else:
            raise DataError(f"corpus {name}: give either path or hub")
        _check_epochs(name, part, documents)
        found += [(docs, part) for docs in documents]
    return found


def _check_epochs(name: str, part: CorpusPart, documents: Iterable[Documents]) -> None:
    """DataError where `epochs` names a source that no document is of."""
    there = {source for docs in documents for source in docs.sources}
    for source in part.epochs:
        if source not in there:
            raise DataError(
                f"corpus {name}: epochs: no document has the source {source!r}"
                + nearest(source, there - {""})
            )


@dataclass(frozen=True)
class Windows:
    """Windows of `size` tokens over a fixed order of documents.

    `stream` holds all tokens; a window w predicts stream[w·size + 1 …] from stream[w·size …].
    `ends` are the places after which a document ends.
    """

    stream: np.ndarray[Any, np.dtype[np.uint16]]
    ends: np.ndarray[Any, np.dtype[np.int64]]
    size: int

    def __len__(self) -> int:
        return (len(self.stream) - 1) // self.size

    def spans(self, window: int) -> list[tuple[int, int]]:
        """(start, length) in the stream of the pieces of documents in a window."""
        start, stop = window * self.size, (window + 1) * self.size
        low, high = np.searchsorted(self.ends, [start, stop], side="right")
        cuts = [start, *(int(e) for e in self.ends[low:high] if e < stop), stop]
        return [(a, b - a) for a, b in pairwise(cuts) if b > a]


def pack(documents: Sequence[tuple[Documents, CorpusPart]], size: int, seed: int) -> Windows:
    """Documents in a seeded order, each as often as its part says, end to end."""
    generator = np.random.default_rng([seed, 1])
    chosen: list[tuple[int, int]] = []
    for shard, (docs, part) in enumerate(documents):
        times = [part.epochs.get(source, 1.0) * part.weight for source in docs.sources]
        whole = np.floor(times).astype(int)
        extra = generator.random(len(docs)) < (np.array(times) - whole)
        counts = whole + extra
        chosen += [(shard, n) for n in range(len(docs)) for _ in range(counts[n])]
    order = generator.permutation(len(chosen))
    pieces = [documents[chosen[i][0]][0].document(chosen[i][1]) for i in order]
    if not pieces:
        raise DataError("the mix of corpora leaves no document")
    return Windows(np.concatenate(pieces), np.cumsum([len(p) for p in pieces]), size)


def windows_of(docs: Documents, size: int) -> Windows:
    """Windows over documents in their own order (for evaluation)."""
    return _at_least_one(Windows(docs.tokens, docs.ends, size), "the validation text")


def _at_least_one(windows: Windows, what: str) -> Windows:
    if not len(windows):
        raise DataError(
            f"{what} has {len(windows.stream)} tokens, too few for a window of {windows.size}; "
            "give more, or leave it out"
        )
    return windows


def dialogue_windows(
    conversations: Iterable[Sequence[dict[str, str]]],
    template: SegmentTemplate,
    size: int,
    seed: int,
) -> Windows:
    """Conversations in the chat template, end to end; those longer than a window are left out."""
    encoded = [np.array(template.encode(m).ids, dtype=np.uint16) for m in conversations]
    encoded = [e for e in encoded if len(e) <= size]
    if not encoded:
        raise DataError("no conversation fits a window; the decay needs dialogues or a share of 0")
    order = np.random.default_rng([seed, 2]).permutation(len(encoded))
    pieces = [encoded[i] for i in order]
    packed = Windows(np.concatenate(pieces), np.cumsum([len(p) for p in pieces]), size)
    return _at_least_one(packed, "the set of dialogues")


class PretrainStream:
    """The batch of each step: windows of the corpus, and of dialogues in the decay."""

    def __init__(
        self,
        windows: Windows,
        *,
        batch: int,
        micro: int,
        seed: int,
        decay_from: int,
        dialogues: Windows | None = None,
        dialogue_share: float = 0.0,
        pieces: Pieces | None = None,
        whole_from: int | None = None,
    ) -> None:
        """`batch` and `micro` count windows; from step `decay_from` on dialogues are mixed in.

        `pieces`: before step `whole_from` (None: `decay_from`) the softmax is over these only.
        """
        if len(windows) < batch:
            raise DataError(
                f"the corpus has {len(windows)} windows, fewer than one step's {batch}; "
                "give more text or smaller batch_tokens"
            )
        self._windows, self._dialogues = windows, dialogues
        self._batch, self._micro, self._seed = batch, micro, seed
        self._decay_from, self._pieces = decay_from, pieces
        self._whole_from = decay_from if whole_from is None else whole_from
        # in millionths, so that every run and machine counts alike
        self._share = round(dialogue_share * 1_000_000) if dialogues is not None else 0
        self._orders: dict[int, Any] = {}

    def _window(self, slot: int) -> int:
        """The window at a place in the endless sequence of seeded passes."""
        epoch, place = divmod(slot, len(self._windows))
        if epoch not in self._orders:
            generator = np.random.default_rng([self._seed, 3, epoch])
            self._orders = {epoch: generator.permutation(len(self._windows))}
        return int(self._orders[epoch][place])

    def batch(self, step: int) -> Batch:
        """The tokens of optimiser step `step`."""
        chosen: list[tuple[Windows, int]] = []
        for slot in range(step * self._batch, (step + 1) * self._batch):
            since = slot - self._decay_from * self._batch
            before, through = (-(-n * self._share // 1_000_000) for n in (since, since + 1))
            if since >= 0 and through > before:  # `before` dialogues were due until here
                assert self._dialogues is not None
                chosen.append((self._dialogues, before % len(self._dialogues)))
            else:
                chosen.append((self._windows, self._window(slot)))
        pieces = self._pieces if step < self._whole_from else None
        parts = [
            window_micro(chosen[start : start + self._micro])
            for start in range(0, len(chosen), self._micro)
        ]
        if pieces is not None:
            parts = narrowed(parts, pieces, [self._seed, 4, step])
        return Batch(tuple(parts), examples=len(chosen))


def window_micro(chosen: Sequence[tuple[Windows, int]]) -> Micro:
    """Windows as one stream of tokens in which every token predicts the next of its document."""
    ids: list[Any] = []
    targets: list[Any] = []
    places: list[Any] = []
    spans: list[Span] = []
    base = 0
    for windows, number in chosen:
        for start, length in windows.spans(number):
            # A document's last token predicts nothing; any other predicts the one after it,
            # also across the end of the window, so no token of a document goes unpredicted.
            closes = start + length in windows.ends[_near(windows.ends, start + length)]
            count = length - 1 if closes else length
            spans.append(Span(base, length))
            ids.append(windows.stream[start : start + length])
            targets.append(windows.stream[start + 1 : start + 1 + count])
            places.append(np.arange(base, base + count))
            base += length
    return Micro(
        ids=torch.from_numpy(np.concatenate(ids).astype(np.int64)),
        layout=lay_out(spans),
        places=torch.from_numpy(np.concatenate(places)),
        targets=torch.from_numpy(np.concatenate(targets).astype(np.int64)),
    )


def _near(ends: Any, place: int) -> slice:
    at = int(np.searchsorted(ends, place))
    return slice(at, at + 1)
