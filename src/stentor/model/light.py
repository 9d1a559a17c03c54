"""What decoding needs of a model besides its weights, read without torch or transformers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from stentor.chat import SegmentTemplate, Template
from stentor.model import tokenizer as tokenizers
from stentor.model.find import check_hash, generation_of, read_json
from stentor.model.pieces import Pieces


class ChatModel(Protocol):
    """A model as decoding sees it; `load.LoadedModel` is one."""

    @property
    def tokenizer(self) -> Any: ...

    @property
    def template(self) -> Template: ...

    @property
    def origin(self) -> str: ...

    @property
    def generation(self) -> dict[str, Any]: ...


@dataclass(frozen=True)
class LightModel:
    """A model without its weights."""

    tokenizer: Any
    template: Template
    origin: str
    """Where it was loaded from."""
    generation: dict[str, Any]
    """Decoding defaults saved with it; `system` is the model's system prompt."""
    window: int


def read(folder: Path) -> LightModel | None:
    """The model of a folder, or None when only `load` can tell what it is.

    It can be told here when it is a Llama in one safetensors file whose tokenizer holds the
    control pieces of our template; others need the libraries that they were made with.
    """
    if not (folder / "config.json").is_file():
        return None
    config = read_json(folder / "config.json")
    pieces = tokenizers.place(folder)
    wanted = [pieces / name for name in ("tokenizer.json", "tokenizer_config.json")]
    if config.get("model_type") != "llama" or not (folder / "model.safetensors").is_file():
        return None
    if not all(file.is_file() for file in wanted) or (folder / "adapter_config.json").is_file():
        return None
    if read_json(wanted[1]).get("clean_up_tokenization_spaces") is not False:
        return None
    check_hash(folder)
    tokenizer = Pieces(pieces)
    if not tokenizers.is_ours(tokenizer) or config.get("vocab_size") != len(tokenizer):
        return None
    return LightModel(
        tokenizer, SegmentTemplate(tokenizer), str(folder), generation_of(folder),
        int(config["max_position_embeddings"]),
    )  # fmt: skip


def size(folder: Path) -> int:
    """About how many bytes the folder's weights take in fp32."""
    stored = (folder / "model.safetensors").stat().st_size
    config = read_json(folder / "config.json")
    kind = config.get("dtype") or config.get("torch_dtype")
    return stored if kind == "float32" else 2 * stored
