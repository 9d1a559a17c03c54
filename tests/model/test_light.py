"""What is read without transformers must be what transformers reads."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import build_tiny_model
from stentor import assets
from stentor.chat import SegmentTemplate
from stentor.errors import ModelError
from stentor.model.light import read, size
from stentor.model.load import load
from stentor.model.pieces import Pieces
from stentor.model.save import save_model


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Path:
    folder = tmp_path_factory.mktemp("light") / "tiny"
    generation = {"temperature": 0.7, "system": "Be kind."}
    save_model(build_tiny_model(), tokenizer, folder, dtype=torch.float16, generation=generation)
    return folder


@pytest.fixture(scope="module")
def pieces() -> Pieces:
    return Pieces(assets.path("tokenizer"))


TEXTS = (
    "Why is the sky blue?", "  two  spaces\n\n\ttab ", "<s>[INST] hi [/INST]</s>[control_12]",
    "é漢字🦉 \x00", "", " ",
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(text=st.text(max_size=40) | st.sampled_from(TEXTS))
def test_ids_and_texts_are_those_of_transformers(pieces: Pieces, tokenizer: Any, text: str) -> None:
    ids = pieces(text)["input_ids"]
    assert ids == tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    for skip in (True, False):
        known = [1, *ids, 2]
        assert pieces.decode(known, skip_special_tokens=skip) == tokenizer.decode(
            known, skip_special_tokens=skip
        )


def test_single_pieces_are_those_of_transformers(pieces: Pieces, tokenizer: Any) -> None:
    assert len(pieces) == len(tokenizer)
    for number in (0, 1, 2, 3, 16, 300, 771, 1026, 29_473, 32_767):
        piece = tokenizer.convert_ids_to_tokens(number)
        assert pieces.convert_ids_to_tokens(number) == piece
        assert pieces.convert_tokens_to_ids(piece) == tokenizer.convert_tokens_to_ids(piece)
    assert pieces.convert_tokens_to_ids("no such piece") == tokenizer.unk_token_id
    for name in ("bos_token_id", "eos_token_id", "unk_token_id"):
        assert getattr(pieces, name) == getattr(tokenizer, name)


def test_a_folder_read_lightly_is_the_model_that_is_loaded(saved: Path) -> None:
    light, loaded = read(saved), load(str(saved))
    assert light is not None
    assert (light.origin, light.generation) == (loaded.origin, loaded.generation)
    assert light.window == loaded.window == 512
    messages = [
        {"role": "system", "content": "Be [INST] kind."}, {"role": "user", "content": "Hi  there"}
    ]  # fmt: skip
    assert light.template.prompt(messages) == loaded.template.prompt(messages)
    assert light.template.stop_ids == loaded.template.stop_ids
    assert isinstance(light.template, SegmentTemplate)
    parameters = sum(p.numel() for p in loaded.model.parameters())
    assert size(saved) == pytest.approx(4 * parameters, rel=0.05)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda folder: (folder / "model.safetensors").unlink(),
        lambda folder: (folder / "tokenizer_config.json").unlink(),
        lambda folder: change(folder / "config.json", model_type="gpt2"),
        lambda folder: change(folder / "config.json", vocab_size=32_772),
        lambda folder: change(folder / "tokenizer_config.json", clean_up_tokenization_spaces=True),
        lambda folder: change(folder / "tokenizer_config.json", eos_token=None),
    ],
    ids=["no weights", "no settings", "no Llama", "other vocabulary", "cleaned up", "no stop"],
)
def test_what_needs_more_is_left_to_load(saved: Path, tmp_path: Path, spoil: Any) -> None:
    folder = Path(shutil.copytree(saved, tmp_path / "model"))
    spoil(folder)
    assert read(folder) is None


def change(file: Path, **fields: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


def test_a_damaged_tokenizer_is_named(saved: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(saved, tmp_path / "model"))
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(ModelError, match="the tokenizer can't be loaded"):
        read(folder)
