"""`hf`: a folder that transformers 4 and 5 load, and that llama.cpp's own converter gets right.

The template stands in the tokenizer's configuration, `tokenizer.model` beside `tokenizer.json`
(without it the converter guesses scores and types of the pieces, without an error; see
`piece_types` for those that we don't use), and the generation settings hold the stop token, the
system prompt and the decoding.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stentor.export.chat_files import write_model_folder
from stentor.export.format import Provenance, Runtime


def write(loaded: Any, folder: Path, kind: str, provenance: Provenance) -> list[str]:
    """Weights in F16 or F32, configuration, tokenizer."""
    write_model_folder(loaded, folder, kind, provenance)
    if not (folder / "tokenizer.model").is_file():
        return ["no tokenizer.model: its tokenizer is not SentencePiece's"]
    return []


def open_runtime(folder: Path, kind: str, *, threads: int = 0) -> Runtime:
    """transformers, on the CPU."""
    from stentor.export.torch_runtime import TorchRuntime

    return TorchRuntime(folder, threads)
