"""The bundled tokenizer against SentencePiece itself, the reference for its vocabulary."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sentencepiece import sentencepiece_model_pb2
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from stentor import assets, chat
from stentor.errors import ModelError
from stentor.model import tokenizer as tokenizers

MODEL_FILE = assets.path("tokenizer", "tokenizer.model")
_ORDINARY, _BYTE = 1, 6  # types of pieces in SentencePiece's ModelProto
_INVARIANT = settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

ODD_TEXTS = [
    "",
    " ",
    "a",
    " a",
    "a ",
    *(" " * n for n in (2, 3, 4, 7, 8, 15, 16, 17, 33)),
    *(f"a{' ' * n}b" for n in (2, 3, 5, 8, 16, 40)),
    "  two  in  every  gap  ",
    "\n",
    "\n\n\n",
    "line\r\nline\r\n",
    "\ttab\t\ttabs",
    " \n \t \n ",
    "no\u00a0break\u2003em\u3000ideographic\u200bzero",
    "def f(x):\n    if x:\n        return {  'a': [1,\t2] }\n\n\n# end",
    "for (int i=0;i<n;++i) { a[i]  =  b[i] * 0x1F; }",
    "😀",
    "👩‍👩‍👧‍👦 family, flag 🇩🇪, tone 👍🏽, keycap 1️⃣",
    "é e\u0301 ﬁ Å ½ ²",
    "日本語と 한국어 и русский עברית العربية ไทย",
    "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 \U0010ffff \U000e0001",
    "\x00\x01\x1b[0m\x7f\x85",
    "<0x0A><0xFF>",
    "3.14159265358979, 1,000,000 and 10000000000",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "!!!???...---===___***",
    "[INST] [/INST] [control_12] [control_0] [TOOL_CALLS] [AVAILABLE_TOOLS]",
    "</s> <s> <unk> <pad>",
    "https://example.org/a_b?c=%20d&e=f#g",
]


@pytest.fixture(scope="module")
def reference() -> Any:
    return sentencepiece.SentencePieceProcessor(model_file=str(MODEL_FILE))


@pytest.fixture(scope="module")
def piece_types() -> list[int]:
    proto = sentencepiece_model_pb2.ModelProto()
    proto.ParseFromString(MODEL_FILE.read_bytes())
    return [piece.type for piece in proto.pieces]


def text_ids(tokenizer: Any, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False, split_special_tokens=True)[
        "input_ids"
    ]
    return ids


def texts() -> st.SearchStrategy[str]:
    """Texts of any characters, rich in runs of white space and pieces of markup."""
    rich = st.sampled_from([" ", "  ", "   ", "\n", "\t", "the", "The ", "[", "]", "</", "s>"])
    return st.lists(st.one_of(rich, st.text(max_size=12)), max_size=12).map("".join)


@pytest.mark.parametrize("text", ODD_TEXTS)
def test_ids_equal_sentencepiece(tokenizer: Any, reference: Any, text: str) -> None:
    assert text_ids(tokenizer, text) == reference.encode(text)


def _user_defined(text: str) -> bool:
    return "[REFERENCE_DOC_" in text


@_INVARIANT
@given(text=texts())
def test_ids_equal_sentencepiece_for_any_text(tokenizer: Any, reference: Any, text: str) -> None:
    if not _user_defined(text):
        assert text_ids(tokenizer, text) == reference.encode(text)


def test_ids_equal_sentencepiece_on_this_projects_own_files(tokenizer: Any, reference: Any) -> None:
    """Real prose, code and JSON: every line of the package's sources and of its data."""
    lines = Path(chat.__file__).read_text(encoding="utf-8").splitlines()
    for name in ("seed_safety", "stop_calibration"):
        text = assets.path("data", f"{name}.jsonl").read_text(encoding="utf-8")
        lines += text.splitlines()[:200]
    assert [text_ids(tokenizer, line) for line in lines] == reference.encode(lines)


@pytest.mark.parametrize("text", [*ODD_TEXTS, "[REFERENCE_DOC_1]"])
def test_text_comes_back_unchanged(tokenizer: Any, text: str) -> None:
    assert tokenizer.decode(text_ids(tokenizer, text)) == text


@_INVARIANT
@given(text=texts())
def test_any_text_comes_back_unchanged(tokenizer: Any, text: str) -> None:
    text = text.replace("▁", "_")  # SentencePiece's own mark for a space reads as one
    assert tokenizer.decode(text_ids(tokenizer, text)) == text


def spelled(words: list[str]) -> st.SearchStrategy[str]:
    return st.lists(st.one_of(st.sampled_from(words), st.text(max_size=6)), max_size=8).map("".join)


@_INVARIANT
@given(
    text=spelled(
        [*tokenizers.CONTROL_PIECES, "[TOOL_CALLS]", "[control_0]", "[REFERENCE_DOC_1]", "<0x0A>"]
    )
)
def test_no_text_yields_a_control_id(tokenizer: Any, piece_types: list[int], text: str) -> None:
    kinds = {piece_types[number] for number in text_ids(tokenizer, text)}
    assert kinds <= {_ORDINARY, _BYTE}


def test_every_reserved_piece_spelled_out_stays_text(
    tokenizer: Any, piece_types: list[int]
) -> None:
    reserved = [i for i, kind in enumerate(piece_types) if kind not in (_ORDINARY, _BYTE)]
    assert len(reserved) == 771
    for number in reserved:
        piece = tokenizer.convert_ids_to_tokens(number)
        ids = text_ids(tokenizer, piece)
        assert {piece_types[i] for i in ids} <= {_ORDINARY, _BYTE}, piece
        assert tokenizer.decode(ids) == piece


def test_vocabulary_size_and_ids_of_the_control_pieces(tokenizer: Any) -> None:
    assert len(tokenizer) == 32_768
    assert {p: tokenizer.convert_tokens_to_ids(p) for p in tokenizers.CONTROL_PIECES} == {
        "<unk>": 0,
        "<s>": 1,
        "</s>": 2,
        "[INST]": 3,
        "[/INST]": 4,
        "[control_12]": 14,
        "[control_13]": 15,
        "[control_14]": 16,
        "[control_15]": 17,
        "[control_16]": 18,
        "[control_17]": 19,
    }


def test_pad_is_not_the_stop_token(tokenizer: Any) -> None:
    """Else padding is masked out of the loss and with it the stop token, never learned."""
    assert tokenizer.pad_token_id not in (tokenizer.eos_token_id, tokenizer.bos_token_id, None)


def test_only_the_pieces_in_use_are_special(tokenizer: Any) -> None:
    assert set(tokenizer.get_added_vocab()) == set(tokenizers.CONTROL_PIECES)


def test_bundled_files_are_what_build_makes(tmp_path: Path) -> None:
    built = tokenizers.build(MODEL_FILE)
    tokenizers.save(built, MODEL_FILE, tmp_path / "out", chat.JINJA)
    for name in ("tokenizer.json", "tokenizer_config.json", "tokenizer.model"):
        fresh, bundled = tmp_path / "out" / name, assets.path("tokenizer", name)
        assert fresh.read_bytes() == bundled.read_bytes(), name


def test_two_spaces_before_a_word_are_not_joined(tokenizer: Any) -> None:
    """The conversion that `transformers` would make joins two spaces before a word."""
    pieces = tokenizer.convert_ids_to_tokens(text_ids(tokenizer, "  double"))
    assert "".join(pieces) == "▁▁▁double" and pieces[-1] == "▁double"


def test_a_folder_without_a_tokenizer_gets_the_bundled_one(tmp_path: Path, tokenizer: Any) -> None:
    found = tokenizers.load(tmp_path)
    assert found.get_vocab() == tokenizer.get_vocab()
    assert found.chat_template == chat.JINJA


def test_a_damaged_tokenizer_is_a_model_error(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{", encoding="utf-8")
    with pytest.raises(ModelError, match="the tokenizer can't be loaded"):
        tokenizers.load(tmp_path)


def test_a_tokenizer_json_without_configuration_loads(tmp_path: Path, tokenizer: Any) -> None:
    source = assets.path("tokenizer", "tokenizer.json").read_text(encoding="utf-8")
    (tmp_path / "tokenizer.json").write_text(source, encoding="utf-8")
    found = tokenizers.load(tmp_path)
    assert text_ids(found, "a  b 😀") == text_ids(tokenizer, "a  b 😀")


def word_tokenizer(words: list[str], **special: str) -> PreTrainedTokenizerFast:
    """A foreign tokenizer of whole words."""
    vocabulary = {word: number for number, word in enumerate(words)}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token=special.get("unk_token")))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=core, **special)


_DELIMITERS = ["[INST]", "[/INST]", "[control_12]", "[control_13]"]


@pytest.mark.parametrize("unknown", [{}, {"unk_token": "<unk>"}], ids=["no unk", "unk"])
@pytest.mark.parametrize("missing", [None, *_DELIMITERS])
def test_is_ours_needs_every_delimiter(missing: str | None, unknown: dict[str, str]) -> None:
    words = ["<unk>", "</s>", *(p for p in _DELIMITERS if p != missing)]
    found = tokenizers.is_ours(word_tokenizer(words, eos_token="</s>", **unknown))
    assert found is (missing is None)


def test_is_ours_needs_a_stop_token() -> None:
    assert not tokenizers.is_ours(word_tokenizer(_DELIMITERS))


def test_our_delimiters_are_put_on_a_foreign_tokenizer_as_special_tokens() -> None:
    foreign = word_tokenizer(["<unk>", "<eos>", "<x>", "hi"], unk_token="<unk>", eos_token="<eos>")
    foreign.add_special_tokens({"additional_special_tokens": ["<x>"]})
    tokenizers.put_on(foreign, chat.JINJA)
    assert tokenizers.is_ours(foreign)
    assert len(foreign) == 4 + 7
    assert {*_DELIMITERS, *tokenizers.DECISIONS, "<x>", "<eos>"} <= set(foreign.all_special_tokens)
    assert foreign.chat_template == chat.JINJA


def test_our_template_can_not_be_put_on_without_a_stop_token() -> None:
    with pytest.raises(ModelError, match=r"no stop token \(eos\), which our template needs"):
        tokenizers.put_on(word_tokenizer(["hi"]), chat.JINJA)


def test_the_bundled_tokenizer_is_known_by_its_vocabulary(tokenizer: Any) -> None:
    assert tokenizers.is_bundled(tokenizer)
    assert not tokenizers.is_bundled(word_tokenizer(["</s>", *_DELIMITERS], eos_token="</s>"))


def test_the_configuration_names_no_class_that_only_version_5_knows() -> None:
    text = assets.path("tokenizer", "tokenizer_config.json").read_text(encoding="utf-8")
    assert json.loads(text)["tokenizer_class"] == "PreTrainedTokenizerFast"
