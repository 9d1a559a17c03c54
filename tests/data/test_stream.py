"""Batches of a phase: every example once an epoch, the same loss however they are cut."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaForCausalLM

from conftest import build_tiny_model
from stentor.chat import Encoded, SegmentTemplate
from stentor.data.batch import Batch, Micro
from stentor.data.encode import EncodedExample, encode
from stentor.data.examples import Example, Tally, conversation
from stentor.data.softmax import choose, narrowed
from stentor.data.stream import Emphasis, ExampleStream, micro, micro_batches
from stentor.errors import DataError
from stentor.model.forward import hidden_states
from stentor.recipe import OpeningPart, SoftmaxPart
from stentor.train.loop import Objective, plain_token_loss, token_loss

SYSTEM = "Be brief and kind."


def numbered(count: int) -> list[EncodedExample]:
    """Examples of different lengths that are told apart by `where`."""
    found = []
    for n in range(count):
        ids = tuple(range(1, 5 + n % 7))
        mask = (0, 0) + (1,) * (len(ids) - 2)
        found.append(EncodedExample(Encoded(ids, mask), "s", Example((), "benign", str(n))))
    return found


def rows(batch: Batch) -> list[str]:
    return [row for part in batch.parts for row in part.rows]


def epoch(stream: ExampleStream, number: int) -> list[list[str]]:
    steps = range(number * stream.steps_per_epoch, (number + 1) * stream.steps_per_epoch)
    return [rows(stream.batch(step)) for step in steps]


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    count=st.integers(1, 40),
    batch=st.integers(1, 45),
    micro_batch=st.integers(1, 9),
    epochs=st.integers(1, 3),
    seed=st.integers(0, 2**32),
)
def test_every_example_comes_exactly_once_an_epoch(
    count: int, batch: int, micro_batch: int, epochs: int, seed: int
) -> None:
    stream = ExampleStream(
        numbered(count), batch=batch, micro_batch=micro_batch, epochs=epochs, seed=seed
    )
    assert stream.steps == stream.steps_per_epoch * epochs == -(-count // batch) * epochs
    for number in range(epochs):
        steps = epoch(stream, number)
        seen = [row for step in steps for row in step]
        assert sorted(seen, key=int) == [str(n) for n in range(count)]
        assert [len(step) for step in steps[:-1]] == [batch] * (len(steps) - 1)
        assert len(steps[-1]) == (count - 1) % batch + 1  # the rest, not dropped


def test_the_cards_main_phase_takes_273_steps() -> None:
    stream = ExampleStream(numbered(17_460), batch=192, micro_batch=48, epochs=3, seed=1)
    assert (stream.steps_per_epoch, stream.steps) == (91, 273)
    last = stream.batch(90)
    assert last.examples == 17_460 - 90 * 192 == 180
    assert [len(part.rows) for part in last.parts] == [48, 48, 48, 36]


def test_orders_differ_between_epochs_and_are_functions_of_the_seed() -> None:
    def order(seed: int, number: int) -> list[list[str]]:
        stream = ExampleStream(numbered(40), batch=8, micro_batch=8, epochs=2, seed=seed)
        return [sorted(step) for step in epoch(stream, number)]

    assert order(1, 0) == order(1, 0)
    assert order(1, 0) != order(1, 1)
    assert order(1, 0) != order(2, 0)


def test_a_step_is_the_same_however_often_and_in_which_order_it_is_asked_for() -> None:
    one = ExampleStream(numbered(30), batch=4, micro_batch=3, epochs=3, seed=5)
    other = ExampleStream(numbered(30), batch=4, micro_batch=3, epochs=3, seed=5)
    forward = [rows(one.batch(step)) for step in range(one.steps)]
    backward = [rows(other.batch(step)) for step in reversed(range(other.steps))]
    assert forward == backward[::-1]


@pytest.mark.parametrize("micro_batch", [1, 3, 8, 100])
def test_micro_batches_never_change_which_examples_make_a_step(micro_batch: int) -> None:
    whole = ExampleStream(numbered(30), batch=8, micro_batch=8, epochs=1, seed=5)
    cut = ExampleStream(numbered(30), batch=8, micro_batch=micro_batch, epochs=1, seed=5)
    for step in range(whole.steps):
        a, b = whole.batch(step), cut.batch(step)
        assert rows(a) == rows(b)
        assert (a.examples, a.supervised, a.tokens) == (b.examples, b.supervised, b.tokens)
        assert all(len(part.rows) <= micro_batch for part in b.parts)


def test_similar_lengths_stand_together_in_a_step() -> None:
    stream = ExampleStream(numbered(30), batch=12, micro_batch=4, epochs=1, seed=5)
    lengths = {e.example.where: e.length for e in numbered(30)}
    found = [lengths[row] for row in rows(stream.batch(0))]
    assert found == sorted(found) and len({*found}) > 1


def test_a_phase_without_examples_is_an_error() -> None:
    with pytest.raises(DataError, match=r"^a phase has no examples; see stentor data show$"):
        ExampleStream([], batch=8, micro_batch=8, epochs=1, seed=1)


# --- what stands in a stream


@pytest.fixture
def encoded(template: SegmentTemplate) -> list[EncodedExample]:
    replies = ["Yes.", "It is a bird that sings at night.", "No, not here.", "Two. Or three?"]
    given = [conversation(f"Question {n}?", r, "benign", f"f:{n}") for n, r in enumerate(replies)]
    return encode(given, "s", template, system=SYSTEM, max_tokens=384, tally=Tally())


def test_a_shared_prefix_stands_in_the_stream_once(encoded: list[EncodedExample]) -> None:
    size = encoded[0].encoded.system
    prefix = list(encoded[0].encoded.ids[:size])
    part = micro(encoded)
    assert part.ids[:size].tolist() == prefix
    assert part.ids.tolist().count(prefix[1]) == 1  # the piece that opens a system message
    assert len(part.ids) == sum(e.length for e in encoded) - (len(encoded) - 1) * size


def test_each_of_two_prefixes_stands_once(
    encoded: list[EncodedExample], template: SegmentTemplate
) -> None:
    other = encode(
        [conversation("Q?", f"R{n}.", "benign", "g:1") for n in range(2)],
        "t", template, system="Speak of birds only.", max_tokens=384, tally=Tally(),
    )  # fmt: skip
    mixed = [encoded[0], other[0], encoded[1], other[1]]
    opening = encoded[0].encoded.ids[1]
    assert micro(mixed).ids.tolist().count(opening) == 2


def test_places_and_targets_are_those_of_the_loss_mask(encoded: list[EncodedExample]) -> None:
    part = micro(encoded)
    due = [
        (e.encoded.ids[i - 1], e.encoded.ids[i])
        for e in encoded
        for i in range(1, e.length)
        if e.encoded.mask[i]
    ]
    found = zip(part.ids[part.places].tolist(), part.targets.tolist(), strict=True)
    assert list(found) == due
    assert part.supervised == sum(e.encoded.supervised for e in encoded)


@torch.no_grad()
@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("loss", [token_loss, plain_token_loss])
def test_the_loss_of_each_token_is_that_of_the_example_alone(
    encoded: list[EncodedExample], tiny_model: LlamaForCausalLM, loss: Objective, size: int
) -> None:
    """Against the stock forward, one example at a time: no example sees another."""
    expected = []
    for e in encoded:
        ids = torch.tensor([e.encoded.ids])
        logits = tiny_model(input_ids=ids).logits[0, :-1]
        each = torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none")
        expected.append(each[torch.tensor(e.encoded.mask[1:], dtype=torch.bool)])
    found = [loss(tiny_model, part)[1] for part in micro_batches(encoded, size)]
    torch.testing.assert_close(torch.cat(found), torch.cat(expected), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("tokens", [1, 30, 60, 10_000])
def test_a_micro_batch_holds_at_most_so_many_tokens(
    encoded: list[EncodedExample], tokens: int
) -> None:
    """A single example may be longer; the prefix that all share is not counted."""
    parts = list(micro_batches(encoded, 3, tokens))
    assert [row for part in parts for row in part.rows] == [e.example.where for e in encoded]
    shared = encoded[0].encoded.system
    for part, following in zip(parts, [*parts[1:], None], strict=True):
        own = len(part.ids) - shared
        assert own <= tokens or len(part.rows) == 1
        if following is not None:
            first = next(e for e in encoded if e.example.where == following.rows[0])
            assert len(part.rows) == 3 or own + first.length - shared > tokens


@pytest.mark.parametrize("lanes", [1, 2, 3])
@pytest.mark.parametrize(("count", "tokens"), [(8, 2048), (40, 2048), (40, 500), (3, None)])
def test_examples_are_shared_out_evenly_among_lanes(
    count: int, tokens: int | None, lanes: int
) -> None:
    ids = tuple(range(1, 101))
    examples = [
        EncodedExample(
            Encoded(ids[: 20 + 80 * n // count], (0, *(1,) * (19 + 80 * n // count))),
            "s", Example((), "benign", str(n)),
        )
        for n in range(count)
    ]  # fmt: skip
    parts = list(micro_batches(examples, 100, tokens, lanes))
    assert [row for part in parts for row in part.rows] == [str(n) for n in range(count)]
    sizes = [len(part.ids) for part in parts]
    assert tokens is None or max(sizes) <= tokens
    if lanes > 1:
        worth = sum(sizes) // 128
        assert len(parts) % lanes == 0 or len(parts) == max(1, worth)
        assert max(sizes) - min(sizes) <= 100  # one example


# --- moving to a device


def tensors(part: Micro) -> dict[str, Any]:
    found: dict[str, Any] = {
        name: getattr(part, name)
        for name in ("ids", "places", "targets", "vocabulary", "offset", "weights")
    }
    found |= {"positions": part.layout.positions, "inverse": part.layout.inverse}
    for n, group in enumerate(part.layout.groups):
        found[f"index {n}"] = group.index
    return {name: tensor for name, tensor in found.items() if tensor is not None}


def test_all_tensors_of_a_micro_batch_move_to_the_device(encoded: list[EncodedExample]) -> None:
    part = micro(encoded, Emphasis(OpeningPart(), unlikelihood=0.5))
    moved = part.to(torch.device("meta"))
    assert {t.device.type for t in tensors(moved).values()} == {"meta"}
    assert {n: t.shape for n, t in tensors(moved).items()} == {
        n: t.shape for n, t in tensors(part).items()
    }
    assert moved.rows == part.rows
    # plain numbers stay: to cut by a number that lies on a device waits for the device
    prefixes = [group.prefix for group in part.layout.groups]
    assert [group.prefix for group in moved.layout.groups] == prefixes
    assert any(isinstance(prefix, slice) for prefix in prefixes)
    assert part.to(torch.device("cpu")) is part


def test_a_sampled_softmax_ends_with_the_whole_vocabulary(encoded: list[EncodedExample]) -> None:
    part = SoftmaxPart(frequent=20, sampled=30, whole=0.25)
    narrow = ExampleStream(
        encoded, batch=4, micro_batch=2, epochs=8, seed=1, softmax=part, vocabulary=32_768
    )
    wide = ExampleStream(encoded, batch=4, micro_batch=2, epochs=8, seed=1)
    whole = [all(p.vocabulary is None for p in narrow.batch(s).parts) for s in range(narrow.steps)]
    assert whole == sorted(whole) and sum(whole) == round(narrow.steps / 4) > 0
    for a, b in zip(narrow.batch(0).parts, wide.batch(0).parts, strict=True):
        assert a.vocabulary is not None and len(a.vocabulary) < 200
        assert a.vocabulary[a.targets].tolist() == b.targets.tolist()
        assert a.ids.tolist() == b.ids.tolist()


def test_the_first_tokens_of_each_reply_of_a_conversation_count_more(
    template: SegmentTemplate,
) -> None:
    turns = [("Hello?", "Hello, friend of mine."), ("And?", "No.")]
    messages = [
        {"role": role, "content": text}
        for turn in turns
        for role, text in zip(("user", "assistant"), turn, strict=True)
    ]
    talk = Example(tuple(messages), "benign", "f:1")
    text = Example(({"role": "text", "content": "It was a day of rain."},), "text", "f:2")
    both = encode([talk, text], "s", template, system=None, max_tokens=384, tally=Tally())
    assert len(both) == 2
    part = micro(both, Emphasis(OpeningPart(tokens=2, weight=5.0)))
    assert part.weights is not None
    first = both[0].encoded.supervised
    heavy = [i for i, w in enumerate(part.weights[:first].tolist()) if w == 5.0]
    replies = "".join(template.text([t]) for t in part.targets[heavy].tolist())
    assert len(heavy) == 4 and replies.replace(" ", "") == "Hello,No."
    assert part.weights[first:].tolist() == [1.0] * both[1].encoded.supervised
    assert micro(both).weights is None


@pytest.mark.parametrize("loss", [token_loss, plain_token_loss])
def test_an_opening_counts_in_the_gradient_and_not_in_the_reported_loss(
    encoded: list[EncodedExample], tiny_model: LlamaForCausalLM, loss: Objective
) -> None:
    def gradient(value: torch.Tensor) -> torch.Tensor:
        (found,) = torch.autograd.grad(value, [tiny_model.model.norm.weight])
        return found

    part = micro(encoded, Emphasis(OpeningPart(tokens=3, weight=4.0)))
    assert part.weights is not None
    value, each = loss(tiny_model, part)
    torch.testing.assert_close(value, each.sum())
    alone = [
        gradient(loss(tiny_model, replace(part, weights=(part.weights == w).float()))[0])
        for w in (1.0, 4.0)
    ]
    torch.testing.assert_close(gradient(value), alone[0] + 4 * alone[1], rtol=1e-4, atol=1e-5)


def test_what_a_reply_has_said_is_made_unlikely_where_it_says_something_else(
    template: SegmentTemplate, tiny_model: LlamaForCausalLM
) -> None:
    turns = [("Sing.", "La la lo."), ("More?", "La.")]
    messages = [
        {"role": role, "content": text}
        for turn in turns
        for role, text in zip(("user", "assistant"), turn, strict=True)
    ]
    rows = [
        Example(tuple(messages), "benign", "f:1"),
        Example(({"role": "text", "content": "Rain and rain."},), "text", "f:2"),
    ]
    both = encode(rows, "s", template, system=None, max_tokens=384, tally=Tally())
    part = micro(both, Emphasis(unlikelihood=0.5))
    assert part.spoken is not None and part.unlikelihood == 0.5
    targets, said = part.targets.tolist(), part.spoken.tolist()
    before: list[int] = []
    for place, target in enumerate(targets[: both[0].encoded.supervised]):
        assert {i for i in said[place] if i >= 0} == {*before} - {target}
        before = [] if target == 2 else [*before, target]  # a reply ends with its stop token
    assert {i for row in said[both[0].encoded.supervised :] for i in row} == {-1}
    pieces = choose(SoftmaxPart(frequent=20, sampled=10), part.targets.numpy(), 32_768)
    assert pieces is not None
    (few,) = narrowed([part], pieces, [1, 2])
    assert few.spoken is not None and few.vocabulary is not None
    for mine, theirs in zip(few.spoken.tolist(), said, strict=True):
        assert [-1 if i < 0 else int(few.vocabulary[i]) for i in mine] == theirs
    value, each = token_loss(tiny_model, part)
    torch.testing.assert_close(value, each.sum())
    assert micro(both, Emphasis(OpeningPart())).spoken is None


def test_a_model_that_learns_with_unlikelihood_goes_in_circles_less(
    template: SegmentTemplate,
) -> None:
    rows = [conversation(f"Say {w}.", f"Well, {w} it is.", "benign", w) for w in ("up", "down")]
    encoded = encode(rows, "s", template, system=None, max_tokens=99, tally=Tally())

    def repeated(unlikelihood: float) -> float:
        """The probability of what was said already, after a few steps."""
        model = build_tiny_model()
        part = micro(encoded, Emphasis(unlikelihood=unlikelihood) if unlikelihood else None)
        said = micro(encoded, Emphasis(unlikelihood=1.0)).spoken
        assert said is not None
        optimiser = torch.optim.SGD(model.parameters(), lr=0.3)
        for _ in range(10):
            optimiser.zero_grad()
            (token_loss(model, part)[0] / part.supervised).backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        with torch.no_grad():
            states = hidden_states(model, part.ids, part.layout, part.places)
            p = (states @ model.lm_head.weight.T).softmax(-1).gather(1, said.clamp(min=0))
        return float(p[said >= 0].sum())

    assert repeated(2.0) < repeated(0.0)
