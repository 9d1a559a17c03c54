"""What is written: names, sizes, metadata, and that its own software computes the same."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open

from conftest import build_tiny_model
from stentor.chat import JINJA, SegmentTemplate
from stentor.errors import InputError
from stentor.export import gguf
from stentor.export.format import FORMATS, Provenance, parse
from stentor.export.piece_types import UNUSED, retyped
from stentor.generate import Decoding, Engine
from stentor.model.load import LoadedModel
from stentor.model.tokenizer import DECISIONS

GENERATION = {"temperature": 0.9, "top_p": 0.5, "system": "Be kind."}
PROVENANCE = Provenance("tiny", "Apache-2.0", "a-tiny-one", "abc123", "stentor export tiny", "1")
IDS = [1, 15, 2000, 5000, 16, 3, 1100, 29473, 781, 4]
TALK = [
    {"role": "system", "content": "Be  kind 🎉."},
    {"role": "user", "content": "\tHi\n\n  there, señor ▁ 한"},
]


def tiny(
    tokenizer: Any, *, width: int = 32, kv_heads: int = 2, size: int = 16, tied: bool = True
) -> LoadedModel:
    """A model of two layers; rows of 32 and 64 can be cut into blocks."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32_768, hidden_size=width, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=kv_heads, head_dim=size,
        max_position_embeddings=512, rms_norm_eps=1e-5, tie_word_embeddings=tied,
        bos_token_id=1, eos_token_id=2, pad_token_id=16,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(6)
    return LoadedModel(model, tokenizer, SegmentTemplate(tokenizer), "tiny", GENERATION)


def written(loaded: LoadedModel, name: str, folder: Path) -> tuple[Path, Any]:
    """The folder of a copy, and it opened by its runtime."""
    (target,) = parse([name])
    folder.mkdir()
    writer = target.format.writer()
    writer.write(loaded, folder, target.kind, PROVENANCE)
    return folder, writer.open_runtime(folder, target.kind, threads=1)


@torch.no_grad()
def reference_logits(loaded: LoadedModel, ids: Sequence[int]) -> np.ndarray[Any, Any]:
    found: np.ndarray[Any, Any] = loaded.model(input_ids=torch.tensor([ids])).logits[0].numpy()
    return found


def need(name: str) -> None:
    """Skip where the packages of a format are missing."""
    for module in {
        "gguf": ("gguf", "sentencepiece", "cyllama"), "onnx": ("onnx", "onnxruntime"),
        "bnb": ("bitsandbytes",), "hf": (), "genai": ("onnx", "onnxruntime_genai"),
    }[name.partition(":")[0]]:  # fmt: skip
        pytest.importorskip(module)


@pytest.mark.parametrize(
    ("name", "within"),
    [
        ("hf:f32", 1e-5), ("hf:f16", 0.1), ("gguf:f32", 0.05), ("gguf:f16", 0.1),
        ("gguf:q8_0", 0.3), ("onnx:fp32", 1e-4), ("onnx:fp16", 0.1), ("onnx:int8", 0.3),
        ("genai:fp32", 1e-4), ("genai:int8", 0.3), ("bnb:8bit", 0.3),
    ],
)  # fmt: skip
def test_a_copy_computes_what_the_model_computes(
    tmp_path: Path, tokenizer: Any, name: str, within: float
) -> None:
    need(name)
    loaded = tiny(tokenizer)
    _, runtime = written(loaded, name, tmp_path / "copy")
    due = reference_logits(loaded, IDS)
    found = runtime.logits(IDS)
    assert found.shape == due.shape and found.dtype == np.float32
    assert np.abs(found - due).max() < within
    assert np.abs(due - due[::-1]).max() > 10 * within  # the limit tells right from wrong
    runtime.close()


@pytest.mark.parametrize("name", ["hf:f32", "gguf:f32", "onnx:fp32", "genai:fp32"])
def test_replies_over_a_cache_and_in_a_padded_batch_are_the_engines(
    tmp_path: Path, tokenizer: Any, name: str
) -> None:
    need(name)
    loaded = tiny(tokenizer)
    _, runtime = written(loaded, name, tmp_path / "copy")
    engine = Engine(loaded)
    talks = [[{"role": "user", "content": text}] for text in ("Hi", "Tell me of the sea " * 5, "")]
    due = [list(r.ids) for r in engine.replies(talks, Decoding.greedy(8))]
    found = runtime.greedy([engine.prompt_ids(talk) for talk in talks], 8)
    assert found == due
    runtime.close()


@pytest.mark.parametrize("name", ["hf:f16", "gguf:f16", "onnx:fp32", "genai:fp32"])
def test_odd_text_gets_the_same_ids(tmp_path: Path, tokenizer: Any, name: str) -> None:
    need(name)
    loaded = tiny(tokenizer)
    _, runtime = written(loaded, name, tmp_path / "copy")
    # genai's own tokenizer takes the mark of a space, spelled beside a space, for another piece
    talk = (
        [m | {"content": m["content"].replace("▁", "_")} for m in TALK] if "genai" in name else TALK
    )
    assert runtime.ids(talk) == list(loaded.template.encode(talk).ids)
    runtime.close()


@pytest.mark.parametrize("name", ["gguf:f32", "onnx:fp32", "onnx:int8"])
@pytest.mark.parametrize("changed", [{"kv_heads": 1}, {"tied": False}])
def test_shared_key_heads_and_a_head_of_its_own(
    tmp_path: Path, tokenizer: Any, name: str, changed: dict[str, Any]
) -> None:
    need(name)
    loaded = tiny(tokenizer, **changed)
    _, runtime = written(loaded, name, tmp_path / "copy")
    far = np.abs(runtime.logits(IDS) - reference_logits(loaded, IDS)).max()
    assert far < (0.5 if name == "onnx:int8" else 0.05)
    runtime.close()


def test_hf_is_what_other_programs_expect(tmp_path: Path, tokenizer: Any) -> None:
    folder, _ = written(tiny(tokenizer), "hf:f16", tmp_path / "copy")
    settings = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
    assert settings["chat_template"] == JINJA
    assert settings["tokenizer_class"] == "PreTrainedTokenizerFast"
    generation = json.loads((folder / "generation_config.json").read_text("utf-8"))
    assert generation["eos_token_id"] == 2 and generation["system"] == "Be kind."
    assert (generation["do_sample"], generation["temperature"]) == (True, 0.9)
    assert generation["repetition_penalty"] == 1.3  # the default that the model did not change
    assert (folder / "tokenizer.model").is_file()
    with safe_open(folder / "model.safetensors", "pt") as stored:
        assert stored.metadata()["stentor.licence"] == "Apache-2.0"
        assert stored.metadata()["stentor.source_sha256"] == "abc123"
        assert stored.metadata()["format"] == "pt"
        assert "lm_head.weight" not in stored.keys()  # noqa: SIM118
    assert not [f for f in folder.iterdir() if f.name.startswith(".")]


def test_tokenizer_model_is_added_to_a_checkpoint_without_it(
    tmp_path: Path, tokenizer: Any
) -> None:
    from transformers import AutoTokenizer

    tokenizer.save_pretrained(tmp_path / "bare", save_jinja_files=False)
    bare = AutoTokenizer.from_pretrained(tmp_path / "bare")
    loaded = tiny(tokenizer)
    loaded = LoadedModel(loaded.model, bare, SegmentTemplate(bare), "bare", {})
    folder, _ = written(loaded, "hf:f16", tmp_path / "copy")
    from stentor import assets

    due = assets.path("tokenizer", "tokenizer.model").read_bytes()
    assert (folder / "tokenizer.model").read_bytes() == retyped(due, bare)


def test_tokenizer_model_has_the_types_of_gguf_and_nothing_else_is_changed(tokenizer: Any) -> None:
    pytest.importorskip("sentencepiece")
    pb2 = pytest.importorskip("sentencepiece.sentencepiece_model_pb2")
    from stentor import assets

    raw = assets.path("tokenizer", "tokenizer.model").read_bytes()
    before, after = pb2.ModelProto(), pb2.ModelProto()
    before.ParseFromString(raw)
    after.ParseFromString(retyped(raw, tokenizer))
    names, _, types = gguf.pieces(tokenizer)
    assert [p.piece.encode() for p in after.pieces] == names
    assert [p.type for p in after.pieces] == types
    unused = {p.piece for p in after.pieces if p.type == UNUSED}
    assert {"[TOOL_CALLS]", "[control_99]", "[REFERENCE_DOC_3]", *DECISIONS} <= unused
    assert not unused & {"<s>", "</s>", "<unk>", "[INST]", "[/INST]", "[control_12]", "<0x41>"}
    for piece, old in zip(after.pieces, before.pieces, strict=True):
        piece.type = old.type
    assert after == before  # scores, normaliser and trainer's settings are as they were


def test_sentencepiece_itself_takes_what_is_unused_for_text(tmp_path: Path, tokenizer: Any) -> None:
    sentencepiece = pytest.importorskip("sentencepiece")
    folder, _ = written(tiny(tokenizer), "hf:f16", tmp_path / "copy")
    spm = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    assert spm.is_unused(spm.piece_to_id("[TOOL_CALLS]")) and spm.is_control(1)
    for text in ("[TOOL_CALLS] and [REFERENCE_DOC_3] are words", "  two  spaces", "señor 한 🎉"):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert spm.encode(text) == ids


def test_four_bits_of_bnb_compute_what_their_numbers_stand_for(
    tmp_path: Path, tokenizer: Any
) -> None:
    need("bnb")
    loaded = tiny(tokenizer, width=64, size=32)  # its blocks hold 64 numbers
    _, runtime = written(loaded, "bnb:4bit", tmp_path / "copy")
    found = runtime.logits(IDS)
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    with torch.no_grad():
        for name, parameter in loaded.model.named_parameters():
            parameter.copy_(parameter.half())
            if "_proj" in name:
                numbers, state = quantize_4bit(
                    parameter.half(), quant_type="nf4", compress_statistics=True
                )
                parameter.copy_(dequantize_4bit(numbers, state))
    due = reference_logits(loaded, IDS)
    assert np.abs(found - due).max() < 0.3 < np.abs(due - due[::-1]).max() / 10
    runtime.close()


@pytest.mark.parametrize("kind", ["8bit", "4bit"])
def test_bnb_keeps_the_embedding_in_16_bit_and_carries_its_origin(
    tmp_path: Path, tokenizer: Any, kind: str
) -> None:
    need("bnb")
    from stentor.export import bnb

    (note,) = bnb.write(tiny(tokenizer), tmp_path, kind, PROVENANCE)
    assert "of which 2.1 MB are the embedding in 16 bit; gguf, onnx and litert" in note
    with safe_open(tmp_path / "model.safetensors", "pt") as stored:
        assert stored.get_tensor("model.embed_tokens.weight").dtype == torch.float16
        layer = stored.get_tensor("model.layers.0.mlp.up_proj.weight")
        assert layer.dtype == (torch.int8 if kind == "8bit" else torch.uint8)
        assert "lm_head.weight" not in stored.keys()  # noqa: SIM118
        assert stored.metadata()["stentor.source_sha256"] == "abc123"
    config = json.loads((tmp_path / "config.json").read_text("utf-8"))
    assert config["quantization_config"][f"load_in_{kind}"] is True
    assert json.loads((tmp_path / "tokenizer_config.json").read_text("utf-8"))["chat_template"]
    assert not [f for f in tmp_path.iterdir() if f.is_dir()]


def test_gguf_holds_scores_types_template_and_decoding(tmp_path: Path, tokenizer: Any) -> None:
    reading = pytest.importorskip("gguf")
    pytest.importorskip("sentencepiece")
    (target,) = parse(["gguf:q4_0"])
    notes = target.format.writer().write(tiny(tokenizer), tmp_path, "q4_0", PROVENANCE)
    (note,) = notes
    assert note.startswith("tensors: 14 Q4_0, 5 F32, 1 Q8_0 (token_embd 1 Q8_0; attn_q 2 Q4_0; ")
    reader = reading.GGUFReader(tmp_path / "tiny-q4_0.gguf")

    def field(name: str) -> Any:
        return reader.get_field(name).contents()

    types, scores = field("tokenizer.ggml.token_type"), field("tokenizer.ggml.scores")
    control = [i for i, kind in enumerate(types) if kind == 3]
    pieces = tokenizer.get_added_vocab()
    assert control == sorted(n for p, n in pieces.items() if p not in ("<unk>", *DECISIONS))
    assert [types[pieces[piece]] for piece in DECISIONS] == [5, 5, 5]  # unused: never shown
    assert types[0] == 2 and scores[29473] == -1e9 and -40_000 < scores[5000] < -1000
    assert "generation" not in field("tokenizer.chat_template")
    assert field("general.license") == "Apache-2.0"
    assert field("stentor.command") == "stentor export tiny"
    assert field("general.sampling.temp") == pytest.approx(0.9)
    assert "output.weight" not in {t.name for t in reader.tensors}
    modelfile = (tmp_path / "Modelfile").read_text("utf-8")
    assert "FROM ./tiny-q4_0.gguf" in modelfile and 'SYSTEM """Be kind."""' in modelfile
    assert 'LICENSE """Apache-2.0"""' in modelfile.splitlines()
    assert "<s>" not in modelfile  # Ollama adds it; twice would be wrong


def test_k_types_that_fall_back_are_told(tmp_path: Path, tokenizer: Any) -> None:
    need("gguf")
    (target,) = parse(["gguf:q4_k_m"])
    notes = target.format.writer().write(tiny(tokenizer), tmp_path, "q4_k_m", PROVENANCE)
    assert "not one tensor is Q4_K" in notes[1]
    assert [f.name for f in tmp_path.iterdir() if f.suffix == ".gguf"] == ["tiny-q4_k_m.gguf"]


@pytest.mark.parametrize(
    ("name", "bits"), [("onnx:fp16", 16.1), ("onnx:int8", 9), ("onnx:int4", 5), ("onnx:int4e8", 9)]
)
def test_onnx_stores_the_tied_embedding_once(
    tmp_path: Path, tokenizer: Any, name: str, bits: float
) -> None:
    need(name)
    loaded = tiny(tokenizer)
    folder, _ = written(loaded, name, tmp_path / "copy")
    (file,) = (folder / "onnx").iterdir()
    # 140 kB: the tables of rotary positions and the graph itself
    assert file.stat().st_size < 32_768 * 32 * bits / 8 + 140_000
    assert (folder / "tokenizer.json").is_file() and not (folder / "model.safetensors").exists()


def test_onnx_has_the_names_that_transformers_js_reads_and_carries_its_origin(
    tmp_path: Path, tokenizer: Any
) -> None:
    need("onnx")
    import onnx

    folder, _ = written(tiny(tokenizer), "onnx:int8", tmp_path / "copy")
    model = onnx.load(folder / "onnx" / "model_quantized.onnx")
    names = [i.name for i in model.graph.input]
    assert names[:3] == ["input_ids", "attention_mask", "position_ids"]
    assert names[3:5] == ["past_key_values.0.key", "past_key_values.0.value"]
    assert [o.name for o in model.graph.output][:2] == ["logits", "present.0.key"]
    assert {p.key: p.value for p in model.metadata_props}["stentor.source_sha256"] == "abc123"
    kinds = {node.op_type for node in model.graph.node}
    assert "MatMulNBits" in kinds and "GatherBlockQuantized" not in kinds  # browsers lack it


def test_genai_carries_its_origin_and_the_models_decoding(tmp_path: Path, tokenizer: Any) -> None:
    need("genai")
    import onnx

    folder, _ = written(tiny(tokenizer), "genai:int8", tmp_path / "copy")
    config = json.loads((folder / "genai_config.json").read_text("utf-8"))
    stored = onnx.load(folder / "model.onnx").metadata_props
    assert {p.key: p.value for p in stored}["stentor.source_sha256"] == "abc123"
    assert config["model"]["eos_token_id"] == [2] and config["search"]["temperature"] == 0.9
    assert (folder / "tokenizer.json").is_file() and not (folder / "model.safetensors").exists()


def test_rows_that_do_not_fit_the_blocks_are_refused(tmp_path: Path, tokenizer: Any) -> None:
    need("onnx")
    loaded = LoadedModel(
        build_tiny_model(), tokenizer, SegmentTemplate(tokenizer), "tiny", {}
    )  # 48 wide inside
    with pytest.raises(InputError) as caught:
        written(loaded, "onnx:int8", tmp_path / "copy")
    assert str(caught.value) == (
        "onnx:int8: rows of 48 can't be cut into blocks of 32; take fp32 or fp16"
    )


def test_block_scales_lose_less_than_the_plain_choice() -> None:
    from stentor.export.onnx_blocks import quantise

    values = np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32)
    for bits in (4, 8):
        numbers, scales = quantise(values, bits, 32)
        half = 2 ** (bits - 1)
        assert numbers.min() >= 0 and numbers.max() < 2**bits
        back = (numbers.astype(np.float32) - half) * scales[..., None]
        loss = ((back.reshape(64, 64) - values) ** 2).mean()
        split = values.reshape(64, 2, 32)
        plain = np.abs(split).max(-1, keepdims=True) / (half - 1)
        usual = ((np.rint(split / plain) * plain - split) ** 2).mean()
        assert loss < usual
    zeros, scales = quantise(np.zeros((1, 32), np.float32), 4, 32)
    assert (zeros == 8).all() and np.isfinite(scales).all()


def test_every_default_type_has_limits() -> None:
    for found in FORMATS.values():
        assert set(found.default) <= set(found.tiers)
