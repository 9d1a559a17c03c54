"""`stentor data texts`: what a base writes by itself, to be replayed."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from conftest import Command, build_scripted_model
from stentor.chat import SegmentTemplate
from stentor.data import sources
from stentor.data.files import read_rows
from stentor.data.texts import DECODING, LEAST, write_texts
from stentor.errors import InputError
from stentor.generate import Engine
from stentor.model.load import LoadedModel, load
from stentor.recipe import SourcePart

SENTENCE = "An old man walks to the grey sea where he counts small boats."
BEGIN, STOP = 1, 2


def texts_of(path: Path) -> list[str]:
    return [row.fields["text"] for row in read_rows(path)]


def writer_of(template: SegmentTemplate, tokenizer: Any, *after: list[int]) -> Engine:
    """A model that goes on from the beginning by one of the given chains, equally likely."""
    successors: dict[int, list[int]] = {BEGIN: [chain[0] for chain in after]}
    for chain in after:
        for token, following in pairwise(chain):
            successors.setdefault(token, []).append(following)
    model = build_scripted_model(successors)
    return Engine(LoadedModel(model, tokenizer, template, "scripted", {}))


@pytest.fixture(scope="module")
def base() -> Engine:
    return Engine(load("stentor-12m"))


def test_texts_are_long_enough_end_with_a_sentence_and_repeat_with_the_seed(
    base: Engine, tmp_path: Path
) -> None:
    decoding = DECODING.changed(max_new_tokens=60, seed=3)
    one, two, more = (tmp_path / name for name in ("one.jsonl", "two.jsonl.gz", "more.jsonl"))
    for path, count in ((one, 8), (two, 8), (more, 11)):
        left_out = write_texts(base, path, count, decoding)
        assert sum(left_out.values()) + len(texts_of(path)) == count
    assert texts_of(one) == texts_of(two) == texts_of(more)[: len(texts_of(one))]
    assert len({*texts_of(more)}) == len(texts_of(more)) >= 4
    for text in texts_of(more):
        assert len(text.split()) >= LEAST and text == text.strip()
        assert text[-1] in ".!?…\"'”’)]"
    # and that is what the source of plain text reads
    read = sources.examples(SourcePart(use="text", path=str(two)), tmp_path)
    assert [e.messages[0]["content"] for e in read] == texts_of(two)


def test_a_conversation_what_is_short_and_what_repeats_is_left_out(
    template: SegmentTemplate, tokenizer: Any, tmp_path: Path
) -> None:
    user, user_end = (tokenizer.convert_tokens_to_ids(p) for p in ("[INST]", "[/INST]"))
    whole = [*template.segment(SENTENCE), STOP]
    talk = [user, *template.segment("Hi"), user_end, *template.segment("Yes"), STOP]
    short = [*template.segment("No"), STOP]
    out = tmp_path / "texts.jsonl"
    left_out = write_texts(writer_of(template, tokenizer, whole, talk, short), out, 40, DECODING)
    assert texts_of(out) == [SENTENCE]
    assert {*left_out} == {"a conversation", "shorter than 12 words", "the same as another"}
    assert sum(left_out.values()) == 39


def test_a_text_that_did_not_end_is_cut_after_its_last_sentence_or_left_out(
    template: SegmentTemplate, tokenizer: Any, tmp_path: Path
) -> None:
    sentence = template.segment(SENTENCE)
    writer = writer_of(template, tokenizer, [*sentence, *template.segment("Birds"), STOP])
    out = tmp_path / "texts.jsonl"
    cut = DECODING.changed(max_new_tokens=len(sentence) + 1)
    write_texts(writer, out, 1, cut)
    assert texts_of(out) == [SENTENCE]
    with pytest.raises(InputError, match=r"none of 3 texts can be kept.*shorter than 12 words"):
        write_texts(writer, tmp_path / "none.jsonl", 3, DECODING.changed(max_new_tokens=5))
    assert not (tmp_path / "none.jsonl").exists()


def test_the_command_writes_says_what_it_left_out_and_overwrites_nothing(
    stentor: Command, tmp_path: Path
) -> None:
    out = tmp_path / "own.jsonl.gz"
    line = ["data", "texts", "stentor-12m", "--count", "3", "--max-new-tokens", "60"]
    done = stentor(*line, "--out", str(out))
    assert done.code == 0, done.err
    assert done.out.strip() == str(out)
    before = out.read_bytes()
    again = stentor(*line, "--out", str(out))
    assert again.code == 2 and "nothing is overwritten" in again.err
    assert out.read_bytes() == before
    wrong = stentor(*line, "--out", str(tmp_path / "own.txt"))
    assert wrong.code == 2 and "name it .jsonl or .jsonl.gz" in wrong.err
