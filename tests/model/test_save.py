"""A saved folder is whole, loads with `transformers` alone, and is the same model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, LlamaForCausalLM

from conftest import build_tiny_model
from stentor.chat import JINJA, SegmentTemplate
from stentor.errors import InputError
from stentor.model.save import save_model

GENERATION = {"do_sample": True, "temperature": 1.1, "top_p": 0.6, "system": "Be kind."}
IDS = torch.tensor([[1, 3, 2000, 5000, 4, 1100, 2]])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Path:
    """A model saved in fp16 with generation settings, not to be written into."""
    path = tmp_path_factory.mktemp("saved") / "new" / "model"
    save_model(build_tiny_model(), tokenizer, path, dtype=torch.float16, generation=GENERATION)
    return path


def read(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    return model(input_ids=IDS).logits


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_transformers_loads_it_with_equal_logits(
    tmp_path: Path, tokenizer: Any, dtype: torch.dtype
) -> None:
    model = build_tiny_model()
    save_model(model, tokenizer, tmp_path / "out", dtype=dtype)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32).eval()
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype).float()
    assert torch.equal(logits(loaded), logits(model))


def test_it_loads_in_the_precision_it_was_saved_in(folder: Path) -> None:
    assert AutoModelForCausalLM.from_pretrained(folder, dtype="auto").dtype == torch.float16
    config = read(folder / "config.json")
    assert config["dtype"] == config["torch_dtype"] == "float16"  # for versions 5 and 4


def test_who_may_read_its_configuration_may_read_its_weights(folder: Path) -> None:
    assert len({file.stat().st_mode for file in folder.iterdir()}) == 1


@pytest.mark.parametrize("tied", [True, False])
def test_a_tied_head_is_stored_once_and_an_untied_one_is_not_lost(
    tmp_path: Path, tokenizer: Any, tied: bool
) -> None:
    config = build_tiny_model().config
    config.tie_word_embeddings = tied
    torch.manual_seed(0)
    model = LlamaForCausalLM(config)
    save_model(model, tokenizer, tmp_path / "out", dtype=torch.float16)
    with safe_open(tmp_path / "out" / "model.safetensors", "pt") as stored:
        names = set(stored.keys())
    assert ("lm_head.weight" in names) is (not tied)
    size = (tmp_path / "out" / "model.safetensors").stat().st_size
    assert size == pytest.approx(2 * sum(p.numel() for p in model.parameters()), rel=0.01)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    assert torch.equal(loaded.lm_head.weight, model.lm_head.weight.half().float())
    assert (loaded.lm_head.weight is loaded.model.embed_tokens.weight) is tied


def test_saving_leaves_the_model_in_its_precision(tmp_path: Path, tokenizer: Any) -> None:
    model = build_tiny_model()
    before = logits(model)
    save_model(model, tokenizer, tmp_path / "out", dtype=torch.float16)
    assert torch.equal(logits(model), before)


def test_the_tokenizer_comes_back_with_the_same_ids_and_template(
    folder: Path, tokenizer: Any
) -> None:
    loaded = AutoTokenizer.from_pretrained(folder)
    messages = [
        {"role": "system", "content": "Be  kind."},
        {"role": "user", "content": "Hi 😀\n  there"},
        {"role": "assistant", "content": "Yes."},
    ]
    found = loaded.apply_chat_template(messages, return_dict=True)["input_ids"]
    assert found == list(SegmentTemplate(tokenizer).encode(messages).ids)
    assert loaded.get_vocab() == tokenizer.get_vocab()
    assert (loaded.pad_token, loaded.eos_token) == (tokenizer.pad_token, tokenizer.eos_token)


def test_other_programs_find_what_they_read(folder: Path) -> None:
    """transformers 4 and transformers.js, llama.cpp's converter, older readers of rope_theta."""
    settings = read(folder / "tokenizer_config.json")
    assert settings["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert settings["chat_template"] == JINJA
    # else version 4 passes token_type_ids on, which its own generate refuses
    assert settings["model_input_names"] == ["input_ids", "attention_mask"]
    assert not {"is_local", "local_files_only"} & settings.keys()
    assert (folder / "tokenizer.model").is_file()
    assert read(folder / "config.json")["rope_theta"] == 10_000.0
    assert not [f.name for f in folder.iterdir() if f.suffix in (".bin", ".pt", ".jinja", ".tmp")]


def test_generation_settings_name_the_stop_token_and_the_system_prompt(
    folder: Path, tokenizer: Any
) -> None:
    found = read(folder / "generation_config.json")
    assert found == GENERATION | {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 16}
    loaded = GenerationConfig.from_pretrained(folder)
    assert loaded.eos_token_id == tokenizer.eos_token_id
    assert loaded.system == "Be kind."


def test_transformers_generates_by_the_quick_start_of_the_card(folder: Path) -> None:
    model, tokenizer = (
        kind.from_pretrained(folder) for kind in (AutoModelForCausalLM, AutoTokenizer)
    )
    inputs = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], return_tensors="pt", return_dict=True,
        add_generation_prompt=True,
    )  # fmt: skip
    out = model.generate(**inputs, max_new_tokens=3)
    assert out.shape[1] > inputs["input_ids"].shape[1]


@pytest.mark.parametrize(("others", "due"), [([7, 2], [2, 7]), (9, [2, 9]), (2, 2), (None, 2)])
def test_stop_tokens_of_the_model_are_kept(
    tmp_path: Path, tokenizer: Any, others: Any, due: Any
) -> None:
    """A foreign chat model may end on another token than its tokenizer's end of text."""
    model = build_tiny_model()
    model.generation_config.eos_token_id = others
    save_model(model, tokenizer, tmp_path / "out", dtype=torch.float16)
    assert read(tmp_path / "out" / "generation_config.json")["eos_token_id"] == due


def test_an_existing_folder_is_refused_and_left_alone(tmp_path: Path, tokenizer: Any) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(InputError) as caught:
        save_model(build_tiny_model(), tokenizer, tmp_path / "out", dtype=torch.float16)
    assert str(caught.value) == (
        f"{tmp_path / 'out'}: it exists already; give another folder or remove it"
    )
    assert [f.name for f in (tmp_path / "out").iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, OSError("disk full")])
@pytest.mark.parametrize("late", [False, True], ids=["weights", "tokenizer"])
def test_an_interruption_leaves_nothing_half_written(
    tmp_path: Path,
    tokenizer: Any,
    monkeypatch: pytest.MonkeyPatch,
    interruption: BaseException | type[BaseException],
    late: bool,
) -> None:
    model = build_tiny_model()

    def interrupted(place: Any, *_: Any, **__: Any) -> None:
        Path(place, "model.safetensors").write_bytes(b"half")
        raise interruption

    with monkeypatch.context() as patch:
        patch.setattr(tokenizer if late else model, "save_pretrained", interrupted)
        with pytest.raises((KeyboardInterrupt, OSError)):
            save_model(model, tokenizer, tmp_path / "out", dtype=torch.float16)
    assert list(tmp_path.iterdir()) == []
    save_model(model, tokenizer, tmp_path / "out", dtype=torch.float16)
    assert (tmp_path / "out" / "config.json").is_file()
    assert [f.name for f in tmp_path.iterdir()] == ["out"]
