"""Examples: what counts as the same prompt, and which rows are no conversation."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stentor.data.examples import conversation, from_messages, normalise
from stentor.errors import DataError


def user(text: Any) -> dict[str, Any]:
    return {"role": "user", "content": text}


def assistant(text: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("How do I kill weeds?", "how do i kill weeds"),
        ("  Hello,   world!\n", "hello world"),
        ("It's snake_case", "it s snake case"),
        ("STRASSE", "straße"),
    ],
)
def test_case_punctuation_and_spacing_do_not_make_another_prompt(one: str, other: str) -> None:
    assert normalise(one) == normalise(other)


@pytest.mark.parametrize(("one", "other"), [("add 3 and 4", "add 3 and 5"), ("café", "cafe")])
def test_other_words_make_another_prompt(one: str, other: str) -> None:
    assert normalise(one) != normalise(other)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.text(), st.sampled_from([" ", "!?", "\n\t", '"', "… ", "_"]))
def test_normalised_text_is_one_line_and_ignores_what_surrounds_it(text: str, around: str) -> None:
    found = normalise(text)
    assert "\n" not in found and found == found.strip()
    assert normalise(around + text + around) == found


def test_a_conversation_keeps_its_texts_without_the_space_around_them() -> None:
    example = conversation(" Hi!\n", " Hello.\n\nHow are you? ", "benign", "f:1", category="chat")
    assert example.messages == (user("Hi!"), assistant("Hello.\n\nHow are you?"))
    assert (example.kind, example.where, example.category) == ("benign", "f:1", "chat")


@pytest.mark.parametrize(
    ("given", "kept"), [(" No.\n", "No."), (" \n", ""), ("", ""), (None, None)]
)
def test_a_rejected_reply_is_kept_without_the_space_around_it_as_a_chosen_one(
    given: str | None, kept: str | None
) -> None:
    assert conversation("P", "R", "benign", "f:1", rejected=given).rejected == kept


@pytest.mark.parametrize("missing", [None, "", " \n", 3, ["text"], {"a": 1}])
def test_a_row_without_a_text_is_refused_with_its_place(missing: Any) -> None:
    with pytest.raises(DataError) as caught:
        conversation(missing, "reply", "benign", "f:7")
    assert str(caught.value) == "f:7: the prompt is missing or empty"
    with pytest.raises(DataError) as caught:
        conversation("prompt", missing, "benign", "f:8")
    assert str(caught.value) == "f:8: the reply is missing or empty"


def test_the_prompts_of_an_example_are_all_its_user_turns() -> None:
    example = from_messages(
        [{"role": "system", "content": "Be kind."}, user("Hi!"), assistant("Hi."), user("A joke?"),
         assistant("No.")], "benign", "f:1",
    )  # fmt: skip
    assert example.prompts == ("hi", "a joke")
    assert example.key == "hi\na joke"


@pytest.mark.parametrize(
    ("messages", "why"),
    [
        (None, "'messages' is not a list of role and content"),
        ("text", "'messages' is not a list of role and content"),
        ([user("a"), "b"], "'messages' is not a list of role and content"),
        ([], "a conversation has no messages; it needs at least one of the user"),
        ([assistant("a")], "message 1 has role 'assistant' where 'user' is due"),
        ([user("a"), user("b")], "message 2 has role 'user' where 'assistant' is due"),
        ([user("a"), {"role": "tool", "content": "b"}],
         "message 2 has role 'tool' where 'assistant' is due"),
        ([user("a"), {"content": "b"}], "message 2 has role None where 'assistant' is due"),
        ([user("a"), {"role": "assistant"}], "message 2 has no text in 'content'"),
        ([user([{"text": "a"}]), assistant("b")], "message 1 has no text in 'content'"),
        ([user("a")], "the conversation does not end with a reply"),
        ([user("a"), assistant(" ")], "a message is empty"),
        ([user(""), assistant("b")], "a message is empty"),
    ],
)  # fmt: skip
def test_what_is_no_conversation_is_refused_with_its_place(messages: Any, why: str) -> None:
    with pytest.raises(DataError) as caught:
        from_messages(messages, "benign", "f:3")
    assert str(caught.value) == f"f:3: {why}"
