"""Sampling must be that of `transformers`."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopPLogitsWarper,
)

from stentor.errors import InputError, ModelError
from stentor.generate import Decoding
from stentor.generate.backend import Floats, Ints
from stentor.generate.sampling import (
    COOLEST,
    PENALTIES,
    choose,
    distribution,
    from_generation,
)


def logits_of(scale: float, *, vocabulary: int = 32_768, seed: int = 0) -> Floats:
    """Logits (V,). The larger the scale, the fewer tokens hold the probability."""
    normal = np.random.default_rng(seed).standard_normal(vocabulary)
    return (scale * normal).astype(np.float32)


NOTHING = np.zeros(0, np.int64)


def stream(seed: int) -> Callable[[], float]:
    return Random(seed).random


def reference(logits: Floats, prompt: Ints, decoding: Decoding) -> Floats:
    """The probabilities (V,) from which `generate` of transformers draws."""
    steps = LogitsProcessorList()
    if decoding.repetition_penalty != 1.0:
        steps.append(RepetitionPenaltyLogitsProcessor(decoding.repetition_penalty))
    steps.append(TemperatureLogitsWarper(decoding.temperature))
    if decoding.top_p < 1.0:
        steps.append(TopPLogitsWarper(decoding.top_p))
    ids = torch.tensor(prompt)[None]
    found: Floats = steps(ids, torch.tensor(logits)[None]).softmax(dim=-1)[0].numpy()
    return found


def ours(logits: Floats, prompt: Ints, decoding: Decoding) -> Floats:
    """Our probabilities (V,)."""
    kept, tokens = distribution(logits, prompt, decoding)
    found = np.zeros_like(logits)
    found[tokens] = kept
    return found


@pytest.mark.parametrize("penalty", [1.0, 1.3, 0.8])
@pytest.mark.parametrize("temperature", [0.6, 1.1])
@pytest.mark.parametrize(
    ("scale", "top_p"),
    [(8.0, 0.6), (2.0, 0.5), (0.3, 0.9), (8.0, 1.0), (1.0, 1.0)],
    ids=["few suffice", "hundreds suffice", "all are sorted", "sharp, all", "flat, all"],
)
def test_probabilities_equal_those_of_transformers(
    scale: float, top_p: float, temperature: float, penalty: float
) -> None:
    logits = logits_of(scale * temperature)
    prompt = np.concatenate([np.argsort(-logits)[:3], [5, 5, 17]])
    before = logits.copy()
    probabilities = ours(logits, prompt, decoding := Decoding(temperature, top_p, penalty))
    expected = reference(logits, prompt, decoding)
    if top_p < 1:
        kept = probabilities > 0
        assert abs(int(kept.sum()) - int((expected > 0).sum())) <= 1  # sums are rounded
        assert probabilities[kept].min() >= probabilities.max() * 2.0**-14 or scale < 1
    np.testing.assert_allclose(probabilities, expected, rtol=1e-3, atol=2e-5)
    assert np.array_equal(logits, before)  # they are still asked for the model's own chances


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    vocabulary=st.sampled_from([2, 50, 65, 700, 3000]),
    scale=st.floats(0.2, 8),
    decoding=st.builds(
        Decoding,
        temperature=st.floats(0.2, 2.0),
        top_p=st.floats(0.05, 1.0),
        repetition_penalty=st.floats(0.5, 2.0),
    ),
)
def test_probabilities_equal_those_of_transformers_for_any_setting(
    seed: int, vocabulary: int, scale: float, decoding: Decoding
) -> None:
    logits = logits_of(scale, vocabulary=vocabulary, seed=seed)
    prompt = np.random.default_rng(seed).integers(vocabulary, size=7)  # with repeats
    probabilities = ours(logits, prompt, decoding)
    np.testing.assert_allclose(
        probabilities, reference(logits, prompt, decoding), rtol=1e-3, atol=1e-6
    )


def test_draws_follow_the_probabilities() -> None:
    logits = logits_of(1.5, vocabulary=12)
    decoding = Decoding(temperature=1.0, top_p=0.95, repetition_penalty=1.0)
    draws = 4000
    drawn = [choose(logits, NOTHING, decoding, stream(seed)) for seed in range(draws)]
    expected = ours(logits, NOTHING, decoding)
    share = np.bincount(drawn, minlength=12) / draws
    spread = np.sqrt(expected * (1 - expected) / draws)
    assert (np.abs(share - expected) <= 4.5 * spread + 1e-9).all()
    assert (share[expected == 0] == 0).all()


def test_draws_of_one_stream_follow_the_probabilities() -> None:
    logits = np.array([2.0, 1.0, 0.0], np.float32)
    decoding = Decoding(temperature=1.0, top_p=1.0, repetition_penalty=1.0)
    numbers = stream(3)
    drawn = [choose(logits, NOTHING, decoding, numbers) for _ in range(2000)]
    share = np.bincount(drawn, minlength=3) / 2000
    np.testing.assert_allclose(share, ours(logits, NOTHING, decoding), atol=0.05)


@pytest.mark.parametrize("penalty", [1.0, 1.5])
def test_temperature_0_takes_the_likeliest_after_the_penalty(penalty: float) -> None:
    decoding = Decoding(0.0, 1.0, penalty)
    for values in ([3.0, 2.5, -1.0], [-1.0, -1.2, -9.0]):
        logits = np.array(values, np.float32)
        token = choose(logits, np.array([0]), decoding, stream(0))
        assert token == (0 if penalty == 1.0 else 1)


def test_the_tiniest_top_p_leaves_one_token() -> None:
    logits = logits_of(0.1)
    decoding = Decoding(temperature=1.0, top_p=1e-9, repetition_penalty=1.0)
    assert choose(logits, NOTHING, decoding, stream(0)) == logits.argmax()


@pytest.mark.parametrize("number", [0.0, 1 - 2.0**-53])
def test_the_ends_of_the_range_draw_tokens_that_are_left(number: float) -> None:
    logits = logits_of(2.0)
    for top_p in (0.5, 1.0):
        decoding = Decoding(temperature=1.0, top_p=top_p, repetition_penalty=1.0)
        token = choose(logits, NOTHING, decoding, lambda: number)
        assert ours(logits, NOTHING, decoding)[token] > 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": -0.1}, "temperature must be 0 (greedy), or at least 0.001"),
        ({"temperature": 1e-50}, "temperature must be 0 (greedy), or at least 0.001"),
        ({"top_p": 0.0}, "top-p must be above 0 and at most 1"),
        ({"top_p": 1.01}, "top-p must be above 0 and at most 1"),
        ({"repetition_penalty": 1e-40}, "repetition penalty must be from 0.01 to 100 (1 is none)"),
        ({"repetition_penalty": 101}, "repetition penalty must be from 0.01 to 100 (1 is none)"),
        ({"max_new_tokens": 0}, "max new tokens must be at least 1"),
        (
            {"temperature": -1, "max_new_tokens": 0},
            "temperature must be 0 (greedy), or at least 0.001; max new tokens must be at least 1",
        ),
    ],
)
def test_settings_that_can_not_be_are_named(settings: dict[str, float], message: str) -> None:
    with pytest.raises(InputError) as caught:
        Decoding(**settings)
    assert str(caught.value) == message


@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize("top_p", [1e-6, 0.5, 1.0])
def test_the_most_extreme_settings_draw_a_token(top_p: float, penalty: float) -> None:
    logits = logits_of(30.0)
    decoding = Decoding(COOLEST, top_p, penalty)
    kept, _ = distribution(logits, np.arange(9), decoding)
    assert np.isfinite(kept).all() and abs(kept.sum() - 1) < 1e-5
    assert 0 <= choose(logits, np.arange(9), decoding, stream(0)) < len(logits)


def test_a_model_whose_own_settings_can_not_be_is_refused_by_the_file() -> None:
    with pytest.raises(ModelError, match=r"generation_config\.json: temperature must .*change"):
        from_generation({"temperature": 1e-9})


def test_defaults_are_the_public_cards_quick_start() -> None:
    assert from_generation({}) == Decoding(1.1, 0.6, 1.3, 80, 0)


def test_a_models_own_settings_are_its_defaults_and_others_are_ignored() -> None:
    own = {"temperature": 0.7, "top_p": None, "max_new_tokens": 30, "eos_token_id": 2, "system": ""}
    assert from_generation(own) == Decoding(0.7, 0.6, 1.3, 30)


def test_flags_change_only_what_is_given() -> None:
    changed = Decoding(seed=5).changed(temperature=None, top_p=0.9, seed=None)
    assert changed == Decoding(1.1, 0.9, 1.3, 80, 5)
    assert Decoding().changed(temperature=0.0).temperature == 0.0
