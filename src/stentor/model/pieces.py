"""A tokenizer.json by itself: what decoding needs of a tokenizer, without transformers.

It answers to the names that transformers uses, as far as they are asked for here.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stentor.errors import ModelError
from stentor.model.find import read_json


class Pieces:
    """The tokenizer of a folder. Text that spells a control piece stays text."""

    def __init__(self, folder: Path) -> None:
        from tokenizers import Tokenizer

        config = read_json(folder / "tokenizer_config.json")
        try:
            self.backend_tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        except Exception as error:  # the Rust side raises bare exceptions for a damaged file
            raise ModelError(f"{folder}: the tokenizer can't be loaded: {error}") from error
        self.backend_tokenizer.encode_special_tokens = True
        self.backend_tokenizer.no_truncation()
        self.backend_tokenizer.no_padding()
        self.bos_token_id = self._named(config, "bos_token")
        self.eos_token_id = self._named(config, "eos_token")
        self.unk_token_id = self._named(config, "unk_token")

    def _named(self, config: dict[str, Any], name: str) -> int | None:
        piece = config.get(name)
        piece = piece.get("content") if isinstance(piece, dict) else piece
        return None if piece is None else self.backend_tokenizer.token_to_id(piece)

    def __len__(self) -> int:
        return int(self.backend_tokenizer.get_vocab_size(with_added_tokens=True))

    def __call__(self, text: str, **options: Any) -> dict[str, list[int]]:
        """The ids of a text, without control pieces around it or in it."""
        return {"input_ids": self.backend_tokenizer.encode(text, add_special_tokens=False).ids}

    def convert_tokens_to_ids(self, piece: str) -> int | None:
        found: int | None = self.backend_tokenizer.token_to_id(piece)
        return self.unk_token_id if found is None else found

    def convert_ids_to_tokens(self, number: int) -> str | None:
        found: str | None = self.backend_tokenizer.id_to_token(number)
        return found

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        text: str = self.backend_tokenizer.decode(
            list(ids), skip_special_tokens=skip_special_tokens
        )
        return text
