"""What every copy is compared with: the model in torch at fp32, on fixed conversations and text.

The conversations try what tokenizers get wrong; the text and the prompts stand in no training
file of this project. All of it is bundled, so two exports of a model give the same figures.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from stentor import assets
from stentor.chat import Message, document_ids, spells_control
from stentor.data.encode import with_system
from stentor.evaluate import suites
from stentor.evaluate.judge import judge
from stentor.export.format import Floats
from stentor.generate import Decoding, Engine
from stentor.model.load import LoadedModel

PROMPTS = 100
GREEDY_TOKENS = 24
PROBE = "probe-35"
PROBE_TOKENS = 48


@dataclass(frozen=True)
class Passage:
    """Held-out text: `ids`, and the places whose next token is scored."""

    ids: tuple[int, ...]
    scored: tuple[int, ...]


@dataclass(frozen=True)
class Conversation:
    """Messages, the ids that our template gives, and whether they spell a control piece."""

    name: str
    messages: tuple[Message, ...]
    ids: tuple[int, ...]
    spells_control: bool


class Reference:
    """The model, and what it answers; the answers are computed once."""

    def __init__(
        self, loaded: LoadedModel, *, prompts: int = PROMPTS, tokens: int = GREEDY_TOKENS,
        probe_tokens: int = PROBE_TOKENS,
    ) -> None:  # fmt: skip
        self.loaded = loaded
        self.tokens, self.probe_tokens = tokens, probe_tokens
        self._engine = Engine(loaded, batch=64)
        self._prompts = prompts
        self._distributions: dict[Passage, Floats] = {}
        self.conversations = tuple(self._read_conversations())
        self.passages = tuple(self._read_passages())

    @torch.no_grad()
    def logits(self, ids: Sequence[int]) -> Floats:
        """Logits (T, vocabulary) after each of `ids` (T)."""
        found: Any = self.loaded.model(input_ids=torch.tensor([list(ids)])).logits[0]
        return found.float().numpy()  # type: ignore[no-any-return]

    def distribution(self, passage: Passage) -> Floats:
        """Log probabilities (scored places, vocabulary), kept: every copy is compared with them."""
        if passage not in self._distributions:
            every = self.logits(passage.ids[:-1])[list(passage.scored)]
            self._distributions[passage] = log_softmax(every).astype(np.float32)
        return self._distributions[passage]

    @cached_property
    def _texts(self) -> list[str]:
        """Prompts of the suite `probe-500`, spread evenly over it."""
        every = [p.text for p in suites.load("probe-500").prompts]
        step = max(1, len(every) // self._prompts)
        return every[::step][: self._prompts]

    @cached_property
    def prompts(self) -> tuple[tuple[int, ...], ...]:
        """What greedy decoding is compared on, as ids."""
        return tuple(tuple(self._ids(text)) for text in self._texts)

    @cached_property
    def greedy(self) -> tuple[tuple[int, ...], ...]:
        """The likeliest tokens after each of `prompts`."""
        return tuple(r.ids for r in self._replies(self._texts, self.tokens))

    @cached_property
    def probe(self) -> suites.Suite:
        return suites.load(PROBE)

    @cached_property
    def probe_prompts(self) -> tuple[tuple[int, ...], ...]:
        return tuple(tuple(self._ids(p.text)) for p in self.probe.prompts)

    @cached_property
    def probe_outcomes(self) -> tuple[str, ...]:
        """What the judge says of the model's own replies to the probe."""
        replies = self._replies([p.text for p in self.probe.prompts], self.probe_tokens)
        return self.outcomes([r.ids for r in replies])

    def outcomes(self, replies: Sequence[Sequence[int]]) -> tuple[str, ...]:
        """The judge's outcome of each reply (ids) to the prompts of the probe."""
        system = self._engine.system or None
        texts = [self.loaded.template.text(list(ids)) for ids in replies]
        return tuple(
            judge(prompt.text, text, system=system).outcome
            for prompt, text in zip(self.probe.prompts, texts, strict=True)
        )

    def _ids(self, text: str) -> list[int]:
        return self._engine.prompt_ids([{"role": "user", "content": text}])

    def _replies(self, texts: Sequence[str], tokens: int) -> Any:
        conversations = [[{"role": "user", "content": text}] for text in texts]
        return self._engine.replies(conversations, Decoding.greedy(tokens))

    def _read_conversations(self) -> Iterator[Conversation]:
        for row in _rows("conversations"):
            messages = row["messages"]
            ids = self.loaded.template.encode(messages).ids
            if len(ids) <= self.loaded.window:
                spells = spells_control(self.loaded.tokenizer, messages)
                yield Conversation(row["id"], tuple(messages), ids, spells)

    def _read_passages(self) -> Iterator[Passage]:
        window = self.loaded.window
        for row in _rows("text"):
            if "text" in row:
                ids = tuple(document_ids(self.loaded.tokenizer, row["text"])[: window + 1])
                scored = tuple(range(len(ids) - 1))
            else:
                messages = with_system(row["messages"], self._engine.system)
                encoded = self.loaded.template.encode(messages)
                ids = encoded.ids[: window + 1]
                scored = tuple(i for i in range(len(ids) - 1) if encoded.mask[i + 1])
            yield Passage(ids, scored)


def _rows(name: str) -> list[dict[str, Any]]:
    text = assets.path("parity", f"{name}.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def log_softmax(logits: Floats) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Log probabilities (T, V) of logits (T, V), in double precision."""
    wide = logits.astype(np.float64)
    wide -= wide.max(axis=-1, keepdims=True)
    wide -= np.log(np.exp(wide).sum(axis=-1, keepdims=True))
    return wide
