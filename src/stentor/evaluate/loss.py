"""Losses, weighted by tokens: per source and overall, of replies and of plain text.

A loss is the mean over tokens, never the mean of batch means, so it does not depend on the size
of a batch. A model that begins its replies with a piece no reader sees (`decisions`) may reach one
reply by each of them: p(reply) = p(reply at once) + the sum of p(piece) p(reply | piece).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from stentor.chat import document_ids
from stentor.data.batch import Micro
from stentor.data.decisions import begun_with, due
from stentor.data.encode import EncodedExample
from stentor.data.files import read_rows
from stentor.data.stream import micro_batches
from stentor.errors import DataError
from stentor.model.layout import Span, lay_out
from stentor.train.device import Machine
from stentor.train.loop import token_loss

_TOKENS_AT_ONCE = 4096  # of a forward pass over plain text


@dataclass(frozen=True)
class Loss:
    """A sum of losses in nats over `tokens` scored tokens that spell `text_bytes` bytes."""

    nats: float = 0.0
    tokens: int = 0
    text_bytes: int = 0

    def __add__(self, other: Loss) -> Loss:
        return Loss(
            self.nats + other.nats, self.tokens + other.tokens, self.text_bytes + other.text_bytes
        )

    @property
    def mean(self) -> float:
        return self.nats / self.tokens if self.tokens else math.nan

    def figures(self) -> dict[str, float | int | None]:
        """As `stentor evaluate --json` prints it; None where nothing was scored."""
        bits = self.nats / math.log(2)
        return {
            "loss": self.mean if self.tokens else None,
            "perplexity": math.exp(min(self.mean, 700.0)) if self.tokens else None,
            "bits_per_byte": bits / self.text_bytes if self.text_bytes else None,
            "tokens": self.tokens,
        }


def total(losses: Iterable[Loss]) -> Loss:
    """The sum of several."""
    return sum(losses, Loss())


def reply_losses(
    model: Any,
    held_out: Mapping[str, Sequence[EncodedExample]],
    machine: Machine,
    decisions: Sequence[int] = (),
) -> dict[str, Loss]:
    """The loss on the replies of each source's examples; `decisions` as in `row_losses`."""
    examples = [e for rows in held_out.values() for e in rows]
    rows = iter(row_losses(model, examples, machine, decisions))
    return {name: total(next(rows) for _ in examples) for name, examples in held_out.items()}


@torch.no_grad()
def row_losses(
    model: Any,
    examples: Sequence[EncodedExample],
    machine: Machine,
    decisions: Sequence[int] = (),
    *,
    size: int = 64,
) -> list[Loss]:
    """The loss on the replies of each example, in their order.

    decisions: ids of unseen pieces that the last reply may begin with; the sum over them and over
    none is taken, unless the model draws them next to never. It takes as many passes more. Of plain
    documents, and where no reply is learned, the loss is as without.
    """
    nats = [_row_nats(model, examples, machine, size)]
    spoken = [i for i, e in enumerate(examples) if _is_reply(e)]
    if not _draws(model, [examples[i] for i in spoken], machine, decisions):
        decisions = ()
    for piece in decisions:
        begun = [
            replace(examples[i], encoded=begun_with(examples[i].encoded, piece)) for i in spoken
        ]
        found = torch.full_like(nats[0], math.inf)
        found[spoken] = _row_nats(model, begun, machine, size)
        nats.append(found)
    each = -torch.logsumexp(-torch.stack(nats), dim=0)
    return [
        Loss(float(n), e.encoded.supervised, _supervised_bytes(e))
        for n, e in zip(each, examples, strict=True)
    ]


def _draws(
    model: Any, examples: Sequence[EncodedExample], machine: Machine, decisions: Sequence[int]
) -> bool:
    """Whether any of some sixteen replies begins with any of the pieces in one of 1,000 cases."""
    asked = []
    for example in examples[:: max(1, len(examples) // 16)]:
        for piece in decisions:
            ids = begun_with(example.encoded, piece).ids
            place = max(i for i, found in enumerate(ids) if found == piece)
            mask = (0,) * place + (1,)
            encoded = replace(example.encoded, ids=ids[: place + 1], mask=mask)
            asked.append(replace(example, encoded=encoded))
    return bool(asked) and float(_row_nats(model, asked, machine, 64).min()) < math.log(1000)


def _is_reply(example: EncodedExample) -> bool:
    return due(example.example) is not None and any(example.encoded.mask[1:])


def _row_nats(
    model: Any, examples: Sequence[EncodedExample], machine: Machine, size: int
) -> torch.Tensor:
    """(examples,) the sum of losses over the learned tokens of each."""
    order = sorted(range(len(examples)), key=lambda i: examples[i].length)
    sizes = [examples[i].encoded.supervised for i in order]
    pieces = []
    for part in micro_batches([examples[i] for i in order], size, machine.micro_tokens):
        local = part.to(machine.device)
        with machine.autocast():
            _, each = token_loss(model, local)
        pieces.append(each.cpu().double())  # Apple's GPUs have no 64 bits
    nats = torch.zeros(len(examples), dtype=torch.float64)
    if pieces:
        nats[order] = torch.stack([row.sum() for row in torch.cat(pieces).split(sizes)])
    return nats


def _supervised_bytes(example: EncodedExample) -> int:
    scored = (m for m in example.example.messages if m["role"] in ("assistant", "text"))
    return sum(len(message["content"].encode("utf-8")) for message in scored)


@torch.no_grad()
def text_loss(
    model: Any, tokenizer: Any, texts: Iterable[str], machine: Machine, *, window: int = 512
) -> Loss:
    """The loss on plain documents, each `<s>` text `</s>`, in windows that never cross one."""
    loss = Loss()
    for part, text_bytes in _document_parts(tokenizer, texts, window):
        local = part.to(machine.device)
        with machine.autocast():
            nats, _ = token_loss(model, local)
        loss += Loss(float(nats), part.supervised, text_bytes)
    return loss


def _document_parts(
    tokenizer: Any, texts: Iterable[str], window: int
) -> Iterator[tuple[Micro, int]]:
    pieces: list[tuple[list[int], list[int]]] = []
    held = text_bytes = 0
    for text in texts:
        ids = document_ids(tokenizer, text)
        text_bytes += len(text.encode("utf-8"))
        for start in range(0, len(ids) - 1, window):
            inputs = ids[start : min(start + window, len(ids) - 1)]
            pieces.append((inputs, ids[start + 1 : start + 1 + len(inputs)]))
            held += len(inputs)
        if held >= _TOKENS_AT_ONCE:
            yield _predictions(pieces), text_bytes
            pieces, held, text_bytes = [], 0, 0
    if pieces:
        yield _predictions(pieces), text_bytes


def _predictions(pieces: Sequence[tuple[list[int], list[int]]]) -> Micro:
    """Sequences in which every token is scored."""
    spans, base = [], 0
    for inputs, _ in pieces:
        spans.append(Span(base, len(inputs)))
        base += len(inputs)
    return Micro(
        ids=torch.tensor([i for inputs, _ in pieces for i in inputs]),
        layout=lay_out(spans),
        places=torch.arange(base),
        targets=torch.tensor([t for _, targets in pieces for t in targets]),
    )


@torch.no_grad()
def sentence_scores(
    model: Any, tokenizer: Any, sentences: Sequence[str], machine: Machine
) -> list[float]:
    """The log probability, in nats, of each sentence after `<s>`, or what a foreign tokenizer has
    for it (its end is not scored)."""
    scores: list[float] = []
    for start in range(0, len(sentences), 128):
        pieces = []
        for sentence in sentences[start : start + 128]:
            ids = document_ids(tokenizer, sentence)
            ids = ids[:-1] if ids[-1] == tokenizer.eos_token_id else ids
            pieces.append((ids[:-1], ids[1:]))
        part = _predictions(pieces).to(machine.device)
        with machine.autocast():
            _, each = token_loss(model, part)
        lengths = [len(inputs) for inputs, _ in pieces]
        scores += [-float(piece.double().sum()) for piece in each.cpu().split(lengths)]
    return scores


def read_texts(path: Path) -> list[str]:
    """The documents of a file of `text` rows."""
    texts = []
    for row in read_rows(path):
        text = row.fields.get("text")
        if not isinstance(text, str) or not text:
            raise DataError(f"{row.where}: there is no text in the row")
        texts.append(text)
    if not texts:
        raise DataError(f"{path}: the file has no rows")
    return texts
