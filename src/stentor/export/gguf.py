"""`gguf`: for llama.cpp, written through the `gguf` package and run by llama.cpp itself.

Scores and types of the pieces come from the SentencePiece model. Pieces that our template does
not use are written as unused, so that text which spells one stays text there too. The K types
are made by llama.cpp's own quantiser (cyllama); since it falls back where rows are no multiple
of 256, what each tensor really became is read from the file and told.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from stentor.errors import InputError
from stentor.export.format import Floats, Provenance, Runtime
from stentor.export.llama_cpp_runtime import plain_jinja
from stentor.export.piece_types import CONTROL, UNUSED, is_unused, special_ids

_BY_LLAMA_CPP = {"q4_k_m": 15, "q5_k_m": 17, "q6_k": 18}
"""Types that only llama.cpp's quantiser makes, with their numbers in its `llama_ftype`."""
_K_NAMES = {"q4_k_m": "Q4_K", "q5_k_m": "Q5_K", "q6_k": "Q6_K"}
_FILE_TYPES = {
    "f32": 0, "f16": 1, "q4_0": 2, "q4_0_all": 2, "q4_1": 3, "q8_0": 7, "q5_0": 8, "q5_1": 9,
    "bf16": 32,
}  # fmt: skip


def write(loaded: Any, folder: Path, kind: str, provenance: Provenance) -> list[str]:
    """`NAME-KIND.gguf` and an Ollama Modelfile."""
    file = folder / f"{provenance.name}-{kind}.gguf"
    if kind in _BY_LLAMA_CPP:
        source = folder / ".f32.gguf"
        _write_file(loaded, source, "f32", provenance)
        try:
            _quantise(source, file, kind)
        finally:
            source.unlink()
        types = _types(file)
    else:
        types = _write_file(loaded, file, kind, provenance)
    _write_modelfile(loaded, folder, file.name, provenance.licence)
    return _what_it_holds(types, kind)


def open_runtime(folder: Path, kind: str, *, threads: int = 0) -> Runtime:
    """llama.cpp, on the CPU."""
    from stentor.export.llama_cpp_runtime import LlamaCppRuntime

    return LlamaCppRuntime(next(folder.glob("*.gguf")), threads)


def _write_file(loaded: Any, file: Path, kind: str, provenance: Provenance) -> dict[str, str]:
    """Write a type of the `gguf` package; returns the type of each tensor."""
    import gguf

    config = loaded.model.config
    writer = gguf.GGUFWriter(file, "llama")
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_name(provenance.name)
    writer.add_license(provenance.licence)
    for key, value in provenance.metadata().items():
        writer.add_string(key, value)
    writer.add_file_type(_FILE_TYPES[kind])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(size)
    writer.add_value_length(size)
    writer.add_rope_dimension_count(size)
    writer.add_rope_freq_base(_rope_base(config))
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    _add_tokenizer(writer, loaded)
    _add_decoding(writer, loaded)
    types = {n: _add_tensor(writer, n, values, kind) for n, values in _tensors(loaded.model)}
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return types


def _rope_base(config: Any) -> float:
    """The base of the rotary frequencies, under its names in transformers 5 and 4."""
    parameters = getattr(config, "rope_parameters", None) or {}
    if parameters.get("rope_type", "default") != "default":
        raise InputError(f"gguf: rotary scaling {parameters['rope_type']!r} can't be written yet")
    base = parameters.get("rope_theta") or getattr(config, "rope_theta", None)
    return float(base or 10_000.0)


def _add_tokenizer(writer: Any, loaded: Any) -> None:
    tokens, scores, types = pieces(loaded.tokenizer)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores(scores)
    writer.add_token_types(types)
    tokenizer = loaded.tokenizer
    writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_unk_token_id(tokenizer.unk_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
    writer.add_add_space_prefix(True)
    writer.add_chat_template(plain_jinja(tokenizer.chat_template))


def pieces(tokenizer: Any) -> tuple[list[bytes], list[float], list[int]]:
    """Pieces, scores and types of our vocabulary, from the SentencePiece model."""
    from stentor import assets
    from stentor.model import tokenizer as tokenizers

    if not tokenizers.is_bundled(tokenizer):
        raise InputError(
            "gguf: only models with our vocabulary can be written; convert others with "
            "llama.cpp's convert_hf_to_gguf.py, from the folder of --to hf"
        )
    from sentencepiece import SentencePieceProcessor

    spm = SentencePieceProcessor(model_file=str(assets.path("tokenizer", "tokenizer.model")))
    count = spm.get_piece_size()
    ordinary = 1
    types = [
        2 if spm.is_unknown(i) else CONTROL if spm.is_control(i)
        else 6 if spm.is_byte(i) else UNUSED if spm.is_unused(i) else ordinary
        for i in range(count)
    ]  # fmt: skip
    special = special_ids(tokenizer)
    names = [spm.id_to_piece(i) for i in range(count)]
    for number, name in enumerate(names):
        if number not in special and is_unused(name, types[number]):
            types[number] = UNUSED
    return [n.encode() for n in names], [spm.get_score(i) for i in range(count)], types


def _add_decoding(writer: Any, loaded: Any) -> None:
    from stentor.generate.sampling import from_generation

    decoding = from_generation(loaded.generation)
    writer.add_sampling_temp(decoding.temperature)
    writer.add_sampling_top_p(decoding.top_p)
    writer.add_sampling_penalty_repeat(decoding.repetition_penalty)


def _tensors(model: Any) -> Iterator[tuple[str, Floats]]:
    """Names of llama.cpp and values; the head is left out where the embedding is the head."""
    config = model.config
    names = {
        "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
    }  # fmt: skip
    state: Mapping[str, Any] = model.state_dict()

    def values(name: str) -> Floats:
        found: Floats = state[name].float().cpu().numpy()
        return found

    yield "token_embd.weight", values("model.embed_tokens.weight")
    for layer in range(config.num_hidden_layers):
        for theirs, ours in names.items():
            found = values(f"model.layers.{layer}.{theirs}.weight")
            if theirs.endswith("q_proj"):
                found = _interleaved(found, config.num_attention_heads)
            elif theirs.endswith("k_proj"):
                found = _interleaved(found, config.num_key_value_heads)
            yield f"blk.{layer}.{ours}.weight", found
    yield "output_norm.weight", values("model.norm.weight")
    if not config.tie_word_embeddings:
        yield "output.weight", values("lm_head.weight")


def _interleaved(weight: Floats, heads: int) -> Floats:
    """Rows (heads · size, in) from transformers' rotary order, halves, to llama.cpp's, pairs."""
    size = weight.shape[0] // heads
    split = weight.reshape(heads, 2, size // 2, weight.shape[1])
    return np.ascontiguousarray(split.swapaxes(1, 2).reshape(weight.shape))


def _add_tensor(writer: Any, name: str, values: Floats, kind: str) -> str:
    import gguf

    if values.ndim == 1 or kind == "f32":
        writer.add_tensor(name, values)
        return "F32"
    wanted = kind.removesuffix("_all")
    if kind in ("q4_0", "q4_1", "q5_0", "q5_1") and name in ("token_embd.weight", "output.weight"):
        wanted = "q8_0"  # llama.cpp's quantiser does so too: a shared embedding is also the head
    quantised = gguf.GGMLQuantizationType[wanted.upper()]
    block = gguf.GGML_QUANT_SIZES[quantised][0]
    if values.shape[-1] % block:
        quantised = gguf.GGMLQuantizationType.F16
    writer.add_tensor(name, gguf.quants.quantize(values, quantised), raw_dtype=quantised)
    return str(quantised.name)


def _quantise(source: Path, file: Path, kind: str) -> None:
    from stentor.export.llama_cpp_runtime import module

    llama_cpp = module()
    settings = llama_cpp.LlamaModelQuantizeParams()
    settings.ftype = _BY_LLAMA_CPP[kind]
    settings.nthread = 1
    llama_cpp.model_quantize(str(source), str(file), settings)


def _types(file: Path) -> dict[str, str]:
    import gguf

    return {str(t.name): str(t.tensor_type.name) for t in gguf.GGUFReader(file).tensors}


def _what_it_holds(types: Mapping[str, str], kind: str) -> list[str]:
    """The real type of every tensor, by its place in a layer, and a word about a fallback."""
    places: dict[str, Counter[str]] = {}
    for name, found in types.items():
        place = name.removesuffix(".weight").rpartition(".")[2]
        places.setdefault(place, Counter())[found] += 1
    notes = [
        f"tensors: {_counted(Counter(types.values()))} "
        f"({'; '.join(f'{place} {_counted(found)}' for place, found in places.items())})"
    ]
    wanted = _K_NAMES.get(kind)
    if wanted and wanted not in types.values():
        notes.append(
            f"not one tensor is {wanted}: its blocks hold 256 numbers, and the rows of this model "
            "are no multiple of that, so llama.cpp took other types without saying so"
        )
    return notes


def _counted(types: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in types.most_common())


def _write_modelfile(loaded: Any, folder: Path, name: str, licence: str) -> None:
    """For `ollama create NAME -f Modelfile`; Ollama adds the first token by itself."""
    from stentor.generate.sampling import from_generation
    from stentor.model import tokenizer as t

    decoding = from_generation(loaded.generation)
    template = (
        f"{{{{ if .System }}}}{t.SYSTEM}{{{{ .System }}}}{t.SYSTEM_END}{{{{ end }}}}"
        f'{{{{ range .Messages }}}}{{{{ if eq .Role "user" }}}}{t.USER}{{{{ .Content }}}}'
        f'{t.USER_END}{{{{ else if eq .Role "assistant" }}}}{{{{ .Content }}}}{t.EOS}'
        "{{ end }}{{ end }}"
    )
    lines = [f"FROM ./{name}", f'TEMPLATE """{template}"""', f'LICENSE """{licence}"""']
    if system := loaded.generation.get("system"):
        lines.append(f'SYSTEM """{system}"""')
    lines += [
        f"PARAMETER temperature {decoding.temperature}",
        f"PARAMETER top_p {decoding.top_p}",
        f"PARAMETER repeat_penalty {decoding.repetition_penalty}",
        f"PARAMETER num_predict {decoding.max_new_tokens}",
        f"PARAMETER num_ctx {loaded.window}",
        f"PARAMETER stop {json.dumps(t.EOS)}",
    ]
    (folder / "Modelfile").write_text("\n".join(lines) + "\n", encoding="utf-8")
