"""Losses must be the plain cross entropies of `transformers`, weighted by tokens, whatever the
batch: a mean of batch means, or a window over two documents, is a wrong figure."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from conftest import Single, build_tiny_model
from stentor.chat import Encoded, SegmentTemplate, document_ids
from stentor.data.decisions import begun_with
from stentor.data.encode import EncodedExample, encode
from stentor.data.examples import Example, Tally
from stentor.data.stream import micro
from stentor.errors import DataError
from stentor.evaluate import loss as losses
from stentor.evaluate.loss import (
    Loss,
    read_texts,
    reply_losses,
    row_losses,
    sentence_scores,
    text_loss,
    total,
)
from stentor.train.device import Machine
from stentor.train.loop import token_loss

SYSTEM = "You answer in one short sentence, and you never make anything up at all."


@pytest.fixture(scope="module")
def model() -> Any:
    return build_tiny_model(heads=4, kv_heads=2)


def entropies(model: Any, inputs: Sequence[int], targets: Sequence[int]) -> torch.Tensor:
    """Of transformers: the cross entropy in nats of each target after its inputs."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([list(inputs)])).logits[0].double()
    return functional.cross_entropy(logits, torch.tensor(list(targets)), reduction="none")


# --- replies ----------------------------------------------------------------------------------


def turns(*texts: str) -> Example:
    roles = ("user", "assistant")
    messages = tuple({"role": roles[n % 2], "content": t} for n, t in enumerate(texts))
    return Example(messages, "benign", "here")


@pytest.fixture(scope="module")
def held_out(template: SegmentTemplate) -> dict[str, list[EncodedExample]]:
    """Two sources of very different size, with and without a shared system prompt."""
    short = [turns(f"Is {n} even?", "Yes." if n % 2 == 0 else "No.") for n in range(7)]
    long = [
        turns("Tell me a story.", "Once there was a whale who wanted to see the desert. " * 6),
        turns("Hi", "Ho", "And the owl 🦉?", "It sleeps by day, é."),
    ]
    return {
        name: encode(rows, name, template, system=system, max_tokens=512, tally=Tally())
        for name, rows, system in (("short", short, SYSTEM), ("long", long, None))
    }


def test_reply_losses_equal_those_of_transformers(
    model: Any, cpu: Machine, held_out: dict[str, list[EncodedExample]]
) -> None:
    found = reply_losses(model, held_out, cpu)
    assert list(found) == ["short", "long"]
    for name, examples in held_out.items():
        nats, tokens = 0.0, 0
        for example in examples:
            ids, mask = example.encoded.ids, example.encoded.mask
            each = entropies(model, ids[:-1], ids[1:])
            due = torch.tensor(mask[1:], dtype=torch.bool)
            nats += float(each[due].sum())
            tokens += int(due.sum())
        assert found[name].tokens == tokens == sum(e.encoded.supervised for e in examples)
        assert found[name].nats == pytest.approx(nats, rel=1e-5)
        assert found[name].mean == pytest.approx(nats / tokens, rel=1e-5)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_the_loss_of_a_row_does_not_depend_on_the_batch(
    model: Any, cpu: Machine, held_out: dict[str, list[EncodedExample]], size: int
) -> None:
    rows = [e for examples in held_out.values() for e in examples]
    whole = row_losses(model, rows, cpu, size=32)
    for row, loss, other in zip(rows, whole, row_losses(model, rows, cpu, size=size), strict=True):
        assert loss.nats == pytest.approx(other.nats, rel=1e-5)
        assert loss.tokens == other.tokens == row.encoded.supervised
        assert loss.text_bytes == other.text_bytes > 0
    sums = reply_losses(model, held_out, cpu)
    assert total(sums.values()).nats == pytest.approx(total(whole).nats, rel=1e-5)


def test_reply_losses_do_not_depend_on_the_order_of_sources(
    model: Any, cpu: Machine, held_out: dict[str, list[EncodedExample]]
) -> None:
    backwards = {name: held_out[name][::-1] for name in reversed(held_out)}
    found = reply_losses(model, backwards, cpu)
    for name, loss in reply_losses(model, held_out, cpu).items():
        assert found[name].nats == pytest.approx(loss.nats, rel=1e-5)


def test_a_reply_may_be_reached_by_each_unseen_piece(
    model: Any, cpu: Machine, template: SegmentTemplate, held_out: dict[str, list[EncodedExample]]
) -> None:
    """Against p(reply) = p(at once) + the sum of p(piece) p(reply | piece), token by token."""
    document = Example(({"role": "text", "content": "A bird sings."},), "text", "f:1")
    rows = [e for examples in held_out.values() for e in examples]
    rows += encode([document], "t", template, system=None, max_tokens=512, tally=Tally())
    pieces = template.decisions
    assert len(pieces) == 3
    plain = row_losses(model, rows, cpu)
    assert row_losses(model, rows, cpu, pieces) == plain  # it draws them once in 30,000 times
    model = copy.deepcopy(model)
    begun = [replace(e, encoded=begun_with(e.encoded, p)) for e in rows[:-1] for p in pieces]
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(8):
        token_loss(model, micro(begun))[0].backward()
        optimiser.step()
        optimiser.zero_grad()
    found, plain = row_losses(model, rows, cpu, pieces), row_losses(model, rows, cpu)
    for row, loss, before in zip(rows, found, plain, strict=True):
        ways = [row.encoded]
        if row.example.kind != "text":
            ways += [begun_with(row.encoded, piece) for piece in pieces]
        nats = []
        for way in ways:
            each = entropies(model, way.ids[:-1], way.ids[1:])
            nats.append(float(each[torch.tensor(way.mask[1:], dtype=torch.bool)].sum()))
        most = min(nats)  # exp of some hundred nats is no number
        summed = most - math.log(sum(math.exp(most - n) for n in nats))
        assert loss.nats == pytest.approx(summed, rel=1e-5)
        assert (loss.tokens, loss.text_bytes) == (before.tokens, before.text_bytes)
    assert found[-1].nats == plain[-1].nats
    assert all(f.nats < p.nats for f, p in zip(found[:-1], plain[:-1], strict=True))


def test_documents_among_conversations_lose_what_plain_text_does(
    model: Any, cpu: Machine, template: SegmentTemplate, tokenizer: Any
) -> None:
    texts = ["A bird sings. It is dawn.", "Two owls 🦉 sleep.\n\nOne wakes."]
    rows = [Example(({"role": "text", "content": t},), "text", "f:1") for t in texts]
    encoded = encode(rows, "t", template, system=SYSTEM, max_tokens=512, tally=Tally())
    found = reply_losses(model, {"text": encoded}, cpu)["text"]
    plain = text_loss(model, tokenizer, texts, cpu)
    assert found.nats == pytest.approx(plain.nats, rel=1e-5)
    assert (found.tokens, found.text_bytes) == (plain.tokens, plain.text_bytes)


def test_a_document_that_no_token_begins_is_scored_from_its_second_token_on(
    model: Any, cpu: Machine
) -> None:
    example = Example(({"role": "text", "content": "A bird."},), "text", "f:1")
    ids = (50, 60, 70, 2)
    rows = [EncodedExample(Encoded(ids, (1, 1, 1, 1)), "t", example)]
    found = reply_losses(model, {"t": rows}, cpu)["t"]
    assert found.tokens == 3
    assert found.nats == pytest.approx(float(entropies(model, ids[:-1], ids[1:]).sum()), rel=1e-5)


def test_losses_need_no_64_bit_numbers_of_the_device(
    model: Any, cpu: Machine, held_out: dict[str, list[EncodedExample]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    rows = [e for examples in held_out.values() for e in examples]
    wanted = row_losses(model, rows, cpu)
    plain = losses.token_loss

    def single(model: Any, part: Any) -> Any:
        total, each = plain(model, part)
        return total, each.as_subclass(Single)

    monkeypatch.setattr(losses, "token_loss", single)
    assert row_losses(model, rows, cpu) == wanted


def test_the_overall_loss_weighs_tokens_not_sources(
    model: Any, cpu: Machine, held_out: dict[str, list[EncodedExample]]
) -> None:
    found = reply_losses(model, held_out, cpu)
    short, long = found["short"], found["long"]
    overall = total(found.values())
    assert overall.tokens == short.tokens + long.tokens
    assert overall.mean == pytest.approx((short.nats + long.nats) / overall.tokens)
    assert abs(overall.mean - (short.mean + long.mean) / 2) > 0.01


def test_bytes_are_those_of_the_replies(
    model: Any, cpu: Machine, held_out: dict[str, list[EncodedExample]]
) -> None:
    found = reply_losses(model, held_out, cpu)
    assert found["short"].text_bytes == 4 * len("Yes.") + 3 * len("No.")
    story = len("Once there was a whale who wanted to see the desert. ") * 6
    assert found["long"].text_bytes == story + len("Ho") + len("It sleeps by day, é.") + 1


def test_a_reply_that_was_cut_counts_only_the_bytes_that_are_left(
    model: Any, cpu: Machine, template: SegmentTemplate
) -> None:
    """Else a long reply would look cheap: few tokens scored, all of its bytes counted."""
    sentence = "A whale swims in the sea."
    cut = turns("Tell me.", " ".join([sentence] * 20))
    tally = Tally()
    rows = encode([cut], "cut", template, system=None, max_tokens=40, tally=tally)
    assert tally.changed["reply cut at the end of a sentence"] == 1
    loss = reply_losses(model, {"cut": rows}, cpu)["cut"]
    left = template.text(rows[0].encoded.ids[rows[0].encoded.mask.index(1) :])
    assert left.endswith(sentence) and len(left) < 8 * len(sentence)
    assert loss.text_bytes == len(left)


def test_a_source_without_rows_has_no_loss(
    model: Any, cpu: Machine, held_out: dict[str, list[EncodedExample]]
) -> None:
    found = reply_losses(model, {"none": [], **held_out}, cpu)
    assert found["none"] == Loss(0.0, 0, 0)
    assert total(found.values()).tokens == found["short"].tokens + found["long"].tokens


# --- plain text -------------------------------------------------------------------------------


def by_hand(model: Any, documents: Sequence[Sequence[int]], window: int) -> tuple[float, int]:
    """(nats, tokens): every token but the first of each document, in windows of that document."""
    nats, tokens = 0.0, 0
    for ids in documents:
        for start in range(0, len(ids) - 1, window):
            targets = ids[start + 1 : start + 1 + window]
            nats += float(entropies(model, ids[start : start + len(targets)], targets).sum())
            tokens += len(targets)
    return nats, tokens


@pytest.mark.parametrize("window", [3, 8, 512])
def test_text_loss_scores_every_token_but_the_first_once(
    model: Any, cpu: Machine, tokenizer: Any, window: int
) -> None:
    texts = ["One two three.", "é", "A longer one, of several sentences. Here is the second."]
    documents = [document_ids(tokenizer, text) for text in texts]
    assert all(ids[0] == 1 and ids[-1] == 2 for ids in documents)
    loss = text_loss(model, tokenizer, texts, cpu, window=window)
    nats, tokens = by_hand(model, documents, window)
    assert loss.tokens == tokens == sum(len(ids) - 1 for ids in documents)
    assert loss.nats == pytest.approx(nats, rel=1e-5)
    assert loss.text_bytes == sum(len(text.encode()) for text in texts)


@pytest.mark.parametrize("length", [511, 512])
def test_long_documents_are_read_in_windows_of_512(
    model: Any, cpu: Machine, tokenizer: Any, length: int
) -> None:
    words = ["whale", "owl", "sea", "desert", "night"]
    text = " ".join(words[n * n % 5] for n in range(2 * length))
    ids = document_ids(tokenizer, text)[: length + 1]
    text = tokenizer.decode(ids[1:])
    ids = document_ids(tokenizer, text)
    assert len(ids) == length + 2
    loss = text_loss(model, tokenizer, [text], cpu)
    nats, tokens = by_hand(model, [ids], 512)
    assert loss.tokens == tokens == length + 1
    assert loss.nats == pytest.approx(nats, rel=1e-5)


def test_no_document_sees_another(
    model: Any, cpu: Machine, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stentor.evaluate.loss._TOKENS_AT_ONCE", 200)  # several passes
    texts = [f"Text number {n}: " + "the whale swims. " * (n * 5 % 8) for n in range(20)]
    alone = total(text_loss(model, tokenizer, [text], cpu) for text in texts)
    for order in (texts, texts[::-1]):
        loss = text_loss(model, tokenizer, order, cpu)
        assert (loss.tokens, loss.text_bytes) == (alone.tokens, alone.text_bytes)
        assert loss.nats == pytest.approx(alone.nats, rel=1e-5)


def test_text_that_spells_a_stop_token_stays_text(tokenizer: Any) -> None:
    ids = document_ids(tokenizer, "a </s><s>[INST] b")
    assert (ids[0], ids[-1], ids.count(1), ids.count(2), ids.count(3)) == (1, 2, 1, 1, 0)


def test_no_text_has_no_loss(model: Any, cpu: Machine, tokenizer: Any) -> None:
    assert text_loss(model, tokenizer, [], cpu) == Loss()


# --- sentences --------------------------------------------------------------------------------


def test_a_sentence_scores_the_log_probabilities_of_transformers(
    model: Any, cpu: Machine, tokenizer: Any
) -> None:
    sentences = ["The cat sleeps.", "Cats", "The cats that the dog sees sleep well today."] * 50
    scores = sentence_scores(model, tokenizer, sentences, cpu)
    assert len(scores) == 150  # more than one pass
    for sentence, score in zip(sentences[:3], scores[:3], strict=True):
        ids = document_ids(tokenizer, sentence)[:-1]  # how it ends is not scored
        assert score == pytest.approx(-float(entropies(model, ids[:-1], ids[1:]).sum()), rel=1e-5)
    assert scores == pytest.approx(scores[:3] * 50, rel=1e-5)


# --- figures ----------------------------------------------------------------------------------


def test_figures_by_hand() -> None:
    """Four tokens of ln 8 nats each, in six bytes: 12 bits in all, 2 bits a byte."""
    figures = Loss(nats=4 * math.log(8), tokens=4, text_bytes=6).figures()
    assert figures == pytest.approx(
        {"loss": math.log(8), "perplexity": 8.0, "bits_per_byte": 2.0, "tokens": 4}
    )


def test_losses_add_up() -> None:
    losses = [Loss(1.0, 2, 3), Loss(10.0, 20, 30), Loss()]
    assert total(losses) == Loss(11.0, 22, 33)
    assert total([]) == Loss()


def test_figures_of_nothing_are_null_and_not_a_number_that_json_lacks() -> None:
    figures = Loss().figures()
    assert json.loads(json.dumps(figures, allow_nan=False)) == {
        "loss": None,
        "perplexity": None,
        "bits_per_byte": None,
        "tokens": 0,
    }
    assert math.isnan(Loss().mean)


def test_a_hopeless_loss_still_has_a_finite_perplexity() -> None:
    json.dumps(Loss(1e6, 1, 1).figures(), allow_nan=False)


# --- files ------------------------------------------------------------------------------------


def test_texts_are_read_in_order(write_rows: Callable[..., Path]) -> None:
    assert read_texts(write_rows("a.jsonl", [{"text": "b"}, {"text": "a", "x": 1}])) == ["b", "a"]


@pytest.mark.parametrize("row", [{"text": ""}, {"text": None}, {"prompt": "Hi"}])
def test_a_row_without_text_is_named(write_rows: Callable[..., Path], row: Any) -> None:
    path = write_rows("a.jsonl", [{"text": "b"}, row])
    with pytest.raises(DataError) as caught:
        read_texts(path)
    assert str(caught.value) == f"{path}:2: there is no text in the row"


def test_a_file_without_rows_is_an_error(write_rows: Callable[..., Path]) -> None:
    path = write_rows("a.jsonl", [])
    with pytest.raises(DataError) as caught:
        read_texts(path)
    assert str(caught.value) == f"{path}: the file has no rows"
