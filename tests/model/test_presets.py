"""The shapes by name, built for real on the meta device."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaForCausalLM

from stentor.errors import ModelError
from stentor.model.adapters import attach
from stentor.model.presets import PRESETS, preset
from stentor.recipe import AdapterPart


def on_meta(name: str) -> LlamaForCausalLM:
    with torch.device("meta"):
        return LlamaForCausalLM(preset(name).config())


def count(model: torch.nn.Module, *, trainable: bool = False) -> int:
    return sum(p.numel() for p in model.parameters() if p.requires_grad or not trainable)


@pytest.mark.parametrize("name", PRESETS)
def test_the_formula_counts_what_transformers_builds(name: str) -> None:
    assert count(on_meta(name)) == preset(name).parameters


def test_stentor_12m_and_its_adapter_have_the_public_cards_numbers() -> None:
    """Only 12 layers with tied embeddings give all three; the card's own 9 does not."""
    model = on_meta("stentor-12m")
    assert count(model) == 12_047_040
    with torch.device("meta"):
        adapted = attach(model, AdapterPart(), "stentor-12m", seed=0)
    assert count(adapted, trainable=True) == 1_474_560
    assert count(adapted) == 13_521_600


def test_stentor_12m_has_the_public_cards_shape() -> None:
    config = preset("stentor-12m").config()
    shape = {
        "hidden_size": 192, "intermediate_size": 576, "num_hidden_layers": 12,
        "num_attention_heads": 3, "num_key_value_heads": 3, "head_dim": 64,
        "hidden_act": "silu", "max_position_embeddings": 512, "vocab_size": 32_768,
        "tie_word_embeddings": True,
    }  # fmt: skip
    assert {key: getattr(config, key) for key in shape} == shape
    assert config.rope_parameters["rope_theta"] == 10_000.0


def test_the_sibling_has_about_30_4_million_parameters() -> None:
    assert preset("stentor-30m").parameters == pytest.approx(30.4e6, rel=0.005)


@pytest.mark.parametrize("name", PRESETS)
def test_the_head_is_the_embedding(name: str) -> None:
    model = on_meta(name)
    assert model.lm_head.weight is model.model.embed_tokens.weight


@pytest.mark.parametrize(
    ("wrong", "near"),
    [("stentor-12", "stentor-12m"), ("stentor30m", "stentor-30m"), ("Stentor-6M", "stentor-6m")],
)
def test_a_wrong_name_gets_the_nearest(wrong: str, near: str) -> None:
    with pytest.raises(ModelError) as caught:
        preset(wrong)
    assert str(caught.value) == (
        f"no preset is called {wrong!r}; did you mean {near!r}? "
        "Presets: stentor-2m, stentor-6m, stentor-12m, stentor-30m"
    )


@pytest.mark.parametrize("wrong", ["", "###", "gpt"])
def test_a_name_like_none_still_lists_them(wrong: str) -> None:
    with pytest.raises(ModelError, match="Presets: stentor-2m"):
        preset(wrong)
