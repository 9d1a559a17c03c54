"""The tokenizer: 32,768 pieces of the Mistral v3 SentencePiece model, Apache-2.0.

`transformers` converts such a model by the order of its vocabulary and so gets every run of
two or more spaces wrong (the pieces of white space have a score of -1e9 there). `build` orders
the merges by score, as SentencePiece itself does, and keeps the dummy prefix after every
control piece, as llama.cpp and mistral-common do. Repeat the bundled files with

    python -m stentor.model.tokenizer PATH/TO/mistral_instruct_tokenizer_240323.model.v3 OUT
"""

from __future__ import annotations

import json
import shutil
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from stentor import assets
from stentor.errors import MissingExtra, ModelError

if TYPE_CHECKING:  # decoding knows our control pieces without these libraries
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

BOS: Final = "<s>"
EOS: Final = "</s>"
UNK: Final = "<unk>"
USER: Final = "[INST]"
USER_END: Final = "[/INST]"
# Pieces that the vocabulary reserves; no text can produce them.
SYSTEM: Final = "[control_12]"
SYSTEM_END: Final = "[control_13]"
PAD: Final = "[control_14]"
DECISIONS: Final = ("[control_15]", "[control_16]", "[control_17]")
"""Before a reply, where the model has learned it: refusal, support or answer."""
CONTROL_PIECES = (UNK, BOS, EOS, USER, USER_END, SYSTEM, SYSTEM_END, PAD, *DECISIONS)

_NORMAL = 1  # the type of an ordinary piece in SentencePiece's ModelProto
_SPACE = "▁"  # SentencePiece's mark for a space


def build(spm_file: Path) -> Tokenizer:
    """The fast tokenizer with exactly the ids of the SentencePiece model in `spm_file`."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers

    try:
        from sentencepiece import sentencepiece_model_pb2
    except ImportError:
        raise MissingExtra("sentencepiece", "tokenizer", "building a tokenizer") from None
    proto = sentencepiece_model_pb2.ModelProto()
    proto.ParseFromString(spm_file.read_bytes())
    vocabulary = {piece.piece: number for number, piece in enumerate(proto.pieces)}
    scores = {p.piece: p.score for p in proto.pieces if p.type == _NORMAL}
    merges = []
    for piece, score in scores.items():
        for cut in range(1, len(piece)):
            left, right = piece[:cut], piece[cut:]
            if left in scores and right in scores:
                rank = (-score, vocabulary[piece], vocabulary[left], vocabulary[right])
                merges.append((rank, (left, right)))
    merges.sort()
    tokenizer = Tokenizer(
        models.BPE(
            vocab=vocabulary,
            merges=[pair for _, pair in merges],
            unk_token=UNK,
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend(_SPACE), normalizers.Replace(" ", _SPACE)]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace(_SPACE, " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(content=" ", left=1),
        ]
    )
    tokenizer.add_special_tokens(
        [AddedToken(piece, normalized=False, special=True) for piece in CONTROL_PIECES]
    )
    # The model's 20 user-defined pieces ([REFERENCE_DOC_0] …) are left out on purpose: text
    # that spells one stays text, and comes back unchanged.
    return tokenizer


def save(tokenizer: Tokenizer, spm_file: Path, out: Path, chat_template: str) -> None:
    """Write `tokenizer.json`, its configuration and the SentencePiece model to folder `out`."""
    out.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(out / "tokenizer.json"))
    config = {
        # The name that transformers 4 knows too; the template stands here and not in a
        # file of its own, because transformers.js reads it only from here.
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BOS,
        "eos_token": EOS,
        "unk_token": UNK,
        "pad_token": PAD,
        "model_max_length": 512,
        "padding_side": "left",
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
        "chat_template": chat_template,
    }
    text = json.dumps(config, indent=2, ensure_ascii=False)
    (out / "tokenizer_config.json").write_text(text + "\n", encoding="utf-8")
    if spm_file.resolve() != (out / "tokenizer.model").resolve():
        shutil.copyfile(spm_file, out / "tokenizer.model")


def place(folder: Path) -> Path:
    """The folder whose tokenizer a model folder has: the bundled one's when it brings none."""
    if not (folder / "tokenizer.json").exists() and not (folder / "tokenizer.model").exists():
        return assets.path("tokenizer")
    return folder


@cache
def bundled() -> PreTrainedTokenizerFast:
    """The tokenizer that ships with the package, shared by all presets."""
    return load(assets.path("tokenizer"))


def load(folder: Path) -> PreTrainedTokenizerFast:
    """The tokenizer of a model folder; the bundled one when the folder has none of its own."""
    folder = place(folder)
    try:
        from transformers import AutoTokenizer, PreTrainedTokenizerFast

        if (folder / "tokenizer_config.json").exists():
            return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        return PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    except Exception as error:  # the Rust side raises bare exceptions for a damaged file
        raise ModelError(f"{folder}: the tokenizer can't be loaded: {error}") from error


def is_bundled(tokenizer: Any) -> bool:
    """Whether the tokenizer is the one of our own bases (the vocabulary tells)."""
    return len(tokenizer) == 32_768 and is_ours(tokenizer)


DELIMITERS: Final = (USER, USER_END, SYSTEM, SYSTEM_END)


def is_ours(tokenizer: Any) -> bool:
    """Whether the tokenizer holds the delimiters of our template, at one id each."""
    unknown = tokenizer.unk_token_id
    ids = [tokenizer.convert_tokens_to_ids(piece) for piece in DELIMITERS]
    known = all(i is not None and i != unknown for i in ids)
    return known and tokenizer.eos_token_id is not None


def put_on(tokenizer: Any, chat_template: str) -> None:
    """Add our pieces to a foreign tokenizer, as special tokens, and our template."""
    if tokenizer.eos_token_id is None:
        raise ModelError("the tokenizer has no stop token (eos), which our template needs")
    tokenizer.add_special_tokens(
        {"additional_special_tokens": [*DELIMITERS, *DECISIONS]}, replace_extra_special_tokens=False
    )
    tokenizer.chat_template = chat_template


if __name__ == "__main__":
    from stentor.chat import JINJA

    save(build(Path(sys.argv[1])), Path(sys.argv[1]), Path(sys.argv[2]), JINJA)
