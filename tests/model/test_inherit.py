"""An embedding inherited from a GGUF file, and where such a file is looked for."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from stentor.chat import OwnTemplate
from stentor.errors import ModelError
from stentor.model.command import info
from stentor.model.inherit import find_gguf, inherited_embedding
from stentor.model.load import load
from stentor.model.save import save_model

WIDTH = 32
WORDS = ["<|endoftext|>", "<|im_end|>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
MERGES = ["t h", "th e", "Ġ the", "Ġ a"]
PIECES = [*WORDS, *(merge.replace(" ", "") for merge in MERGES)]
CHATML = (
    "{% for m in messages %}{{ m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant\n' }}{% endif %}"
)


@pytest.fixture(scope="module")
def donor(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole, small Llama in a GGUF file, with a byte-level vocabulary of its own."""
    path = tmp_path_factory.mktemp("gguf") / "donor.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(512)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(1)
    writer.add_feed_forward_length(48)
    writer.add_head_count(2)
    writer.add_head_count_kv(2)
    writer.add_rope_dimension_count(16)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(PIECES))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(PIECES)
    writer.add_token_types([3, 3, *[1] * (len(PIECES) - 2)])
    writer.add_token_merges(MERGES)
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_chat_template(CHATML)
    drawn = np.random.default_rng(0)

    def add(name: str, *shape: int) -> None:
        writer.add_tensor(name, drawn.normal(0, 0.3, shape).astype(np.float32))

    add("token_embd.weight", len(PIECES), WIDTH)
    add("output_norm.weight", WIDTH)
    for name, shape in {
        "attn_norm": (WIDTH,), "attn_q": (WIDTH, WIDTH), "attn_k": (WIDTH, WIDTH),
        "attn_v": (WIDTH, WIDTH), "attn_output": (WIDTH, WIDTH), "ffn_norm": (WIDTH,),
        "ffn_gate": (48, WIDTH), "ffn_up": (48, WIDTH), "ffn_down": (WIDTH, 48),
    }.items():  # fmt: skip
        add(f"blk.0.{name}.weight", *shape)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def pieces(tokenizer: Any) -> Any:
    """A tokenizer with the first of our pieces, and some more: all of them take seconds."""
    words = [*tokenizer.convert_ids_to_tokens(list(range(1_500))), "x", "the"]
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}))
    return PreTrainedTokenizerFast(tokenizer_object=core)


@pytest.fixture(scope="module")
def inherited(donor: Path, pieces: Any) -> torch.Tensor:
    return inherited_embedding(str(donor), pieces, WIDTH)


def donor_rows(donor: Path) -> torch.Tensor:
    tensors = gguf.GGUFReader(donor).tensors
    found = next(t for t in tensors if t.name == "token_embd.weight")
    return torch.from_numpy(np.array(found.data))


def test_the_embedding_has_our_shape_and_a_usual_size(inherited: torch.Tensor) -> None:
    assert inherited.shape == (1_502, WIDTH)
    assert float(inherited.pow(2).mean().sqrt()) == pytest.approx(0.02, rel=1e-4)
    assert torch.isfinite(inherited).all()


def test_a_piece_takes_the_vector_of_its_string_or_the_mean_of_its_parts(
    inherited: torch.Tensor, donor: Path, pieces: Any
) -> None:
    """At full width the principal components are a rotation: differences keep their lengths."""
    rows = donor_rows(donor)
    number = {piece: rows[i] for i, piece in enumerate(PIECES)}
    due = {
        "▁the": number["Ġthe"],
        "the": number["the"],
        "▁a": number["Ġa"],
        "x": number["x"],
        "▁at": (number["Ġa"] + number["t"]) / 2,
    }
    ids = pieces.convert_tokens_to_ids(list(due))
    assert None not in ids
    ours = torch.cdist(inherited[ids], inherited[ids])
    theirs = torch.cdist(*[torch.stack(list(due.values()))] * 2)
    torch.testing.assert_close(ours / ours.max(), theirs / theirs.max(), rtol=1e-3, atol=1e-3)


def test_control_pieces_and_bytes_begin_at_one_neutral_place(
    inherited: torch.Tensor, pieces: Any
) -> None:
    """Nothing in the donor says what they mean; not even the letters they are written with."""
    neutral = ["[INST]", "</s>", "[control_12]", "<0x0A>", "<0xFF>"]
    rows = inherited[pieces.convert_tokens_to_ids(neutral)]
    torch.testing.assert_close(rows, rows[:1].expand_as(rows))


def test_a_narrower_embedding_keeps_what_varies_most(
    inherited: torch.Tensor, donor: Path, pieces: Any
) -> None:
    narrow = inherited_embedding(str(donor), pieces, 16)
    wide = inherited.pow(2).sum()
    share = inherited[:, :16].pow(2).sum() / wide
    assert narrow.shape == (1_502, 16)
    assert share > 0.6
    torch.testing.assert_close(
        narrow / narrow.norm(), inherited[:, :16] / inherited[:, :16].norm(), rtol=1e-3, atol=1e-5
    )


def test_a_wider_embedding_than_the_donors_is_refused(donor: Path, pieces: Any) -> None:
    with pytest.raises(ModelError, match="its embedding is 32 wide; 64 can't be inherited"):
        inherited_embedding(str(donor), pieces, 64)


def test_a_model_in_a_gguf_file_loads_saves_and_is_described(donor: Path, tmp_path: Path) -> None:
    loaded = load(str(donor))
    assert isinstance(loaded.template, OwnTemplate)
    torch.testing.assert_close(loaded.model.model.embed_tokens.weight.data, donor_rows(donor))
    save_model(loaded.model, loaded.tokenizer, tmp_path / "out", dtype=torch.float32)
    again = load(str(tmp_path / "out"))
    ids = torch.tensor([[5, 9, 100, 259]])
    assert torch.equal(again.model(ids).logits, loaded.model(ids).logits)
    assert info(str(donor))["size on disk"] == donor.stat().st_size


# --- where a file is looked for ---


def test_a_package_gives_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "made_up_model"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "b.gguf").touch()
    (package / "a.gguf").touch()
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    assert find_gguf("package:made-up-model") == package / "a.gguf"
    assert find_gguf("package:made_up_model") == package / "a.gguf"


def test_a_package_that_is_missing_is_named_with_the_command_that_installs_it() -> None:
    with pytest.raises(ModelError) as caught:
        find_gguf("package:no-such-model")
    assert str(caught.value) == (
        "package:no-such-model: the Python package no-such-model is not installed; "
        "run: pip install no-such-model"
    )


@pytest.mark.parametrize("name", ["package:", "package:a.b", "package:../x", "package:json"])
def test_odd_package_names_are_a_model_error(name: str) -> None:
    with pytest.raises(ModelError, match=f"^{name}: "):
        find_gguf(name)


@pytest.mark.parametrize("name", ["nothing.gguf", "/no/such.gguf"])
def test_a_file_that_is_missing(name: str) -> None:
    with pytest.raises(ModelError) as caught:
        find_gguf(name)
    assert str(caught.value) == f"{name}: there is no GGUF file; give its path, or package:NAME"


def test_a_gguf_file_without_an_embedding_is_refused(tmp_path: Path, tokenizer: Any) -> None:
    writer = gguf.GGUFWriter(tmp_path / "empty.gguf", "llama")
    writer.add_tensor("other", np.zeros((32, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ModelError, match=r"there is no tensor token_embd\.weight in it"):
        inherited_embedding(str(tmp_path / "empty.gguf"), tokenizer, 16)


@pytest.mark.parametrize("use", ["load", "inherit"])
def test_a_file_that_is_no_gguf_is_a_model_error(tmp_path: Path, tokenizer: Any, use: str) -> None:
    (tmp_path / "text.gguf").write_text("not a model at all", encoding="utf-8")
    with pytest.raises(ModelError, match=r"text\.gguf"):
        if use == "load":
            load(str(tmp_path / "text.gguf"))
        else:
            inherited_embedding(str(tmp_path / "text.gguf"), tokenizer, 16)
