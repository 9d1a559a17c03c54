"""The template: what the model reads, what it learns, and that no text can break out."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from typing import Any

import pytest
import sentencepiece
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from stentor import assets
from stentor.chat import (
    JINJA,
    Message,
    OwnTemplate,
    SegmentTemplate,
    check_messages,
    document_ids,
    jinja_ids,
    spells_control,
    template_for,
)
from stentor.errors import DataError, ModelError
from stentor.model.tokenizer import CONTROL_PIECES, DELIMITERS, put_on
from stentor.recipe import CARD_SYSTEM

BOS, EOS, USER, USER_END, SYSTEM, SYSTEM_END = 1, 2, 3, 4, 14, 15
RESERVED = 771  # ids below stand for control and user-defined pieces

_INVARIANT = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
_HOSTILE = [*CONTROL_PIECES, "[REFERENCE_DOC_1]", "[TOOL_CALLS]", "[control_0]"]


def hostile_texts() -> st.SearchStrategy[str]:
    """Texts in which pieces of control are spelled, whole and in parts."""
    part = st.one_of(
        st.sampled_from([*_HOSTILE, " ", "\n", "[IN", "ST]", "</"]), st.text(max_size=5)
    )
    return st.lists(part, max_size=6).map("".join)


@st.composite
def conversations(draw: st.DrawFn, texts: st.SearchStrategy[str]) -> list[Message]:
    """Perhaps a system message, then one to three turns, the last perhaps without a reply."""
    messages = [say("system", draw(texts))] if draw(st.booleans()) else []
    turns = draw(st.integers(1, 3))
    for turn in range(turns):
        messages.append(say("user", draw(texts)))
        if turn < turns - 1 or draw(st.booleans()):
            messages.append(say("assistant", draw(texts)))
    return messages


def say(role: str, text: str) -> Message:
    return {"role": role, "content": text}


TWO_TURNS = [
    say("system", "Be kind."),
    say("user", "Hi! Who are you?"),
    say("assistant", "I am Stentor."),
    say("user", "  and\n\nthen?"),
    say("assistant", "Then we talk.  "),
]


@pytest.fixture(scope="module")
def reference() -> Any:
    path = assets.path("tokenizer", "tokenizer.model")
    return sentencepiece.SentencePieceProcessor(model_file=str(path))


def test_every_text_stands_between_control_pieces_as_sentencepiece_encodes_it(
    template: SegmentTemplate, reference: Any
) -> None:
    system, first, one, second, two = (reference.encode(m["content"]) for m in TWO_TURNS)
    encoded = template.encode(TWO_TURNS)
    assert list(encoded.ids) == [
        BOS, SYSTEM, *system, SYSTEM_END,
        USER, *first, USER_END, *one, EOS,
        USER, *second, USER_END, *two, EOS,
    ]  # fmt: skip


def test_the_mask_covers_exactly_the_replies_and_their_stop_tokens(
    template: SegmentTemplate, reference: Any
) -> None:
    encoded = template.encode(TWO_TURNS)
    pairs = zip(encoded.ids, encoded.mask, strict=True)
    runs = [[i for i, _ in run] for taught, run in groupby(pairs, key=lambda p: p[1]) if taught]
    assert runs == [
        [*reference.encode("I am Stentor."), EOS],
        [*reference.encode("Then we talk.  "), EOS],
    ]
    assert encoded.supervised == sum(map(len, runs))


def test_there_is_one_bos_and_it_comes_first(template: SegmentTemplate) -> None:
    assert template.encode(TWO_TURNS).ids.count(BOS) == 1
    assert template.encode(TWO_TURNS).ids[0] == BOS


def test_the_stop_token_is_supervised_and_is_what_generation_stops_at(
    template: SegmentTemplate, tokenizer: Any
) -> None:
    encoded = template.encode(TWO_TURNS)
    assert encoded.ids[-1] == EOS and encoded.mask[-1] == 1
    assert template.stop_ids == {EOS} == {tokenizer.eos_token_id}


def test_an_empty_reply_supervises_its_stop_token_alone(template: SegmentTemplate) -> None:
    encoded = template.encode([say("user", "Hi"), say("assistant", "")])
    assert encoded.supervised == 1


def test_a_prompt_ends_where_the_reply_begins(template: SegmentTemplate) -> None:
    prompt = template.prompt(TWO_TURNS[:4])
    encoded = template.encode(TWO_TURNS)
    assert prompt == list(encoded.ids[: len(prompt)])
    assert encoded.mask[len(prompt) - 1 : len(prompt) + 1] == (0, 1)


def test_a_prompt_can_not_end_with_a_reply(template: SegmentTemplate) -> None:
    with pytest.raises(DataError, match="the last message is the assistant's; add the user's next"):
        template.prompt(TWO_TURNS)


@_INVARIANT
@given(messages=conversations(hostile_texts()))
def test_ids_of_a_prefix_never_depend_on_what_follows(
    template: SegmentTemplate, messages: list[Message]
) -> None:
    whole = template.encode(messages)
    assert len(whole.ids) == len(whole.mask)
    for end in range(1, len(messages)):
        if messages[end - 1]["role"] != "system":
            part = template.encode(messages[:end])
            assert part.ids == whole.ids[: len(part.ids)]
            assert part.mask == whole.mask[: len(part.ids)]


@_INVARIANT
@given(messages=conversations(hostile_texts()))
def test_no_text_yields_a_control_id(template: SegmentTemplate, messages: list[Message]) -> None:
    due = [BOS]
    for message in messages:
        due += {"system": [SYSTEM, SYSTEM_END], "user": [USER, USER_END], "assistant": [EOS]}[
            message["role"]
        ]
    assert [i for i in template.encode(messages).ids if i < RESERVED] == due


@_INVARIANT
@given(talks=st.lists(conversations(hostile_texts()), max_size=4))
def test_many_conversations_are_encoded_as_each_alone(
    template: SegmentTemplate, talks: list[list[Message]]
) -> None:
    assert template.encode_all(talks) == [template.encode(messages) for messages in talks]


@_INVARIANT
@given(text=hostile_texts())
def test_a_reply_comes_back_as_it_was_written(template: SegmentTemplate, text: str) -> None:
    assume("▁" not in text)  # SentencePiece's own mark for a space reads as one
    messages = [say("user", "Hi"), say("assistant", text)]
    reply = template.encode(messages).ids[len(template.prompt(messages[:1])) :]
    assert template.text(reply) == text


def test_control_pieces_that_a_model_generates_are_not_shown(template: SegmentTemplate) -> None:
    yes = template.encode([say("user", "Hi"), say("assistant", "Yes.")]).ids[-3:-1]
    assert template.text([SYSTEM, *yes, USER, USER_END, EOS]) == "Yes."


def test_the_shared_start_is_the_system_message(template: SegmentTemplate) -> None:
    one, other = (
        template.encode([say("system", "Be kind."), say("user", text)]) for text in ("Hi", "Bye")
    )
    assert one.system == other.system == one.ids.index(SYSTEM_END) + 1
    assert one.ids[: one.system] == other.ids[: other.system]
    assert template.encode([say("user", "Hi")]).system == 0


def test_the_cards_system_prompt_has_131_tokens(template: SegmentTemplate, tokenizer: Any) -> None:
    ids = tokenizer(CARD_SYSTEM, add_special_tokens=False)["input_ids"]
    assert len(ids) == 131
    encoded = template.encode([say("system", CARD_SYSTEM), say("user", "Hi")])
    assert encoded.system == 131 + 3  # <s>, and a delimiter on each side


# --- the Jinja twin ---


def test_the_jinja_twin_ships_with_the_tokenizer(tokenizer: Any) -> None:
    assert tokenizer.chat_template == JINJA


@_INVARIANT
@given(messages=conversations(st.one_of(st.text(max_size=40), hostile_texts())))
def test_the_jinja_twin_gives_the_same_ids_and_mask(
    template: SegmentTemplate, tokenizer: Any, messages: list[Message]
) -> None:
    assume(not spells_control(tokenizer, messages))
    assert jinja_ids(tokenizer, messages) == template.encode(messages)


@pytest.mark.parametrize(
    "text",
    ["", " ", "  two  spaces ", "\nlines\n\n", "{{ 7 * 7 }}{% if x %}", "'quo\"tes' \\n", "😀"],
)
def test_the_jinja_twin_agrees_on_odd_texts(
    template: SegmentTemplate, tokenizer: Any, text: str
) -> None:
    messages = [say("system", text), say("user", text), say("assistant", text)]
    assert jinja_ids(tokenizer, messages) == template.encode(messages)


def test_the_jinja_twin_makes_the_same_prompt(template: SegmentTemplate, tokenizer: Any) -> None:
    out = tokenizer.apply_chat_template(
        TWO_TURNS[:4], tokenize=True, add_generation_prompt=True, return_dict=True
    )
    assert out["input_ids"] == template.prompt(TWO_TURNS[:4])


def test_the_jinja_twin_takes_content_in_parts(tokenizer: Any) -> None:
    """Some runtimes (LiteRT-LM, vision servers) pass the content as a list of parts."""
    parts = [{"type": "text", "text": "Hi! "}, {"type": "text", "text": "Who?"}]
    listed = tokenizer.apply_chat_template([{"role": "user", "content": parts}], return_dict=True)
    plain = tokenizer.apply_chat_template([say("user", "Hi! Who?")], return_dict=True)
    assert listed["input_ids"] == plain["input_ids"]


@pytest.mark.parametrize(
    ("text", "spells"),
    [("Hello [inst]", False), ("Say </s> now", True), ("[INST]", True), ("[control_0]", False)],
)
def test_spells_control_tells_where_the_twin_may_differ(
    tokenizer: Any, text: str, spells: bool
) -> None:
    assert spells_control(tokenizer, [say("user", text)]) is spells


# --- what is refused ---


@pytest.mark.parametrize(
    ("messages", "complaint"),
    [
        ([], "a conversation has no messages; it needs at least one of the user"),
        ([say("assistant", "Hi")], "message 1 has role 'assistant' where 'user' is due"),
        (
            [say("user", "a"), say("user", "b")],
            "message 2 has role 'user' where 'assistant' is due",
        ),
        (
            [say("user", "a"), say("system", "b")],
            "message 2 has role 'system' where 'assistant' is due",
        ),
        (
            [say("system", "a"), say("system", "b"), say("user", "c")],
            "message 2 has role 'system' where 'user' is due",
        ),
        ([say("tool", "a")], "message 1 has role 'tool' where 'user' is due"),
        ([{"content": "a"}], "message 1 has role None where 'user' is due"),
        ([{"role": "user"}], "message 1 has no text in 'content'"),
        ([say("user", "a"), say("assistant", None)], "message 2 has no text in 'content'"),  # type: ignore[arg-type]
        (
            [say("system", "a")],
            "a conversation of a system message alone has nothing to reply to",
        ),
    ],
)
def test_conversations_out_of_turn_are_refused(messages: list[Message], complaint: str) -> None:
    with pytest.raises(DataError) as caught:
        check_messages(messages)
    assert str(caught.value) == complaint


def test_half_a_character_is_refused_by_name(template: SegmentTemplate) -> None:
    r"""JSON may hold "\ud83d" alone; no tokenizer can encode it."""
    with pytest.raises(DataError, match="message 2 holds half of a character"):
        template.encode([say("user", "Hi"), say("assistant", "\ud83d")])


# --- a foreign tokenizer and its own template ---

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TRIMMED = CHATML.replace("message['content']", "message['content'] | trim")
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def chatml_tokenizer(template: str | None = CHATML, *, eos: str = "<|im_end|>") -> Any:
    """Byte-level BPE, as GPT-2, SmolLM2 and Qwen have it, with special tokens of its own."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        show_progress=False,
        special_tokens=[AddedToken(t, special=True, normalized=False) for t in SPECIALS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    core.train_from_iterator([CARD_SYSTEM, "\n\n  user assistant system\n\n"], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token=eos, pad_token="<|endoftext|>", chat_template=template,
        additional_special_tokens=["<|im_start|>", "<|im_end|>"],
    )  # fmt: skip


@pytest.fixture(scope="module")
def foreign() -> Any:
    return chatml_tokenizer()


@pytest.fixture(scope="module", params=[CHATML, TRIMMED], ids=["chatml", "trimming"])
def own(request: pytest.FixtureRequest) -> OwnTemplate:
    return OwnTemplate(chatml_tokenizer(request.param))


def test_a_foreign_conversation_is_encoded_as_its_own_template_has_it(foreign: Any) -> None:
    whole = foreign.apply_chat_template(TWO_TURNS, return_dict=True)["input_ids"]
    assert list(OwnTemplate(foreign).encode(TWO_TURNS).ids) == whole


def test_a_piece_that_begins_or_ends_texts_stands_before_a_foreign_document() -> None:
    """Once: also where it is there already."""
    foreign: Any = chatml_tokenizer()
    plain = foreign("A text.", add_special_tokens=False)["input_ids"]
    foreign.bos_token, foreign.eos_token = None, "<|im_end|>"
    assert document_ids(foreign, "A text.") == [foreign.eos_token_id, *plain]
    foreign.bos_token = "<|im_start|>"
    assert document_ids(foreign, "A text.") == [foreign.bos_token_id, *plain]
    assert document_ids(foreign, "<|im_start|>A text.") == [foreign.bos_token_id, *plain]


def test_a_foreign_mask_covers_each_reply_and_its_stop_token(own: OwnTemplate) -> None:
    encoded = own.encode(TWO_TURNS)
    taught = [i for i, m in zip(encoded.ids, encoded.mask, strict=True) if m]
    stops = [place for place, i in enumerate(taught) if i in own.stop_ids]
    assert len(stops) == 2
    assert own.text(taught[: stops[0]]) == "I am Stentor."
    assert own.text(taught[stops[0] :]).rstrip() == "Then we talk."
    assert taught[-1] in own.stop_ids


def test_a_foreign_prompt_ends_with_the_opening_of_a_reply(foreign: Any) -> None:
    due = foreign.apply_chat_template(TWO_TURNS[:2], add_generation_prompt=True, return_dict=True)[
        "input_ids"
    ]
    assert OwnTemplate(foreign).prompt(TWO_TURNS[:2]) == due


def foreign_texts() -> st.SearchStrategy[str]:
    part = st.sampled_from(
        [
            *SPECIALS,
            "<|im_start|>assistant\n",
            "<|im_end|>\n",
            "<|im_",
            "user",
            "\n",
            "  ",
            "a",
            "é",
        ]
    )
    return st.lists(part, max_size=5).map("".join)


@_INVARIANT
@given(messages=conversations(foreign_texts()))
@pytest.mark.parametrize("form", [CHATML, TRIMMED], ids=["chatml", "trimming"])
def test_no_text_yields_a_control_id_of_a_foreign_tokenizer(
    form: str, messages: list[Message]
) -> None:
    """Each message is opened once and closed once, in its place, whatever the texts spell."""
    own = _OWN[form]
    encoded = own.encode(messages)
    controls = [i for i in encoded.ids if i < len(SPECIALS)]
    assert controls == [1, 2] * len(messages)
    openings = [place for place, i in enumerate(encoded.ids) if i == 1]
    for place, message in zip(openings, messages, strict=True):
        assert own.text(encoded.ids[place + 1 : place + 12]).startswith(message["role"] + "\n")


@_INVARIANT
@given(messages=conversations(foreign_texts()))
@pytest.mark.parametrize("form", [CHATML, TRIMMED], ids=["chatml", "trimming"])
def test_training_and_generation_see_the_same_ids_of_a_foreign_tokenizer(
    form: str, messages: list[Message]
) -> None:
    own = _OWN[form]
    whole = own.encode(messages)
    assert len(whole.ids) == len(whole.mask)
    for end, message in enumerate(messages):
        if message["role"] == "assistant":
            prompt = own.prompt(messages[:end])
            assert prompt == list(whole.ids[: len(prompt)])
            assert whole.mask[len(prompt) - 1 : len(prompt) + 1] == (0, 1)


def test_threads_that_encode_at_once_do_not_disturb_each_other(
    foreign: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server encodes in several; what spells a special token must stay text in each."""
    own = OwnTemplate(foreign)
    talks = [[say("user", "Hi")], [say("user", "<|im_end|> and <|im_start|>")]] * 200
    due = [own.prompt(talk) for talk in talks[:2]] * 200
    between = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(own.prompt, talks)) == due
    finally:
        sys.setswitchinterval(between)


def test_a_text_of_its_own_leaves_a_foreign_tokenizer_as_it_is(foreign: Any) -> None:
    own = OwnTemplate(foreign)
    before = foreign("<|im_end|>")["input_ids"]
    assert len(own.segment("<|im_end|>")) > len(before) == 1
    assert foreign.backend_tokenizer.encode_special_tokens is False


_OWN = {form: OwnTemplate(chatml_tokenizer(form)) for form in (CHATML, TRIMMED)}


@pytest.mark.parametrize(
    "text", ["<|im_start|>", "<|im_end|>", "<|im_end|> ", "<|im_start|>user\n"]
)
def test_a_text_that_repeats_the_markup_stays_in_its_place(own: OwnTemplate, text: str) -> None:
    """The markup around a message is found by place, not by looking for the text in it."""
    ids = own.prompt([say("user", text)])
    assert [i for i in ids if i < len(SPECIALS)] == [1, 2, 1]
    assert ids[0] == 1 and ids[-1] != 1


def test_a_foreign_prompt_can_not_end_with_a_reply(own: OwnTemplate) -> None:
    with pytest.raises(DataError, match="the last message is the assistant's"):
        own.prompt(TWO_TURNS)


def test_stop_tokens_of_the_generation_settings_count(foreign: Any) -> None:
    """SmolLM2 and others end a turn with another token than the tokenizer's own end of text."""
    tokenizer = chatml_tokenizer(eos="<|endoftext|>")
    with pytest.raises(ModelError, match="does not end a reply with a stop token"):
        OwnTemplate(tokenizer).encode(TWO_TURNS)
    encoded = OwnTemplate(tokenizer, [2]).encode(TWO_TURNS)
    assert encoded == OwnTemplate(foreign).encode(TWO_TURNS)


def test_a_template_that_rewrites_earlier_turns_is_refused() -> None:
    """Its loss mask can't be known; templates that drop earlier thoughts do this."""
    rewriting = CHATML.replace(
        "message['content']", "(message['content'] if loop.last else '(earlier)')"
    )
    own = OwnTemplate(chatml_tokenizer(rewriting))
    with pytest.raises(ModelError, match=r"renders a reply differently once more follows.*stentor"):
        own.encode(TWO_TURNS)


def test_without_a_chat_template_ours_is_advised() -> None:
    with pytest.raises(
        ModelError, match=r"no chat template of its own; use ours \(model.template: st"
    ):
        OwnTemplate(chatml_tokenizer(None))


def test_our_template_refuses_a_tokenizer_without_our_pieces(foreign: Any) -> None:
    with pytest.raises(ModelError, match=r"the tokenizer has no pieces \[INST\], \[/INST\] and"):
        SegmentTemplate(foreign)


@pytest.fixture(scope="module")
def joined() -> SegmentTemplate:
    """Our template put on a foreign tokenizer, which has no token for the beginning."""
    tokenizer = chatml_tokenizer()
    put_on(tokenizer, JINJA)
    return SegmentTemplate(tokenizer)


@_INVARIANT
@given(messages=conversations(st.one_of(foreign_texts(), hostile_texts())))
def test_no_text_yields_a_control_id_where_our_template_was_put_on(
    joined: SegmentTemplate, messages: list[Message]
) -> None:
    user, user_end, system, system_end = range(400, 404)
    due = []
    for message in messages:
        due += {"system": [system, system_end], "user": [user, user_end], "assistant": [2]}[
            message["role"]
        ]
    encoded = joined.encode(messages)
    assert [i for i in encoded.ids if i < len(SPECIALS) or i >= 400] == due
    assert sum(encoded.mask) >= [m["role"] for m in messages].count("assistant")


def test_the_first_token_of_a_document_is_not_learned_though_no_token_begins_it(
    joined: SegmentTemplate,
) -> None:
    encoded = joined.encode([{"role": "text", "content": "Once more."}])
    assert encoded.mask[0] == 1 and encoded.ids[-1] == 2
    assert encoded.supervised == len(encoded.ids) - 1


def test_the_jinja_twin_agrees_where_our_template_was_put_on(joined: SegmentTemplate) -> None:
    tokenizer = chatml_tokenizer()
    put_on(tokenizer, JINJA)
    assert jinja_ids(tokenizer, TWO_TURNS) == joined.encode(TWO_TURNS)
    assert tokenizer.convert_tokens_to_ids(list(DELIMITERS)) == list(range(400, 404))


def test_the_template_is_chosen_by_the_tokenizer(tokenizer: Any, foreign: Any) -> None:
    assert isinstance(template_for(tokenizer), SegmentTemplate)
    chosen = template_for(foreign, stop_ids=[0])
    assert isinstance(chosen, OwnTemplate)
    assert chosen.stop_ids == {0, 2}
