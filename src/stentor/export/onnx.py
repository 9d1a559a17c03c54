"""`onnx`: for ONNX Runtime and transformers.js.

The folder is laid out as transformers.js wants it: configuration and tokenizer, and the model in
`onnx/` under the name of its type, one file with all weights inside.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stentor.errors import InputError, MissingExtra
from stentor.export.chat_files import FolderTokenizer, write_model_folder
from stentor.export.format import Floats, Provenance, Runtime
from stentor.export.onnx_graph import Matrix, Plain, build

_FILES = {
    "fp32": "model.onnx", "fp16": "model_fp16.onnx", "int8": "model_quantized.onnx",
    "int4": "model_q4.onnx", "int4e8": "model_q4.onnx",
}  # fmt: skip
BLOCK = 32
_BITS = {"int8": (8, 8), "int4": (4, 4), "int4e8": (4, 8)}
"""Of the layers' matrices, and of the embedding and the head; docs/exports.md has the curves."""
_BATCH = 16  # rows at once: the logits of their prompts are the largest thing in memory


def write(loaded: Any, folder: Path, kind: str, provenance: Provenance) -> list[str]:
    """The model in `onnx/`, with the tied embedding stored once."""
    write_model_folder(loaded, folder, "f16", provenance, weights=False)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["transformers.js_config"] = {"kv_cache_dtype": {"fp16": "float32", "q4": "float32"}}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    file = folder / "onnx" / _FILES[kind]
    size = stamped(draw(loaded.model, kind), file, provenance)
    return [f"{file.name} holds {size / 1e6:.1f} MB"]


def stamped(model: Any, file: Path, provenance: Provenance) -> int:
    """Write a checked ONNX model with its origin in its metadata; returns its size in bytes."""
    import onnx

    for key, value in (provenance.metadata() | {"licence": provenance.licence}).items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value
    onnx.checker.check_model(model)
    file.parent.mkdir(exist_ok=True)
    onnx.save(model, str(file))
    return file.stat().st_size


def draw(model: Any, kind: str, *, browser: bool = False) -> Any:
    """The ONNX model of a Llama in one of the types.

    `browser`: blocks are widened when the session is made, since onnxruntime-web has no fast
    product with them, and the graph takes `num_logits_to_keep` (0: all), so that a prompt does
    not cost the head at each of its places.
    """
    from stentor.export.onnx_blocks import Blocks, WidenedBlocks

    config = model.config
    bits = _BITS.get(kind)
    uneven = [n for n in (config.hidden_size, config.intermediate_size) if n % BLOCK]
    if bits and uneven:
        raise InputError(
            f"onnx:{kind}: rows of {uneven[0]} can't be cut into blocks of {BLOCK}; take fp32 or "
            "fp16"
        )

    def matrix(name: str, values: Floats) -> Matrix:
        if bits:
            blocks = WidenedBlocks if browser else Blocks
            return blocks(name, values, bits=bits[name in ("embedding", "head")], block=BLOCK)
        return Plain(name, values, half=kind == "fp16")

    return build(config, *stored(model, matrix), turns(model), keep=browser)


def stored(
    model: Any, matrix: Callable[[str, Floats], Matrix]
) -> tuple[dict[str, Matrix], dict[str, Floats]]:
    """The matrices of a Llama, as `matrix(name, values)` makes them, and the vectors of its norms.

    Matrices that have the same input are joined; a tied embedding and head are one.
    """
    state, config = model.state_dict(), model.config

    def values(*names: str) -> Floats:
        found: Floats = np.concatenate([state[n].float().cpu().numpy() for n in names])
        return found

    embedding = matrix("embedding", values("model.embed_tokens.weight"))
    tied = config.tie_word_embeddings
    weights = {
        "embedding": embedding,
        "head": embedding if tied else matrix("head", values("lm_head.weight")),
    }
    vectors = {"norm": values("model.norm.weight")}
    for layer in range(config.num_hidden_layers):
        theirs, ours = f"model.layers.{layer}.", f"layers.{layer}."
        for name, parts in {
            "qkv": [f"self_attn.{p}_proj.weight" for p in "qkv"],
            "out": ["self_attn.o_proj.weight"],
            "gate_up": ["mlp.gate_proj.weight", "mlp.up_proj.weight"],
            "down": ["mlp.down_proj.weight"],
        }.items():
            weights[ours + name] = matrix(ours + name, values(*(theirs + p for p in parts)))
        vectors[f"{ours}norm1"] = values(f"{theirs}input_layernorm.weight")
        vectors[f"{ours}norm2"] = values(f"{theirs}post_attention_layernorm.weight")
    return weights, vectors


def turns(model: Any) -> Floats:
    """Cosines and sines (2, positions, size) of the model's own rotary frequencies."""
    import torch

    rotary = model.model.rotary_emb
    places = torch.arange(model.config.max_position_embeddings)[:, None].float()
    angles = places * rotary.inv_freq.float().cpu()
    both = torch.cat([angles, angles], dim=-1)
    turns = torch.stack([both.cos(), both.sin()]) * rotary.attention_scaling
    found: Floats = turns.numpy()
    return found


def open_runtime(folder: Path, kind: str, *, threads: int = 0) -> Runtime:
    """ONNX Runtime, on the CPU."""
    return OnnxRuntime(folder, _FILES[kind], threads)


class OnnxRuntime(FolderTokenizer):
    """A file in ONNX Runtime; batches are padded on the left."""

    def __init__(self, folder: Path, file: str, threads: int) -> None:
        try:
            import onnxruntime
        except ImportError:
            raise MissingExtra("onnxruntime", "onnx", "running an ONNX model") from None
        super().__init__(folder)
        self.name = f"ONNX Runtime {onnxruntime.__version__}"
        settings = onnxruntime.SessionOptions()
        settings.log_severity_level = 3
        settings.intra_op_num_threads = threads
        self._session = onnxruntime.InferenceSession(
            str(folder / "onnx" / file), settings, providers=["CPUExecutionProvider"]
        )
        names = [i for i in self._session.get_inputs() if i.name.startswith("past_")]
        self._pasts = [(i.name, int(i.shape[1]), int(i.shape[3])) for i in names]
        self._settings = json.loads((folder / "generation_config.json").read_text("utf-8"))

    def _step(self, ids: Any, mask: Any, places: Any, pasts: Sequence[Any]) -> list[Any]:
        feeds = {"input_ids": ids, "attention_mask": mask, "position_ids": places}
        feeds |= {name: past for (name, _, _), past in zip(self._pasts, pasts, strict=True)}
        found: list[Any] = self._session.run(None, feeds)
        return found

    def _empty(self, rows: int) -> list[Any]:
        return [np.zeros((rows, heads, 0, size), np.float32) for _, heads, size in self._pasts]

    def logits(self, ids: Sequence[int]) -> Floats:
        row = np.array([ids], np.int64)
        places = np.arange(len(ids), dtype=np.int64)[None]
        found: Floats = self._step(row, np.ones_like(row), places, self._empty(1))[0][0]
        return found

    def greedy(self, prompts: Sequence[Sequence[int]], count: int) -> list[list[int]]:
        stops = self._settings["eos_token_id"]
        ending = set(stops if isinstance(stops, list) else [stops])
        found: list[list[int]] = []
        for start in range(0, len(prompts), _BATCH):
            found += greedy_batch(self._step, self._empty, prompts[start:][:_BATCH], count, ending)
        return found

    def close(self) -> None:
        del self._session


def greedy_batch(
    step: Callable[..., list[Any]],
    empty: Callable[[int], list[Any]],
    prompts: Sequence[Sequence[int]],
    count: int,
    stops: set[int],
) -> list[list[int]]:
    """Greedy replies of a left-padded batch; a row that has ended is carried along, unread."""
    rows, longest = len(prompts), max(map(len, prompts))
    ids = np.zeros((rows, longest), np.int64)
    mask = np.zeros((rows, longest), np.int64)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = prompt
        mask[row, longest - len(prompt) :] = 1
    places = np.maximum(mask.cumsum(axis=-1) - 1, 0)
    replies: list[list[int]] = [[] for _ in prompts]
    open_rows = set(range(rows))
    pasts = empty(rows)
    while open_rows:
        logits, *pasts = step(ids, mask, places, pasts)
        ids = logits[:, -1].argmax(axis=-1)[:, None].astype(np.int64)
        places = places[:, -1:] + 1
        mask = np.concatenate([mask, np.ones_like(ids)], axis=-1)
        for row in list(open_rows):
            replies[row].append(int(ids[row, 0]))
            if replies[row][-1] in stops or len(replies[row]) == count:
                open_rows.remove(row)
    return replies
