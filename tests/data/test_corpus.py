"""Documents as windows: every token is predicted once, documents keep apart, steps are pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaForCausalLM

from stentor.chat import SegmentTemplate
from stentor.data import corpus
from stentor.data.batch import Batch, Micro
from stentor.data.corpus import Documents, PretrainStream, Windows, window_micro
from stentor.data.softmax import Pieces, choose, narrowed
from stentor.errors import DataError
from stentor.recipe import CorpusPart, PretrainRecipe, SoftmaxPart
from stentor.train.loop import token_loss

BOS, EOS = 1, 2

WriteRows = Callable[..., Path]


def documents(*lengths: int, source: str = "", first: int = 100) -> Documents:
    """Documents `<s>` n … `</s>` of the given lengths, in which no piece occurs twice."""
    pieces = []
    for length in lengths:
        body = range(first, first + length - 2)
        pieces.append(np.array([BOS, *body, EOS], dtype=np.uint16))
        first += length
    return Documents(
        np.concatenate(pieces), np.cumsum([len(p) for p in pieces]), (source,) * len(pieces)
    )


def windows(*lengths: int, size: int) -> Windows:
    docs = documents(*lengths)
    return Windows(docs.tokens, docs.ends, size)


def spans_of(part: Micro) -> list[list[int]]:
    """The sequences of a stream, each as its tokens, found again by their positions."""
    found: list[list[int]] = []
    for piece, position in zip(part.ids.tolist(), part.layout.positions.tolist(), strict=True):
        if position == 0:
            found.append([])
        assert position == len(found[-1])
        found[-1].append(piece)
    return found


lengths = st.lists(st.integers(2, 30), min_size=1, max_size=8)


# --- windows


@settings(max_examples=80, deadline=None, derandomize=True)
@given(lengths=lengths, size=st.integers(2, 17))
def test_every_token_of_every_document_is_predicted_exactly_once_except_its_start(
    lengths: list[int], size: int
) -> None:
    docs = documents(*lengths)
    all_of_it = Windows(docs.tokens, docs.ends, size)
    covered = len(all_of_it) * size + 1  # what does not fill a window stays out
    assert len(docs.tokens) - covered < size
    starts = {0, *(int(end) for end in docs.ends)}
    due = [(int(docs.tokens[i - 1]), int(docs.tokens[i])) for i in range(covered)
           if i not in starts]  # fmt: skip
    found = []
    for number in range(len(all_of_it)):
        part = window_micro([(all_of_it, number)])
        assert len(part.ids) == size
        found += zip(part.ids[part.places].tolist(), part.targets.tolist(), strict=True)
    assert found == due
    assert BOS not in {target for _, target in found}


@settings(max_examples=50, deadline=None, derandomize=True)
@given(lengths=lengths, size=st.integers(2, 17), together=st.integers(1, 4))
def test_no_sequence_of_a_step_holds_two_documents(
    lengths: list[int], size: int, together: int
) -> None:
    all_of_it = windows(*lengths, size=size)
    chosen = [(all_of_it, n % len(all_of_it)) for n in range(together)] if len(all_of_it) else []
    if not chosen:
        return
    sequences = spans_of(window_micro(chosen))
    assert sum(map(len, sequences)) == together * size
    for pieces in sequences:
        assert BOS not in pieces[1:] and EOS not in pieces[:-1]


def test_windows_are_cut_where_documents_end() -> None:
    cut = windows(6, 10, 4, 5, size=8)
    assert len(cut) == 3
    assert [cut.spans(n) for n in range(3)] == [
        [(0, 6), (6, 2)],
        [(8, 8)],
        [(16, 4), (20, 4)],
    ]


@torch.no_grad()
def test_the_loss_of_a_token_is_that_of_its_piece_of_a_document_alone(
    tiny_model: LlamaForCausalLM,
) -> None:
    """Against the stock forward: a document in a window does not see the one before it."""
    cut = windows(6, 10, 4, 5, 9, size=8)
    part = window_micro([(cut, 0), (cut, 2), (cut, 3)])
    expected = []
    for number in (0, 2, 3):
        for start, length in cut.spans(number):
            ids = torch.tensor(cut.stream[start : start + length + 1].astype(np.int64))[None]
            logits = tiny_model(input_ids=ids[:, :length]).logits[0]
            expected += [
                torch.nn.functional.cross_entropy(logits[i], ids[0, i + 1])
                for i in range(length)
                if ids[0, i] != EOS
            ]
    _, found = token_loss(tiny_model, part)
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-4, atol=1e-4)


def test_active_pieces_map_targets_to_their_place_among_them() -> None:
    cut = windows(6, 10, 8, size=8)
    active = choose(SoftmaxPart(), cut.stream, 32_768)
    assert active is not None and active.ids.tolist() == sorted({*cut.stream.tolist()})
    plain = window_micro([(cut, 1)])
    [mapped] = narrowed([plain], active)
    assert mapped.vocabulary is not None and plain.vocabulary is None
    assert mapped.vocabulary[mapped.targets].tolist() == plain.targets.tolist()
    assert mapped.ids.tolist() == plain.ids.tolist()


def test_the_seen_pieces_are_those_of_both_texts() -> None:
    one, other = windows(6, size=4), corpus.windows_of(documents(6, first=500), 4)
    both = choose(SoftmaxPart(), one.stream, 32_768, other.stream)
    assert both is not None
    assert both.ids.tolist() == [1, 2, 100, 101, 102, 103, 500, 501, 502, 503]


def test_validation_text_keeps_its_order() -> None:
    docs = documents(6, 10, 8)
    assert corpus.windows_of(docs, 8).stream.tolist() == docs.tokens.tolist()


def test_validation_text_that_fills_no_window_is_an_error() -> None:
    with pytest.raises(DataError) as caught:
        corpus.windows_of(documents(3, 5), 8)  # the last token needs one after it
    assert str(caught.value) == (
        "the validation text has 8 tokens, too few for a window of 8; give more, or leave it out"
    )


# --- the order of documents


def part(epochs: dict[str, float] | None = None, weight: float = 1.0) -> CorpusPart:
    return CorpusPart(path="x", epochs=epochs or {}, weight=weight)


def counted(packed: Windows) -> Counter[tuple[int, ...]]:
    """How often each document occurs, whole."""
    starts = [0, *packed.ends[:-1]]
    return Counter(
        tuple(packed.stream[a:b].tolist()) for a, b in zip(starts, packed.ends, strict=True)
    )


def whole(docs: Documents) -> list[tuple[int, ...]]:
    return [tuple(docs.document(n).tolist()) for n in range(len(docs))]


def test_packing_keeps_documents_whole_and_each_once_in_a_seeded_order() -> None:
    docs = documents(*range(3, 43))
    packed = corpus.pack([(docs, part())], 8, seed=1)
    assert counted(packed) == Counter(whole(docs))
    assert packed.stream.tolist() != docs.tokens.tolist()
    assert packed.stream.tolist() == corpus.pack([(docs, part())], 8, seed=1).stream.tolist()
    assert packed.stream.tolist() != corpus.pack([(docs, part())], 8, seed=2).stream.tolist()


def test_documents_are_seen_as_often_as_their_source_says() -> None:
    a = documents(5, 6, source="a")
    b = documents(5, 6, source="b", first=300)
    c = documents(5, 6, source="c", first=600)
    packed = corpus.pack([(d, part({"a": 3, "b": 0})) for d in (a, b, c)], 8, seed=1)
    expected = Counter(dict.fromkeys(whole(a), 3) | dict.fromkeys(whole(c), 1))
    assert counted(packed) == expected


def test_a_fraction_of_an_epoch_takes_that_share_of_documents() -> None:
    docs = documents(*[3] * 400, source="a")
    times = [counted(corpus.pack([(docs, part({"a": share}))], 8, seed=1)) for share in (0.25, 2.5)]
    assert {*times[0].values()} == {1} and {*times[1].values()} == {2, 3}
    assert times[0].total() == pytest.approx(100, abs=30)
    assert times[1].total() == pytest.approx(1000, abs=40)


def test_the_weight_of_a_corpus_multiplies_the_epochs_of_its_sources() -> None:
    docs = documents(5, 6, source="a")
    assert {*counted(corpus.pack([(docs, part({"a": 1.5}, 2.0))], 8, 1)).values()} == {3}
    assert {*counted(corpus.pack([(docs, part({}, 2.0))], 8, 1)).values()} == {2}


def test_a_mix_that_leaves_nothing_is_an_error() -> None:
    with pytest.raises(DataError, match=r"^the mix of corpora leaves no document$"):
        corpus.pack([(documents(5, source="a"), part({"a": 0}))], 8, seed=1)


# --- the batches of steps


def stream(
    cut: Windows, *, batch: int = 4, micro: int = 2, seed: int = 1, decay_from: int = 10**9,
    **more: Any,
) -> PretrainStream:  # fmt: skip
    return PretrainStream(cut, batch=batch, micro=micro, seed=seed, decay_from=decay_from, **more)


def held(batch: Batch) -> list[tuple[int, ...]]:
    """The windows of a batch, as their tokens."""
    size = batch.tokens // batch.examples
    ids = torch.cat([p.ids for p in batch.parts]).view(batch.examples, size)
    return [tuple(row) for row in ids.tolist()]


def same(a: Batch, b: Batch) -> bool:
    pairs = zip(a.parts, b.parts, strict=True)
    return all(
        torch.equal(getattr(x, name), getattr(y, name))
        for x, y in pairs
        for name in ("ids", "targets", "places")
    )


def test_an_epoch_holds_every_window_once_and_the_next_in_another_order() -> None:
    cut = windows(*[9] * 30, size=8)
    slots = [w for step in range(30) for w in held(stream(cut).batch(step))]
    size = len(cut)
    epochs = [slots[n * size : (n + 1) * size] for n in range(3)]
    every = Counter(tuple(cut.stream[n * 8 : n * 8 + 8].tolist()) for n in range(size))
    assert all(Counter(epoch) == every for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]


def test_a_batch_is_a_pure_function_of_the_step() -> None:
    cut = windows(*[9] * 30, size=8)
    one, other = stream(cut), stream(cut)
    forward = [one.batch(step) for step in range(30)]
    backward = [other.batch(step) for step in reversed(range(30))][::-1]
    assert all(same(a, b) for a, b in zip(forward, backward, strict=True))
    assert all(same(a, stream(cut).batch(step)) for step, a in enumerate(forward))
    assert not all(same(a, stream(cut, seed=2).batch(step)) for step, a in enumerate(forward))


def test_micro_batches_never_change_what_a_step_holds() -> None:
    cut = windows(*[9] * 30, size=8)
    for step in range(10):
        found = [stream(cut, micro=micro).batch(step) for micro in (1, 2, 3, 4, 99)]
        assert all(held(batch) == held(found[0]) for batch in found)
        assert {(b.examples, b.tokens, b.supervised) for b in found} == {
            (4, 32, found[0].supervised)
        }
        assert [len(b.parts) for b in found] == [4, 2, 2, 1, 1]


def test_a_corpus_smaller_than_a_step_is_an_error() -> None:
    with pytest.raises(DataError) as caught:
        stream(windows(9, 8, size=8), batch=4)
    assert str(caught.value) == (
        "the corpus has 2 windows, fewer than one step's 4; give more text or smaller batch_tokens"
    )


TALK = 1000  # the first piece of the dialogues; the corpus has none so high


def dialogues(count: int) -> Windows:
    docs = [TALK + 8 * n + i for n in range(count) for i in range(8)]
    ends = np.arange(8, 8 * count + 8, 8)
    return Windows(np.array([*docs, EOS], dtype=np.uint16), ends, 8)


@pytest.mark.parametrize("share", [0.05, 0.1, 0.3, 0.4, 0.7, 1.0])
@pytest.mark.parametrize("decay_from", [0, 7])
def test_dialogues_come_only_in_the_decay_and_at_their_share(share: float, decay_from: int) -> None:
    cut = windows(*[9] * 60, size=8)
    mixed = stream(
        cut, decay_from=decay_from, dialogues=dialogues(5), dialogue_share=share
    )  # fmt: skip
    plain = stream(cut)
    for step in range(decay_from):
        assert same(mixed.batch(step), plain.batch(step))
    steps = range(decay_from, decay_from + 100)
    found = [w for step in steps for w in held(mixed.batch(step))]
    talks = [w for w in found if w[0] >= TALK]
    assert len(talks) == round(share * 400)
    assert {*Counter(talks).values()} <= {len(talks) // 5, -(-len(talks) // 5)}  # all alike
    without = [w for step in steps for w in held(plain.batch(step))]
    assert all(a == b for a, b in zip(found, without, strict=True) if a[0] < TALK)


@pytest.mark.parametrize("more", [{"dialogue_share": 0.5}, {"dialogues": dialogues(3)}])
def test_without_dialogues_or_a_share_the_decay_is_plain(more: Any) -> None:
    cut = windows(*[9] * 30, size=8)
    assert all(
        same(stream(cut, decay_from=0, **more).batch(step), stream(cut).batch(step))
        for step in range(10)
    )


def test_the_softmax_is_over_the_active_pieces_before_the_decay_alone() -> None:
    cut = windows(*[9] * 30, size=8)
    narrow = stream(cut, decay_from=3, pieces=choose(SoftmaxPart(), cut.stream, 32_768))
    wide = stream(cut)
    for step in range(6):
        for a, b in zip(narrow.batch(step).parts, wide.batch(step).parts, strict=True):
            if step < 3:
                assert a.vocabulary is not None
                assert a.vocabulary[a.targets].tolist() == b.targets.tolist()
            else:
                assert a.vocabulary is None and torch.equal(a.targets, b.targets)


def some_pieces(cut: corpus.Windows, frequent: int, sampled: int) -> Pieces:
    part = SoftmaxPart(frequent=frequent, sampled=sampled)
    pieces = choose(part, cut.stream, 32_768)
    assert pieces is not None and pieces.frequent is not None
    return pieces


def test_the_commonest_pieces_always_take_part() -> None:
    cut = windows(*[9] * 30, size=8)
    pieces = some_pieces(cut, 2, 3)
    assert pieces.ids[pieces.frequent].tolist() == [1, 2]  # each document begins and ends by them


@pytest.mark.parametrize("frequent", [None, 300])
def test_a_softmax_over_enough_pieces_is_over_all_of_them(frequent: int | None) -> None:
    cut = windows(*[9] * 30, size=8)
    part = SoftmaxPart(frequent=frequent)
    pieces = choose(part, cut.stream, 32_768)
    assert pieces is not None and pieces.frequent is None
    assert pieces.ids.tolist() == sorted({*cut.stream.tolist()})
    everything = SoftmaxPart(seen_only=False, frequent=frequent)
    part_of_all = choose(everything, cut.stream, 32_768)
    assert (part_of_all is None) == (frequent is None)


def test_pieces_are_drawn_anew_at_each_step_and_the_same_when_asked_again() -> None:
    cut = windows(*[9] * 60, size=8)
    sampling = stream(cut, decay_from=9, pieces=some_pieces(cut, 10, 20))
    plain = stream(cut)
    drawn = set()
    for step in range(8):
        assert same(sampling.batch(step), sampling.batch(step))
        for a, b in zip(sampling.batch(step).parts, plain.batch(step).parts, strict=True):
            assert a.vocabulary is not None and a.offset is not None
            assert a.vocabulary.tolist() == sorted({*a.vocabulary.tolist()})
            assert a.vocabulary[a.targets].tolist() == b.targets.tolist()
            assert not a.offset[a.targets].any()  # what is due stands for itself alone
            assert (a.offset > 0).sum() == 20
            drawn.add(tuple(a.vocabulary.tolist()))
    assert len(drawn) > 8


@pytest.mark.parametrize("sampled", [False, True], ids=["all", "sampled"])
def test_a_piece_beyond_the_active_ones_takes_part_when_it_is_due(sampled: bool) -> None:
    cut, talk = windows(*[9] * 30, size=8), dialogues(5)
    pieces = some_pieces(cut, 10, 20) if sampled else Pieces(np.unique(cut.stream).astype(np.int64))
    wide = corpus.window_micro([(talk, 0), (cut, 1)])
    [narrow] = narrowed([wide], pieces, [1] if sampled else None)
    assert set(wide.targets.tolist()) - set(pieces.ids.tolist())
    assert narrow.vocabulary is not None
    assert narrow.vocabulary[narrow.targets].tolist() == wide.targets.tolist()
    assert narrow.vocabulary.tolist() == sorted(set(narrow.vocabulary.tolist()))
    assert sampled == (narrow.offset is not None)
    if narrow.offset is not None:
        assert len(narrow.offset) == len(narrow.vocabulary)
        assert not narrow.offset[narrow.targets].any()


def test_the_sum_below_a_sampled_softmax_is_right_on_average() -> None:
    cut = windows(*[9] * 60, size=8)
    pieces = some_pieces(cut, 10, 40)
    scores = np.random.default_rng(0).normal(size=32_768)
    due = cut.stream[:8].astype(np.int64)
    found = []
    for seed in range(2000):
        ids, offset = pieces.draw(due, np.random.default_rng(seed))
        found.append(np.exp(scores[ids] + offset).sum())
    error = np.std(found) / len(found) ** 0.5
    assert abs(np.mean(found) - np.exp(scores[pieces.ids]).sum()) < 4 * error


# --- dialogues in the template


def talk(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}, {"role": "assistant", "content": f"{text}!"}]


def test_dialogue_windows_hold_the_template_and_leave_out_what_is_too_long(
    template: SegmentTemplate,
) -> None:
    talks = [talk("Hi"), talk("so " * 60), talk("How are you")]
    packed = corpus.dialogue_windows(talks, template, 12, seed=1)
    ids = [tuple(template.encode(t).ids) for t in talks]
    assert counted(packed) == Counter([ids[0], ids[2]])
    assert all(document[-1] == EOS for document in counted(packed))


def test_dialogues_that_make_no_window_are_an_error(template: SegmentTemplate) -> None:
    with pytest.raises(DataError) as caught:
        corpus.dialogue_windows([talk("so " * 60)], template, 40, seed=1)
    assert str(caught.value) == (
        "no conversation fits a window; the decay needs dialogues or a share of 0"
    )
    with pytest.raises(DataError, match=r"^the set of dialogues has \d+ tokens, too few for a "):
        corpus.dialogue_windows([talk("Hi")], template, 40, seed=1)


# --- the corpora of a recipe


def recipe(**corpora: Any) -> PretrainRecipe:
    return PretrainRecipe(name="x", tokens=4096, data={"corpora": corpora})


def test_all_shards_of_all_corpora_are_gathered_in_order(
    write_rows: WriteRows, tokenizer: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("one-b", "one-a", "two"):
        write_rows(f"{name}.jsonl", [{"text": name, "source": name}])
    monkeypatch.setenv("STENTOR_DATA", str(tmp_path))
    monkeypatch.chdir("/")
    made = recipe(one={"path": "one-*.jsonl", "weight": 2}, two={"path": "two.jsonl"})
    found = corpus.gather(made, tokenizer)
    assert [(docs.sources, part.weight) for docs, part in found] == [
        (("one-a",), 2),
        (("one-b",), 2),
        (("two",), 1),
    ]


def test_epochs_of_a_source_that_no_document_is_of_are_a_mistake(
    write_rows: WriteRows, tokenizer: Any
) -> None:
    for name in ("wikipedia", "stories"):
        write_rows(f"{name}.jsonl", [{"text": name, "source": name}])
    good = {"path": "*.jsonl", "epochs": {"wikipedia": 2, "stories": 0.5}}
    assert len(corpus.gather(recipe(english=good), tokenizer)) == 2
    with pytest.raises(DataError) as caught:
        corpus.gather(recipe(english=good | {"epochs": {"wikipdia": 2}}), tokenizer)
    assert str(caught.value) == (
        "corpus english: epochs: no document has the source 'wikipdia'; did you mean 'wikipedia'?"
    )


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({}, "corpus english: give either path or hub"),
        ({"path": "none-*.jsonl"},
         "none-*.jsonl: no such file; relative paths start from data.root or STENTOR_DATA"),
        ({"hub": "owner/name"},
         "corpus english: a corpus from the hub needs `tokens`, how much to read"),
    ],
)  # fmt: skip
def test_a_corpus_that_is_nowhere_is_an_error(tokenizer: Any, given: Any, why: str) -> None:
    with pytest.raises(DataError) as caught:
        corpus.gather(recipe(english=given), tokenizer)
    assert str(caught.value) == why
