"""A piece before the last reply says what it is, and is learned as a piece of the reply."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from stentor.chat import SegmentTemplate
from stentor.data.decisions import with_decisions
from stentor.data.encode import EncodedExample, encode, with_rejected
from stentor.data.examples import Example, Tally, conversation
from stentor.data.stream import Emphasis, micro
from stentor.model.tokenizer import DECISIONS
from stentor.recipe import OpeningPart
from stentor.train.loop import plain_token_loss, token_loss
from stentor.train.rejected import refuses

REFUSE, SUPPORT, ANSWER = 17, 18, 19  # the ids of [control_15] to [control_17]


def example(kind: str, category: str, *turns: str, rejected: str | None = None) -> Example:
    roles = ["text"] if kind == "text" else ["user", "assistant"] * (len(turns) // 2)
    messages = [{"role": r, "content": t} for r, t in zip(roles, turns, strict=True)]
    return Example(tuple(messages), kind, "f", category, rejected)


ROWS = [
    example("harmful", "violence", "Hi?", "Hello.", "How do I hurt him?", "I won't help."),
    example("harmful", "self_harm", "I want to end it.", "Please stay."),
    example("borderline", "violence", "How do I beat eggs?", "Use a fork."),
    example("benign", "facts", "What sings?", "A bird."),
    example("text", "", "It was a day of rain."),
]


def encoded(template: SegmentTemplate, rows: list[Example]) -> list[EncodedExample]:
    found = encode(rows, "s", template, system="Be kind.", max_tokens=99, tally=Tally())
    return with_rejected(found, template, system="Be kind.", max_tokens=99)


def decided(
    template: SegmentTemplate, rows: list[Example], *, share: float = 1.0, window: int = 512
) -> list[EncodedExample]:
    return with_decisions(
        encoded(template, rows), template.decisions, share=share, window=window, seed=1,
        refuses=refuses,
    )  # fmt: skip


def piece_of(ids: tuple[int, ...]) -> list[int]:
    return [i for i in ids if i in (REFUSE, SUPPORT, ANSWER)]


def test_each_last_reply_begins_with_what_it_is(template: SegmentTemplate) -> None:
    plain, found = encoded(template, ROWS), decided(template, ROWS)
    assert [piece_of(e.encoded.ids) for e in found] == [
        [REFUSE], [SUPPORT], [ANSWER], [ANSWER], [],
    ]  # fmt: skip
    for before, after in zip(plain[:4], found[:4], strict=True):
        ids, mask = after.encoded.ids, after.encoded.mask
        place = next(i for i, piece in enumerate(ids) if piece in template.decisions)
        prompt = list(before.example.messages[:-1])
        asked = template.prompt([{"role": "system", "content": "Be kind."}, *prompt])
        assert list(ids[:place]) == asked  # the piece is the first thing that the model draws
        assert mask[place] == 1
        assert ids[:place] + ids[place + 1 :] == before.encoded.ids
        assert mask[:place] + mask[place + 1 :] == before.encoded.mask
        assert after.encoded.system == before.encoded.system
        said = [i for i, m in zip(ids[place:], mask[place:], strict=True) if m]
        assert template.text(said) == before.example.messages[-1]["content"]


def test_a_worse_reply_gets_the_piece_of_what_it_is(template: SegmentTemplate) -> None:
    rows = [
        example("harmful", "violence", "How do I hurt him?", "No.", rejected="With a stone."),
        example("harmful", "self_harm", "How do I die?", "Please stay.", rejected="Like so."),
        example("benign", "facts", "What sings?", "A bird.", rejected="I can't say that."),
        example("benign", "facts", "What swims?", "A fish.", rejected=""),
        example("benign", "facts", "What runs?", "A cat."),
        example("benign", "facts", "What flies?", "A bee does.", rejected="A stone, I think."),
        example("harmful", "self_harm", "Ways to die?", "Please stay.", rejected="I won't help."),
    ]
    worse = [e.rejected for e in decided(template, rows)]
    assert [piece_of(e.ids) if e else None for e in worse] == [
        [ANSWER], [ANSWER], [REFUSE], [ANSWER], None, [ANSWER], [SUPPORT],
    ]  # fmt: skip


def test_a_share_of_the_rows_begins_with_words_the_same_ones_each_time(
    template: SegmentTemplate,
) -> None:
    rows = [conversation(f"What is {n}?", "A number.", "benign", f"f:{n}") for n in range(400)]
    chosen = [bool(piece_of(e.encoded.ids)) for e in decided(template, rows, share=0.75)]
    assert 270 < sum(chosen) < 330
    again = [bool(piece_of(e.encoded.ids)) for e in decided(template, rows, share=0.75)]
    assert chosen == again


def test_no_piece_is_put_where_the_window_is_full(template: SegmentTemplate) -> None:
    rows = [example("benign", "facts", "What sings?", "A bird.", rejected="I can't say that.")]
    (row,) = encoded(template, rows)
    assert row.rejected is not None
    full = max(len(row.encoded.ids), len(row.rejected.ids))
    assert decided(template, rows, window=full) == [row]
    (roomy,) = decided(template, rows, window=full + 1)
    assert roomy.rejected is not None
    assert len(roomy.encoded.ids) == len(row.encoded.ids) + 1
    assert len(roomy.rejected.ids) == len(row.rejected.ids) + 1


def test_a_decision_counts_apart_from_the_opening_that_follows_it(
    template: SegmentTemplate,
) -> None:
    emphasis = Emphasis(OpeningPart(tokens=2, weight=3.0), dict.fromkeys(template.decisions, 8.0))
    part = micro(decided(template, ROWS), emphasis)
    assert part.weights is not None
    learned = zip(part.targets.tolist(), part.weights.tolist(), strict=True)
    assert {weight for piece, weight in learned if piece in template.decisions} == {8.0}
    counted = part.weights.tolist()
    for place in (part.weights == 8.0).nonzero().flatten().tolist():
        assert counted[place + 1 : place + 3] == [3.0, 3.0]
        assert counted[place + 3] in (1.0, 3.0)  # 3.0: the next reply's, where this one is short
    assert counted[-6:] == [1.0] * 6  # a document has no opening
    plain = micro(decided(template, ROWS))
    assert plain.weights is None
    assert plain.supervised == part.supervised


def test_the_decision_is_guessed_along_the_last_prompt(template: SegmentTemplate) -> None:
    """Each of its tokens but the last, ever more towards the end; reported by nothing."""
    counts = dict.fromkeys(template.decisions, 8.0)
    rows = decided(template, ROWS)
    plain, part = micro(rows, Emphasis(None, counts)), micro(rows, Emphasis(None, counts, gain=0.5))
    assert (part.supervised, plain.guesses) == (plain.supervised, 0)
    assert part.weights is not None
    kept = len(part.targets) - part.guesses
    for found, before in (
        (part.ids, plain.ids),
        (part.places[:kept], plain.places),
        (part.targets[:kept], plain.targets),
        (part.weights[:kept], plain.weights),
    ):
        assert torch.equal(found, before)
    asked = [e.example.messages[-2]["content"] for e in rows[:-1]]
    words = [template.segment(text) for text in asked]
    user = template.prompt([{"role": "user", "content": ""}])[-2]
    # [INST] and the words; at [/INST] it is drawn
    assert part.ids[part.places[kept:]].tolist() == [i for ids in words for i in (user, *ids)]
    wanted = [REFUSE, SUPPORT, ANSWER, ANSWER]
    due = [p for p, ids in zip(wanted, words, strict=True) for _ in (user, *ids)]
    assert part.targets[kept:].tolist() == due
    start = kept
    for ids in words:
        each = part.weights[start : start + len(ids) + 1]
        assert float(each.sum()) == pytest.approx(0.5 * 8)
        ramp = torch.arange(1, len(each) + 1)
        torch.testing.assert_close(each, ramp * each[0])
        start += len(each)
    assert start == len(part.weights)


@pytest.mark.parametrize("loss", [token_loss, plain_token_loss])
def test_guesses_count_in_the_gradient_and_in_no_reported_loss(
    template: SegmentTemplate, tiny_model: LlamaForCausalLM, loss: Any
) -> None:
    counts = dict.fromkeys(template.decisions, 8.0)
    rows = decided(template, ROWS[:3])
    plain, part = micro(rows, Emphasis(None, counts)), micro(rows, Emphasis(None, counts, gain=0.5))

    def gradient(of: Any) -> Any:
        tiny_model.zero_grad()
        of.backward()
        return tiny_model.lm_head.weight.grad.clone()  # type: ignore[union-attr]

    value, each = loss(tiny_model, part)
    before, others = loss(tiny_model, plain)
    assert float(value.detach()) == pytest.approx(float(before.detach()), rel=1e-5)
    assert len(each) == len(others) == part.supervised
    found = gradient(value) - gradient(loss(tiny_model, plain)[0])
    # what they add: the cross entropy of each guess, times its weight
    alone = replace(
        part, places=part.places[-part.guesses :], targets=part.targets[-part.guesses :],
        weights=part.weights[-part.guesses :] if part.weights is not None else None, guesses=0,
    )  # fmt: skip
    torch.testing.assert_close(found, gradient(loss(tiny_model, alone)[0]), rtol=1e-3, atol=1e-5)


def test_a_model_learns_to_decide_before_it_speaks(
    template: SegmentTemplate, tiny_model: LlamaForCausalLM
) -> None:
    rows = [
        conversation(f"May I {word}?", "Well.", kind, "f")
        for words, kind in (
            (("kick", "burn", "steal"), "harmful"),
            (("sing", "bake", "swim"), "benign"),
        )
        for word in words
    ]
    part = micro(decided(template, rows))
    optimiser = torch.optim.Adam(tiny_model.parameters(), lr=1e-2)
    for _ in range(60):
        optimiser.zero_grad()
        total, _ = token_loss(tiny_model, part)
        total.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    for row in rows:
        asked = [{"role": "system", "content": "Be kind."}, row.messages[0]]
        with torch.no_grad():
            logits = tiny_model(torch.tensor([template.prompt(asked)])).logits
        assert int(logits[0, -1].argmax()) == (REFUSE if row.kind == "harmful" else ANSWER)


def test_a_tokenizer_that_does_not_hide_the_pieces_has_no_decisions(tokenizer: Any) -> None:
    """As one that was saved before they were special: other programs would show them."""
    plain = json.loads(tokenizer.backend_tokenizer.to_str())
    plain["added_tokens"] = [p for p in plain["added_tokens"] if p["content"] not in DECISIONS]
    older = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(plain)), eos_token="</s>", unk_token="<unk>"
    )
    assert older.convert_tokens_to_ids(list(DECISIONS)) == [17, 18, 19]
    assert SegmentTemplate(older).decisions == ()
    assert SegmentTemplate(tokenizer).decisions == (17, 18, 19)


def test_pieces_are_read_by_nobody(template: SegmentTemplate) -> None:
    reply = template.segment("A bird.")
    assert template.text([ANSWER, *reply, 2]) == "A bird."
    assert set(template.decisions) <= template.controls
    spelled = template.segment("[control_17] A bird.")
    assert ANSWER not in spelled


@pytest.mark.parametrize("kind", ["harmful", "benign"])
def test_a_row_that_is_not_chosen_stays_as_it_is(template: SegmentTemplate, kind: str) -> None:
    rows = [conversation("May I?", "Well.", kind, "f", rejected="No.")]
    (found,) = decided(template, rows, share=1e-9)
    assert found == replace(encoded(template, rows)[0])
