"""MODEL on the command line: every way to name one, and every way to get it wrong."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from conftest import build_tiny_model
from stentor import assets
from stentor.chat import JINJA, OwnTemplate, SegmentTemplate
from stentor.errors import ModelError
from stentor.model import adapters, find, load
from stentor.model.save import save_model
from stentor.recipe import AdapterPart

MESSAGES = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes."}]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Path:
    """A model folder, not to be written into."""
    path = tmp_path_factory.mktemp("load") / "base"
    generation = {"temperature": 0.7, "system": "Be kind."}
    save_model(build_tiny_model(), tokenizer, path, dtype=torch.float16, generation=generation)
    return path


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A copy of it to do harm to."""
    return Path(shutil.copytree(saved, tmp_path / "base"))


@pytest.fixture
def bundle(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package that ships two models; the folder of one of them."""
    names = ("stentor-12m", "stentor-12m-instruct")
    for name in names:
        shutil.copytree(saved, tmp_path / "assets" / "models" / name)
    (tmp_path / "assets" / "tokenizer").symlink_to(assets.path("tokenizer"))
    monkeypatch.setattr(assets, "ROOT", tmp_path / "assets")
    return tmp_path / "assets" / "models" / names[0]


def adapter_in(folder: Path, base: Any, base_name: str, template: str = "auto") -> Any:
    """Write a random adapter on `base`; returns the model with it."""
    part = AdapterPart(rank=4, alpha=4)
    adapted = adapters.attach(base, part, base_name, seed=0).eval()
    torch.manual_seed(1)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    adapters.save(adapted, folder, template, {"temperature": 0.9})
    return adapted


def rounded_model() -> Any:
    """What the saved folder holds, without reading it."""
    model = build_tiny_model()
    for parameter in model.parameters():
        parameter.data = parameter.data.half().float()
    return model


def weights(model: Any) -> dict[str, torch.Tensor]:
    return dict(model.state_dict())


def same(a: Any, b: Any) -> bool:
    one, other = weights(a), weights(b)
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


# --- names that are found ---


def test_a_folder(saved: Path) -> None:
    loaded = load.load(str(saved))
    assert loaded.origin == str(saved)
    assert not loaded.model.training
    assert loaded.window == 512
    assert isinstance(loaded.template, SegmentTemplate)
    assert {p.dtype for p in loaded.model.parameters()} == {torch.float32}
    for name, tensor in build_tiny_model().state_dict().items():
        assert torch.equal(weights(loaded.model)[name], tensor.half().float()), name


def test_the_generation_settings_of_a_folder_come_along(saved: Path) -> None:
    found = load.load(str(saved)).generation
    assert (found["system"], found["temperature"], found["eos_token_id"]) == ("Be kind.", 0.7, 2)


def test_a_folder_in_the_home_directory(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(saved.parent))
    assert load.resolve("~/base") == saved


def test_a_finished_run_is_its_model(saved: Path, tmp_path: Path) -> None:
    run = tmp_path / "runs" / "one"
    run.mkdir(parents=True)
    (run / "model").symlink_to(saved)
    assert load.resolve("runs/one") == Path("runs/one/model")


def test_a_bundled_name(bundle: Path) -> None:
    assert find.bundled_names() == ["stentor-12m", "stentor-12m-instruct"]
    assert load.resolve("stentor-12m") == bundle
    assert load.load("stentor-12m").generation["system"] == "Be kind."


def test_a_hub_id_is_left_to_the_hub() -> None:
    assert load.resolve("owner/name") == "owner/name"


def test_a_preset_has_random_weights_by_seed() -> None:
    one, again, other = (load.load("preset:stentor-2m", seed=seed) for seed in (3, 3, 4))
    assert same(one.model, again.model)
    assert not same(one.model, other.model)
    assert one.origin == "preset:stentor-2m@3"


def test_a_preset_with_its_seed_names_the_same_weights_for_ever() -> None:
    one = load.load("preset:stentor-2m", seed=3)
    assert same(load.load(one.origin, seed=77).model, one.model)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_an_adapter_is_merged_into_its_base(
    saved: Path, tmp_path: Path, dtype: torch.dtype
) -> None:
    adapted = adapter_in(tmp_path / "phase-1", rounded_model(), str(saved))
    loaded = load.load(str(tmp_path / "phase-1"), dtype=dtype)
    assert same(loaded.model, adapters.merged_copy(adapted).to(dtype))
    assert loaded.origin == str(tmp_path / "phase-1")
    assert not loaded.model.training


def test_positions_stay_exact_in_half_precision(saved: Path, tmp_path: Path) -> None:
    """`transformers` keeps the rotary frequencies in fp32; a plain `.half()` rounds them."""
    adapter_in(tmp_path / "phase-1", rounded_model(), str(saved))
    merged = load.load(str(tmp_path / "phase-1"), dtype=torch.float16).model.model
    plain = build_tiny_model().model
    assert torch.equal(merged.rotary_emb.inv_freq, plain.rotary_emb.inv_freq)


def test_an_adapters_own_settings_come_before_those_of_its_base(
    saved: Path, tmp_path: Path
) -> None:
    adapter_in(tmp_path / "phase-1", rounded_model(), str(saved))
    found = load.load(str(tmp_path / "phase-1")).generation
    assert (found["temperature"], found["system"]) == (0.9, "Be kind.")


def test_an_adapter_on_random_weights_finds_them_again(tmp_path: Path) -> None:
    """A recipe may start from `preset:…`; the seed of the run must not be lost."""
    base = load.load("preset:stentor-2m", seed=5)
    adapted = adapter_in(tmp_path / "phase-1", base.model, base.origin)
    merged = adapters.merged_copy(adapted)
    assert same(load.load(str(tmp_path / "phase-1")).model, merged)


def test_a_gguf_file_is_left_to_the_gguf_reader(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    assert load.resolve(str(tmp_path / "model.gguf")) == tmp_path / "model.gguf"


# --- names that are not ---


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("stentor-12m-instuct", "; did you mean 'stentor-12m-instruct'?"),
        ("stentor_12m", "; did you mean 'stentor-12m'?"),
        ("/no/such/folder", "; there is stentor-12m, stentor-12m-instruct"),
        ("./nothing", "; there is stentor-12m, stentor-12m-instruct"),
        ("a/b/c", "; there is stentor-12m, stentor-12m-instruct"),
    ],
)
def test_an_unknown_name_says_what_may_be_given(bundle: Path, name: str, hint: str) -> None:
    with pytest.raises(ModelError) as caught:
        load.load(name)
    assert str(caught.value) == (
        f"{name}: no such model; give a folder, a run, a hub id (owner/name), or a bundled name"
        + hint
    )


def test_a_mistyped_run_is_not_blamed_on_the_hub_alone() -> None:
    with pytest.raises(ModelError, match=r"^runs/quikstart: .* no such folder, and the hub"):
        load.load("runs/quikstart")


def test_a_wrong_preset_gets_the_nearest() -> None:
    with pytest.raises(ModelError, match="no preset is called 'stentor-12'; did you mean"):
        load.load("preset:stentor-12")


def test_a_presets_seed_must_be_a_number() -> None:
    with pytest.raises(ModelError, match="preset:stentor-2m@x: the seed after @ must be a whole"):
        load.load("preset:stentor-2m@x")


@pytest.mark.parametrize(
    ("files", "complaint"),
    [
        ([], "there is no model in this folder (no config.json)"),
        (
            ["recipe.yaml"],
            "the run in it has not finished; there is no model in this folder (no config.json)",
        ),
    ],
)
def test_a_folder_without_a_model(tmp_path: Path, files: list[str], complaint: str) -> None:
    place = tmp_path / "here"
    place.mkdir()
    for name in files:
        (place / name).write_text("", encoding="utf-8")
    with pytest.raises(ModelError) as caught:
        load.load(str(place))
    assert str(caught.value) == f"{place}: {complaint}"


# --- folders that are not as they should be ---


def test_hashes_that_agree(folder: Path) -> None:
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    (folder / "SHA256").write_text(f"{digest}  model.safetensors\n", encoding="utf-8")
    assert load.load(str(folder)).window == 512


@pytest.mark.parametrize("damage", ["a bit", "gone"])
def test_weights_that_do_not_match_their_hash_are_refused(folder: Path, damage: str) -> None:
    file = folder / "model.safetensors"
    content = bytearray(file.read_bytes())
    digest = hashlib.sha256(content).hexdigest()
    (folder / "SHA256").write_text(f"{digest}  model.safetensors\n", encoding="utf-8")
    content[-1] ^= 1
    file.write_bytes(content) if damage == "a bit" else file.unlink()
    with pytest.raises(ModelError) as caught:
        load.load(str(folder))
    assert str(caught.value) == (
        f"{file}: the file does not match its hash; it is damaged or was changed: "
        "install the package again"
    )


@pytest.mark.parametrize(
    "name", ["config.json", "generation_config.json", "tokenizer.json", "model.safetensors"]
)
@pytest.mark.parametrize("damage", ["cut", "empty"])
def test_a_damaged_file_is_one_line(folder: Path, name: str, damage: str) -> None:
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: len(content) // 2] if damage == "cut" else b"")
    with pytest.raises(ModelError) as caught:
        load.load(str(folder))
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_damaged_adapter_configuration_is_a_model_error(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{", encoding="utf-8")
    with pytest.raises(ModelError, match=r"adapter_config.json: it is not valid JSON"):
        load.load(str(tmp_path))


def test_an_adapter_without_a_base_says_so(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ModelError, match="the adapter does not say which base it belongs to"):
        load.load(str(tmp_path))


def test_an_adapter_whose_base_is_gone_names_it(folder: Path, tmp_path: Path) -> None:
    adapter_in(tmp_path / "phase-1", rounded_model(), str(folder))
    shutil.rmtree(folder)
    with pytest.raises(ModelError, match=f"^{folder}: no such model"):
        load.load(str(tmp_path / "phase-1"))


def test_no_pickle_is_loaded(folder: Path) -> None:
    model = build_tiny_model()
    (folder / "model.safetensors").unlink()
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match="the model can't be loaded"):
        load.load(str(folder))


def test_no_remote_code_is_run(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config |= {
        "model_type": "mine",
        "auto_map": {"AutoConfig": "mine.Mine", "AutoModelForCausalLM": "mine.Mine"},
    }
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    trap = folder.parent / "it-ran"
    code = f"from pathlib import Path\nPath({str(trap)!r}).touch()\nclass Mine: pass\n"
    (folder / "mine.py").write_text(code, encoding="utf-8")
    with pytest.raises(ModelError, match="the model can't be loaded"):
        load.load(str(folder))
    assert not trap.exists()


def test_a_model_of_another_kind_is_refused(folder: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        (folder / name).unlink()
    config = GPT2Config(n_embd=16, n_layer=1, n_head=1, vocab_size=32_768)
    GPT2LMHeadModel(config).save_pretrained(folder)
    with pytest.raises(ModelError, match="it is a gpt2 model; stentor works on Llama-shaped ones"):
        load.load(str(folder))


@pytest.mark.parametrize(
    ("change", "kind"),
    [({"hidden_act": "gelu"}, "Llama-like gelu"), ({"attention_bias": True}, "Llama-like biased")],
)
def test_a_llama_that_our_forward_pass_would_get_wrong_is_refused(
    folder: Path, change: dict[str, Any], kind: str
) -> None:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(config | change), encoding="utf-8")
    with pytest.raises(ModelError, match=f"it is a {kind} model; stentor works on Llama-shaped"):
        load.load(str(folder))


def test_our_tokenizer_is_not_lent_to_a_model_with_another_vocabulary(
    foreign_folder: Path,
) -> None:
    for file in foreign_folder.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(ModelError, match=r"there is no tokenizer\.json .* its vocabulary of 300;"):
        load.load(str(foreign_folder))


def test_a_folder_without_a_tokenizer_gets_ours(folder: Path) -> None:
    for file in folder.glob("tokenizer*"):
        file.unlink()
    loaded = load.load(str(folder))
    assert loaded.template.encode(MESSAGES).ids[0] == loaded.tokenizer.bos_token_id


# --- foreign bases ---

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def foreign_tokenizer() -> PreTrainedTokenizerFast:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *alphabet]
    core = Tokenizer(models.BPE({w: i for i, w in enumerate(words)}, []))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token="<|endoftext|>", chat_template=CHATML,
        additional_special_tokens=words[1:3],
    )  # fmt: skip


@pytest.fixture
def foreign_folder(tmp_path: Path) -> Path:
    """A chat model that ends its turns with <|im_end|>, as only its settings say."""
    model = build_tiny_model()
    model.resize_token_embeddings(300)
    model.generation_config.eos_token_id = 2
    save_model(model, foreign_tokenizer(), tmp_path / "foreign", dtype=torch.float32)
    return tmp_path / "foreign"


def test_a_foreign_base_keeps_its_own_template(foreign_folder: Path) -> None:
    loaded = load.load(str(foreign_folder))
    assert isinstance(loaded.template, OwnTemplate)
    assert loaded.template.stop_ids == {0, 2}
    assert loaded.template.encode(MESSAGES).ids[0] == 1


def test_our_template_is_put_on_a_foreign_base(foreign_folder: Path, tmp_path: Path) -> None:
    """Four pieces and four rows more; all else stays, and a saved copy needs no flag."""
    plain = load.load(str(foreign_folder)).model.model.embed_tokens.weight
    loaded = load.load(str(foreign_folder), template="stentor")
    rows = loaded.model.model.embed_tokens.weight
    assert isinstance(loaded.template, SegmentTemplate)
    assert torch.equal(rows[:259], plain[:259])
    assert max(loaded.template.encode(MESSAGES).ids) < len(rows)
    again = load.load(str(foreign_folder), template="stentor")
    assert torch.equal(again.model.model.embed_tokens.weight, rows)

    save_model(loaded.model, loaded.tokenizer, tmp_path / "out", dtype=torch.float32)
    saved = load.load(str(tmp_path / "out"))
    assert isinstance(saved.template, SegmentTemplate)
    assert saved.template.encode(MESSAGES) == loaded.template.encode(MESSAGES)
    assert saved.tokenizer.chat_template == JINJA
    assert same(saved.model, loaded.model)


def test_an_adapter_remembers_that_our_template_was_put_on(
    foreign_folder: Path, tmp_path: Path
) -> None:
    base = load.load(str(foreign_folder), template="stentor")
    adapted = adapter_in(tmp_path / "phase-1", base.model, str(foreign_folder), "stentor")
    loaded = load.load(str(tmp_path / "phase-1"))
    assert isinstance(loaded.template, SegmentTemplate)
    assert same(loaded.model, adapters.merged_copy(adapted))


def test_the_own_template_can_be_asked_for(saved: Path) -> None:
    loaded = load.load(str(saved), template="own")
    assert isinstance(loaded.template, OwnTemplate)
    assert loaded.template.encode(MESSAGES) == load.load(str(saved)).template.encode(MESSAGES)
