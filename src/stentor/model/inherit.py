"""Start an embedding from that of a larger model with another vocabulary.

Each of our pieces takes the vector of the same string there, or the mean of the vectors of the
parts it falls into; the vectors are reduced to our width by principal components. What was
inherited is named in the provenance of the model.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from stentor.errors import MissingExtra, ModelError
from stentor.model.find import find_gguf


def inherited_embedding(donor: str, tokenizer: Any, width: int, *, std: float = 0.02) -> Tensor:
    """(vocabulary, width) embedding from `donor`, a GGUF file or the name of a package's model.

    Scaled so that its root mean square is `std`, the usual random start.
    """
    weight, donor_tokenizer = donor_embedding(donor)
    if width > weight.shape[1]:
        raise ModelError(
            f"{donor}: its embedding is {weight.shape[1]} wide; {width} can't be inherited from it"
        )
    vectors = torch.empty(len(tokenizer), weight.shape[1])
    mean = weight.mean(dim=0)
    for number in range(len(tokenizer)):
        parts = _parts(tokenizer, number, donor_tokenizer)
        vectors[number] = weight[parts].mean(dim=0) if parts else mean
    vectors -= vectors.mean(dim=0)
    _, _, directions = torch.linalg.svd(vectors, full_matrices=False)
    reduced = vectors @ directions[:width].T
    scaled: Tensor = reduced * (std / reduced.pow(2).mean().sqrt())
    return scaled


def _parts(tokenizer: Any, number: int, donor_tokenizer: Any) -> list[int]:
    """The donor's ids for the text of our piece `number`; none for control pieces and bytes."""
    piece = tokenizer.convert_ids_to_tokens(number)
    if number < 771 or (piece.startswith("<0x") and piece.endswith(">")):
        return []
    text = piece.replace("▁", " ")
    ids: list[int] = donor_tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def donor_embedding(donor: str) -> tuple[Tensor, Any]:
    """The embedding (pieces, width) and the tokenizer of `donor`: a GGUF file or the name of a
    package's model. ModelError where it can't be read."""
    path = find_gguf(donor)
    try:
        import gguf
    except ImportError:
        raise MissingExtra("gguf", "gguf", "reading a GGUF file") from None
    from transformers import AutoTokenizer

    try:
        tensors = gguf.GGUFReader(path).tensors
    except (OSError, ValueError, IndexError) as error:
        raise ModelError(f"{path}: the GGUF file can't be read: {error}") from error
    for tensor in tensors:
        if tensor.name == "token_embd.weight":
            values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
            donor_tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
            return torch.from_numpy(values.copy()).float(), donor_tokenizer
    raise ModelError(f"{path}: there is no tensor token_embd.weight in it")
