"""Adapters: attached without a trace, merged in fp32, and merged to the same model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from conftest import build_tiny_model
from stentor.chat import SegmentTemplate
from stentor.errors import ModelError
from stentor.model import adapters
from stentor.recipe import AdapterPart

PROMPTS = ["Hi!", "Why is the sky blue?", "Tell me about\n\nwhales  and ships.", "988"]


def attach(model: Any, *, seed: int = 0, **part: Any) -> Any:
    return adapters.attach(model, AdapterPart(**part), "base", seed=seed)


def randomise(adapted: Any, std: float = 0.05) -> Any:
    """Give B values, as training does; a fresh adapter changes nothing."""
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=std)
    return adapted.eval()


def ids_of(template: SegmentTemplate, text: str) -> Tensor:
    return torch.tensor([template.prompt([{"role": "user", "content": text}])])


@torch.no_grad()
def logits(model: Any, template: SegmentTemplate) -> Tensor:
    return torch.cat([model(input_ids=ids_of(template, p)).logits[0] for p in PROMPTS])


def snapshot(model: Any) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)


def test_a_fresh_adapter_changes_nothing(template: SegmentTemplate) -> None:
    before = logits(build_tiny_model(), template)
    assert torch.equal(logits(attach(build_tiny_model()).eval(), template), before)


def test_only_the_adapter_is_trained(tiny_model: Any) -> None:
    adapted = attach(tiny_model, rank=8)
    trained = {n: p for n, p in adapted.named_parameters() if p.requires_grad}
    assert len(trained) == 2 * 7 * 2  # A and B of seven projections in two layers
    assert all("lora_" in name and p.dtype == torch.float32 for name, p in trained.items())


def test_the_seed_decides_where_an_adapter_starts() -> None:
    one, again, other = (attach(build_tiny_model(), seed=seed).state_dict() for seed in (1, 1, 2))
    assert same(one, again)
    assert not same(one, other)


@pytest.mark.parametrize(("rslora", "scale"), [(True, 32 / 16**0.5), (False, 32 / 16)])
def test_the_scale_is_rank_stabilised(tiny_model: Any, rslora: bool, scale: float) -> None:
    adapted = randomise(attach(tiny_model, rank=16, alpha=32, rslora=rslora))
    layer = adapted.get_base_model().model.layers[0].self_attn.q_proj
    update = layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    merged = adapters.merged_copy(adapted).model.layers[0].self_attn.q_proj.weight
    torch.testing.assert_close(merged, layer.base_layer.weight + scale * update)


@pytest.mark.parametrize("kv_heads", [2, 1])
def test_merged_logits_equal_those_of_the_adapter(template: SegmentTemplate, kv_heads: int) -> None:
    adapted = randomise(attach(build_tiny_model(kv_heads=kv_heads)))
    plain = logits(build_tiny_model(kv_heads=kv_heads), template)
    with_adapter = logits(adapted, template)
    merged = logits(adapters.merged_copy(adapted), template)
    assert (merged - with_adapter).abs().max() <= 1e-4
    assert (plain - with_adapter).abs().max() > 0.1  # else the adapter does nothing to merge


def test_greedy_replies_of_both_agree(template: SegmentTemplate) -> None:
    adapted = randomise(attach(build_tiny_model()))
    merged = adapters.merged_copy(adapted)
    for prompt in PROMPTS:
        ids = ids_of(template, prompt)
        options = {"attention_mask": torch.ones_like(ids), "do_sample": False, "max_new_tokens": 12}
        theirs = adapted.generate(input_ids=ids, **options)
        assert torch.equal(merged.generate(input_ids=ids, **options), theirs)


def test_merging_leaves_the_adapter_model_as_it_was(template: SegmentTemplate) -> None:
    adapted = randomise(attach(build_tiny_model()))
    weights, before = snapshot(adapted), logits(adapted, template)
    merged = adapters.merged_copy(adapted)
    with torch.no_grad():
        for parameter in merged.parameters():
            parameter.zero_()  # nothing is shared either
    assert same(snapshot(adapted), weights)
    assert torch.equal(logits(adapted, template), before)
    assert sum(p.requires_grad for p in adapted.parameters()) == 2 * 7 * 2


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_merging_is_done_in_fp32_though_the_base_is_in_half_precision(dtype: torch.dtype) -> None:
    adapted = randomise(attach(build_tiny_model().to(dtype)))
    merged = adapters.merged_copy(adapted)
    assert {p.dtype for p in merged.parameters()} == {torch.float32}
    for layer, found in zip(
        adapted.get_base_model().model.layers, merged.model.layers, strict=True
    ):
        down = layer.mlp.down_proj
        a, b = (x["default"].weight.double() for x in (down.lora_A, down.lora_B))
        exact = down.base_layer.weight.double() + down.scaling["default"] * (b @ a)
        torch.testing.assert_close(found.mlp.down_proj.weight.double(), exact, rtol=0, atol=1e-6)
        assert not torch.equal(exact.to(dtype).double(), exact)


def test_the_merged_model_has_no_trace_of_the_adapter(tiny_model: Any) -> None:
    names = set(tiny_model.state_dict())
    merged = adapters.merged_copy(attach(tiny_model))
    assert set(merged.state_dict()) == names
    assert merged.lm_head.weight is merged.model.embed_tokens.weight


def test_weights_that_are_not_finite_are_not_merged(tiny_model: Any) -> None:
    adapted = attach(tiny_model)
    with torch.no_grad():
        adapted.get_base_model().model.layers[0].mlp.up_proj.lora_B["default"].weight[0] = torch.inf
    with pytest.raises(ValueError, match="NaNs detected"):
        adapters.merged_copy(adapted)


# --- saved and merged again ---


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Any, Path]:
    """An adapter model, and the folder that its adapter is in."""
    adapted = randomise(attach(build_tiny_model()))
    adapters.save(adapted, tmp_path / "phase-1", "auto", {"system": "Be kind."})
    return adapted, tmp_path / "phase-1"


def test_a_saved_adapter_merges_to_the_same_weights(saved: tuple[Any, Path]) -> None:
    adapted, folder = saved
    merged = adapters.merge_adapter(build_tiny_model(), folder)
    assert same(snapshot(merged), snapshot(adapters.merged_copy(adapted)))


def test_a_saved_adapter_merges_in_fp32_into_a_half_precision_base(
    saved: tuple[Any, Path],
) -> None:
    _, folder = saved
    merged = adapters.merge_adapter(build_tiny_model().half(), folder)
    rounded = adapters.merged_copy(randomise(attach(build_tiny_model().half().float())))
    for name, tensor in merged.state_dict().items():
        assert tensor.dtype == torch.float32
        torch.testing.assert_close(tensor, rounded.state_dict()[name], rtol=0, atol=1e-6)


def test_an_adapters_folder_holds_the_adapter_alone(saved: tuple[Any, Path]) -> None:
    """No pickle, no copy of the embedding; the base's name, template and settings beside it."""
    _, folder = saved
    files = {file.name for file in folder.iterdir()} - {"README.md"}
    assert files == {
        "adapter_config.json", "adapter_model.safetensors", "generation_config.json",
        adapters.TEMPLATE_NOTE,
    }  # fmt: skip
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    assert config["base_model_name_or_path"] == "base"
    numbers = 2 * sum(32 * (n + m) for n, m in [(32, 32)] * 4 + [(32, 48)] * 3)
    assert (folder / "adapter_model.safetensors").stat().st_size < 4 * numbers + 10_000


@pytest.mark.parametrize("damage", ["cut", "gone", "foreign"])
def test_a_damaged_adapter_is_a_model_error(saved: tuple[Any, Path], damage: str) -> None:
    _, folder = saved
    weights = folder / "adapter_model.safetensors"
    base = build_tiny_model()
    if damage == "cut":
        weights.write_bytes(weights.read_bytes()[:1000])
    elif damage == "gone":
        weights.unlink()
    else:
        base = build_tiny_model(heads=3, kv_heads=3)
    with pytest.raises(ModelError, match=r"phase-1: the adapter can't be merged: "):
        adapters.merge_adapter(base, folder)


# --- dropout ---


def rates(model: Any) -> set[float]:
    return {m.p for m in model.modules() if isinstance(m, torch.nn.Dropout)}


def test_dropout_takes_effect_in_training_and_comes_back_to_zero(
    template: SegmentTemplate,
) -> None:
    adapted = randomise(attach(build_tiny_model()))
    exact = logits(adapted, template)
    for rate in (0.1, 0.5, 0.0, 0.3, 0.0):
        adapters.set_dropout(adapted, rate)
        assert rates(adapted) == {rate}
        assert torch.equal(logits(adapted.train(), template), exact) is (rate == 0.0)
        assert torch.equal(logits(adapted.eval(), template), exact)


def test_zero_on_a_fresh_adapter_adds_no_dropout(tiny_model: Any) -> None:
    adapted = attach(tiny_model)
    adapters.set_dropout(adapted, 0.0)
    assert rates(adapted) == set()


def test_setting_dropout_on_a_model_in_evaluation_leaves_it_exact(
    template: SegmentTemplate,
) -> None:
    adapted = randomise(attach(build_tiny_model()))
    exact = logits(adapted, template)
    adapters.set_dropout(adapted, 0.5)
    assert torch.equal(logits(adapted, template), exact)


def test_dropout_is_on_the_adapters_input_alone(template: SegmentTemplate) -> None:
    """With all of it dropped the base is left, not noise."""
    adapted = randomise(attach(build_tiny_model()))
    adapters.set_dropout(adapted, 1.0)
    base = logits(build_tiny_model(), template)
    torch.testing.assert_close(logits(adapted.train(), template), base)
