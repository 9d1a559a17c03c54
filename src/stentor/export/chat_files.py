"""Tokenizer files as a copy's folder holds them, read back as other programs read them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stentor.export.format import Message, Provenance


class FolderTokenizer:
    """The tokenizer and template of a copy's folder, through `transformers`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._loaded: Any = None  # importing transformers takes longer than opening a model

    def ids(self, messages: Sequence[Message]) -> list[int]:
        """As `apply_chat_template` gives them: text that spells a control piece becomes one."""
        found = self._tokenizer().apply_chat_template(
            list(messages), tokenize=True, return_dict=True
        )
        return list(found["input_ids"])

    def _tokenizer(self) -> Any:
        if self._loaded is None:
            from transformers import AutoTokenizer

            self._loaded = AutoTokenizer.from_pretrained(self._folder, trust_remote_code=False)
        return self._loaded


def write_model_folder(
    loaded: Any, folder: Path, kind: str, provenance: Provenance, *, weights: bool = True
) -> None:
    """Weights (`f16`, `f32`), configuration, tokenizer and generation settings into `folder`."""
    import torch

    from stentor import assets
    from stentor.export.piece_types import retyped
    from stentor.generate.sampling import from_generation
    from stentor.model import tokenizer as tokenizers
    from stentor.model.save import save_model

    decoding = from_generation(loaded.generation)
    generation = {
        "do_sample": decoding.temperature > 0,
        "temperature": decoding.temperature,
        "top_p": decoding.top_p,
        "repetition_penalty": decoding.repetition_penalty,
        "max_new_tokens": decoding.max_new_tokens,
    } | {k: v for k, v in loaded.generation.items() if not k.endswith("token_id")}
    inner = folder / ".model"
    dtype = torch.float32 if kind == "f32" else torch.float16
    save_model(loaded.model, loaded.tokenizer, inner, dtype=dtype, generation=generation)
    if tokenizers.is_bundled(loaded.tokenizer):
        # a checkpoint without this file has our vocabulary all the same, and llama.cpp's
        # converter is silently wrong without it; it takes the types of the pieces from there
        model = assets.path("tokenizer", "tokenizer.model").read_bytes()
        (inner / "tokenizer.model").write_bytes(retyped(model, loaded.tokenizer))
    if weights:
        stamp_safetensors(inner / "model.safetensors", provenance)
    else:
        (inner / "model.safetensors").unlink()
    for file in inner.iterdir():
        file.rename(folder / file.name)
    inner.rmdir()


def stamp_safetensors(file: Path, provenance: Provenance) -> None:
    """Write licence, source hash and command into the header of a safetensors file."""
    from safetensors import safe_open
    from safetensors.torch import save_file

    with safe_open(file, "pt") as stored:
        metadata = stored.metadata() or {}
        tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
    mode = file.stat().st_mode
    save_file(tensors, file, metadata=metadata | provenance.metadata())
    file.chmod(mode)  # safetensors writes files that nobody else can read
