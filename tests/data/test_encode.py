"""Encoding: the stop token is always learned, and no reply is cut amid a sentence."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stentor.chat import SegmentTemplate, document_ids
from stentor.data.encode import EncodedExample, encode, with_system
from stentor.data.examples import Example, Tally, conversation, from_messages
from stentor.errors import DataError
from stentor.recipe import CARD_SYSTEM

SENTENCES = [
    "It is a small bird.", "Yes!", "Is it (really)?", 'She said "no."', "Dr. Lee weighs 3.5 kg.",
    "See the book…", "That is all (so far).", "Birds, e.g. wrens, sing.", "Why not?!",
    "J. R. Smith wrote it.", "It opens at 9.30 a day.",
]  # fmt: skip


def example(reply: str, prompt: str = "Tell me.") -> Example:
    return conversation(prompt, reply, "benign", "f:1")


def one(
    template: SegmentTemplate, given: Example, limit: int, system: str | None = None
) -> tuple[EncodedExample | None, Tally]:
    tally = Tally()
    found = encode([given], "s", template, system=system, max_tokens=limit, tally=tally)
    assert tally.kept == len(found) == 1 - sum(tally.left_out.values())
    return (found[0] if found else None), tally


def learned(template: SegmentTemplate, encoded: EncodedExample) -> str:
    """The text of the supervised tokens, which end with the stop token and hold it once."""
    ids = [i for i, m in zip(encoded.encoded.ids, encoded.encoded.mask, strict=True) if m]
    (stop,) = template.stop_ids
    assert encoded.encoded.ids[-1] == ids[-1] == stop and ids.count(stop) == 1
    return template.text(ids)


def length(template: SegmentTemplate, reply: str) -> int:
    return len(template.encode(example(reply).messages).ids)


def test_a_reply_that_fits_exactly_is_left_as_it_is(template: SegmentTemplate) -> None:
    reply = "One sentence. Then another, without an end"
    size = length(template, reply)
    found, tally = one(template, example(reply), size)
    assert found is not None and found.length == size
    assert learned(template, found) == reply
    assert not tally.changed and not tally.left_out


def test_a_reply_one_token_too_long_ends_with_its_last_whole_sentence(
    template: SegmentTemplate,
) -> None:
    reply = "One sentence. Then another, without an end"
    found, tally = one(template, example(reply), length(template, reply) - 1)
    assert found is not None and learned(template, found) == "One sentence."
    assert tally.changed == {"reply cut at the end of a sentence": 1}


def test_a_reply_whose_first_sentence_does_not_fit_is_dropped_and_counted(
    template: SegmentTemplate,
) -> None:
    limit = length(template, "A first sentence of some length.") - 1
    found, tally = one(template, example("A first sentence of some length. Short."), limit)
    assert found is None
    assert tally.left_out == {f"longer than {limit} tokens": 1}
    assert not tally.changed


@pytest.mark.parametrize("reply", ["word " * 200, "a, b; c: " * 80, "12.5 " * 100])
def test_a_long_reply_without_a_sentence_end_is_dropped(
    template: SegmentTemplate, reply: str
) -> None:
    found, tally = one(template, example(reply), 40)
    assert found is None and tally.left_out == {"longer than 40 tokens": 1}


def test_a_prompt_that_fills_the_window_drops_the_row(template: SegmentTemplate) -> None:
    found, tally = one(template, example("Yes. No.", prompt="why " * 60), 40)
    assert found is None and tally.left_out == {"longer than 40 tokens": 1}


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    sentences=st.lists(st.sampled_from(SENTENCES), min_size=1, max_size=8),
    spaces=st.sampled_from([" ", "\n", "\n\n", "  "]),
    share=st.floats(0, 1.1),
)
def test_a_cut_reply_is_the_longest_run_of_whole_sentences_that_fits(
    template: SegmentTemplate, sentences: list[str], spaces: str, share: float
) -> None:
    runs = [spaces.join(sentences[:n]) for n in range(len(sentences) + 1)]
    limit = 8 + round(share * (length(template, runs[-1]) - 8))
    fitting = [run for run in runs[1:] if length(template, run) <= limit]
    found, tally = one(template, example(runs[-1]), limit)
    if not fitting:
        assert found is None
    else:
        assert found is not None and found.length <= limit
        assert learned(template, found) == fitting[-1]
        assert bool(tally.changed) == (len(fitting) < len(sentences))


@pytest.mark.parametrize(
    ("reply", "cuts"),
    [
        (
            "Do this: 1. Wash your hands. 2. Dry them. 3. Done it is",
            ["Do this: 1. Wash your hands.", "Do this: 1. Wash your hands. 2. Dry them."],
        ),
        ("1. Cups and plates\n2. Forks and knives\n3. Spoons", []),
        ("Ask Mr. Hall or Mrs. Oak. They know the way to St. Ives", ["Ask Mr. Hall or Mrs. Oak."]),
        ("It cost 3.50 in all. That is a lot, i.e. too much for me", ["It cost 3.50 in all."]),
        ('He said "Stop!" and ran. Then (at last.) he fell over it', [
            'He said "Stop!"',
            'He said "Stop!" and ran.',
            'He said "Stop!" and ran. Then (at last.)',
        ]),
    ],
)  # fmt: skip
def test_where_a_reply_may_be_cut(template: SegmentTemplate, reply: str, cuts: list[str]) -> None:
    """A list's number, an abbreviation or a decimal point ends no sentence."""
    seen = []
    for limit in range(4, length(template, reply)):
        found, _ = one(template, example(reply), limit)
        if found is not None:
            text = learned(template, found)
            seen += [text] if text not in seen else []
    assert seen == cuts


def test_only_the_last_reply_of_a_conversation_is_cut(template: SegmentTemplate) -> None:
    messages = [
        {"role": "user", "content": "One?"},
        {"role": "assistant", "content": "First. Second"},
        {"role": "user", "content": "Two?"},
        {"role": "assistant", "content": "Third. Fourth"},
    ]
    given = from_messages(messages, "benign", "f:1")
    found, _ = one(template, given, len(template.encode(messages).ids) - 1)
    messages[-1]["content"] = "Third."
    assert found is not None and found.encoded == template.encode(messages)


def test_a_row_that_teaches_only_silence_is_dropped_and_counted(template: SegmentTemplate) -> None:
    silent = Example(
        ({"role": "user", "content": "Hi"}, {"role": "assistant", "content": ""}), "benign", "f:1"
    )
    found, tally = one(template, silent, 100)
    assert found is None and tally.left_out == {"no supervised text": 1}


def test_everything_cut_or_dropped_is_counted(template: SegmentTemplate) -> None:
    tally = Tally()
    rows = [example("Fine."), example("Cut here. " + "And on " * 40), example("on " * 60)] * 3
    found = encode(rows, "s", template, system=None, max_tokens=30, tally=tally)
    assert len(found) == tally.kept == 6
    assert tally.left_out == {"longer than 30 tokens": 3}
    assert tally.changed == {"reply cut at the end of a sentence": 3}
    assert [e.source for e in found] == ["s"] * 6


# --- the system prompt


def test_the_system_prompt_comes_first_is_counted_as_prefix_and_is_never_learned(
    template: SegmentTemplate,
) -> None:
    found, _ = one(template, example("Hello."), 384, system=CARD_SYSTEM)
    assert found is not None
    prefix = found.encoded.ids[: found.encoded.system]
    assert template.text(prefix) == CARD_SYSTEM
    assert not any(found.encoded.mask[: found.encoded.system])
    assert learned(template, found) == "Hello."


def test_two_examples_share_the_ids_of_their_system_prompt(template: SegmentTemplate) -> None:
    a, b = (one(template, example(r, prompt=p), 384, CARD_SYSTEM)[0] for r, p in ["ab", "XY"])
    assert a is not None and b is not None
    assert a.encoded.ids[: a.encoded.system] == b.encoded.ids[: b.encoded.system]


@pytest.mark.parametrize("system", [None, ""])
def test_without_a_system_prompt_none_is_put_on(
    template: SegmentTemplate, system: str | None
) -> None:
    found, _ = one(template, example("Hello."), 384, system=system)
    assert found is not None and found.encoded == template.encode(example("Hello.").messages)


def test_a_conversation_keeps_a_system_message_of_its_own() -> None:
    own: tuple[dict[str, Any], ...] = (
        {"role": "system", "content": "Mine."},
        {"role": "user", "content": "Hi"},
    )
    assert with_system(own, "Theirs.") == own
    assert with_system(own[1:], "Theirs.")[0] == {"role": "system", "content": "Theirs."}


# --- plain documents


def test_a_document_is_supervised_whole_and_has_no_system_prompt(
    template: SegmentTemplate, tokenizer: Any
) -> None:
    row = Example(({"role": "text", "content": "A bird sings. It is dawn."},), "text", "f:1")
    (found,) = encode([row], "t", template, system="Be kind.", max_tokens=64, tally=Tally())
    assert list(found.encoded.ids) == document_ids(tokenizer, "A bird sings. It is dawn.")
    assert found.encoded.mask == (0, *[1] * (found.length - 1))
    assert found.encoded.system == 0


def test_a_long_document_ends_with_its_last_whole_sentence(template: SegmentTemplate) -> None:
    row = Example(({"role": "text", "content": "A bird sings. " * 40},), "text", "f:1")
    (found,) = encode([row], "t", template, system=None, max_tokens=30, tally=Tally())
    message = found.example.messages[0]
    assert message["role"] == "text" and message["content"].endswith("sings.")
    assert 20 < found.length <= 30


def test_a_document_is_no_part_of_a_conversation(template: SegmentTemplate) -> None:
    text = {"role": "text", "content": "A bird sings."}
    question = {"role": "user", "content": "Hi"}
    for messages in ([text, question], [question, text]):
        with pytest.raises(DataError, match="has role 'text' where"):
            template.encode(messages)
    with pytest.raises(DataError, match="a plain document has no reply"):
        template.prompt([text])
