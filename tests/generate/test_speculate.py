"""A small model drafts for a larger one."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from conftest import Command, Run, build_tiny_model
from stentor.chat import OwnTemplate, SegmentTemplate
from stentor.errors import InputError
from stentor.generate import Decoding, Engine
from stentor.generate.speculate import assistance, report, speculate
from stentor.model.load import LoadedModel
from test_chat import chatml_tokenizer


@pytest.fixture
def target(tokenizer: Any, template: SegmentTemplate) -> LoadedModel:
    return LoadedModel(build_tiny_model(seed=1), tokenizer, template, "target", {})


@pytest.fixture
def other(tokenizer: Any, template: SegmentTemplate) -> LoadedModel:
    return LoadedModel(build_tiny_model(seed=2), tokenizer, template, "other", {})


PROMPT = "Why do birds sing?"


@pytest.mark.parametrize("draft_tokens", [1, 3, 7])
def test_a_draft_that_is_the_target_is_taken_whole(target: LoadedModel, draft_tokens: int) -> None:
    twin = dataclasses.replace(target, model=build_tiny_model(seed=1))
    found = speculate(target, twin, PROMPT, max_new_tokens=24, draft_tokens=draft_tokens, rounds=1)
    assert found.identical and found.tokens == 24
    assert found.accepted == found.drafted and found.acceptance == 1.0
    assert found.target_calls == -(-24 // (draft_tokens + 1))


def test_the_text_is_the_targets_own_whatever_drafts(
    target: LoadedModel, other: LoadedModel
) -> None:
    found = speculate(target, other, PROMPT, max_new_tokens=16, rounds=1)
    assert found.identical and found.first_difference is None
    (alone,) = Engine(target).replies([[{"role": "user", "content": PROMPT}]], Decoding.greedy(16))
    assert found.text == alone.text
    assert 0 <= found.accepted < found.drafted
    assert found.accepted + found.target_calls == found.tokens == 16


def test_models_of_one_vocabulary_need_no_tokenizers(
    target: LoadedModel, other: LoadedModel
) -> None:
    assert assistance(target, other) == {"assistant_model": other.model}


def test_another_vocabulary_needs_both_tokenizers(target: LoadedModel) -> None:
    smaller = build_tiny_model(seed=2)
    smaller.resize_token_embeddings(300)
    bare = dataclasses.replace(target, model=smaller, tokenizer=None)
    with pytest.raises(InputError, match=r"32,768 words and the draft 300.*needs both tokenizers"):
        assistance(target, bare)


def test_models_that_can_not_be_compared_are_refused(target: LoadedModel) -> None:
    bare = dataclasses.replace(target, model=build_tiny_model(seed=2), tokenizer=None)
    with pytest.raises(InputError, match="to know that it is the same, needs both tokenizers"):
        assistance(target, bare)


def chatml_draft(words: int) -> LoadedModel:
    """A draft with a tokenizer of its own, byte-level, and so many words."""
    own = chatml_tokenizer()
    model = build_tiny_model(seed=2)
    model.resize_token_embeddings(words)
    return LoadedModel(model, own, OwnTemplate(own), "draft", {})


def test_another_vocabulary_of_the_same_size_is_refused_with_a_way_out(target: LoadedModel) -> None:
    with pytest.raises(InputError, match=r"both have 32,768 words, but not the same ones.*take a"):
        assistance(target, chatml_draft(32_768))


def test_a_draft_with_another_vocabulary_leaves_the_text_the_targets_own(
    target: LoadedModel,
) -> None:
    draft = chatml_draft(400)
    assert {*assistance(target, draft)} == {"assistant_model", "tokenizer", "assistant_tokenizer"}
    found = speculate(target, draft, PROMPT, max_new_tokens=12, rounds=1)
    (alone,) = Engine(target).replies([[{"role": "user", "content": PROMPT}]], Decoding.greedy(12))
    assert found.identical and found.text == alone.text and found.tokens == 12


def test_the_target_is_asked_with_its_own_system_prompt_or_another(
    target: LoadedModel, other: LoadedModel
) -> None:
    asked = [[{"role": "user", "content": PROMPT}]]
    formal = dataclasses.replace(target, generation={"system": "Be formal, brief and kind."})
    (own,) = Engine(formal).replies(asked, Decoding.greedy(12))
    (none,) = Engine(formal).replies(asked, Decoding.greedy(12), system="")
    assert own.text != none.text
    assert speculate(formal, other, PROMPT, max_new_tokens=12, rounds=1).text == own.text
    found = speculate(formal, other, PROMPT, max_new_tokens=12, rounds=1, system="")
    assert found.text == none.text


def test_a_reply_that_the_window_can_not_hold_is_refused(
    target: LoadedModel, other: LoadedModel
) -> None:
    with pytest.raises(InputError, match="more than the target's window of 512"):
        speculate(target, other, PROMPT, max_new_tokens=600)


def test_it_says_plainly_when_a_draft_does_not_pay(target: LoadedModel, other: LoadedModel) -> None:
    found = speculate(target, other, PROMPT, max_new_tokens=8, rounds=1)
    slow = dataclasses.replace(found, seconds=2.0, seconds_alone=1.0)
    lines: list[str] = []
    report(slow, lines.append)
    assert lines[-1] == "speed-up                 0.50: it does not pay here"


def test_the_command_prints_one_document(tiny_run: Run, stentor: Command) -> None:
    done = stentor(
        "speculate", "--target", tiny_run.path, "--draft", "preset:stentor-2m", "--prompt", "Hi",
        "--max-new-tokens", "6", "--json",
    )  # fmt: skip
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert found["identical"] and found["accepted"] + found["target_calls"] == found["tokens"]
    assert "[transformers]" not in done.err
