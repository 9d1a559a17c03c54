"""Sampling must be that of `transformers`, and no row may feel which others are in its batch."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import (
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopPLogitsWarper,
)

from stentor.errors import InputError
from stentor.generate import Decoding
from stentor.generate.sampling import choose, distribution, from_generation


def logits_of(scale: float, *, vocabulary: int = 32_768, rows: int = 1, seed: int = 0) -> Tensor:
    """The larger the scale, the fewer tokens hold the probability."""
    return scale * torch.randn(rows, vocabulary, generator=torch.Generator().manual_seed(seed))


def nothing_seen(logits: Tensor) -> Tensor:
    return torch.zeros_like(logits, dtype=torch.bool)


def generators(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def reference(logits: Tensor, prompt: Tensor, decoding: Decoding) -> Tensor:
    """The probabilities (B, V) from which `generate` of transformers draws."""
    steps = LogitsProcessorList()
    if decoding.repetition_penalty != 1.0:
        steps.append(RepetitionPenaltyLogitsProcessor(decoding.repetition_penalty))
    steps.append(TemperatureLogitsWarper(decoding.temperature))
    if decoding.top_p < 1.0:
        steps.append(TopPLogitsWarper(decoding.top_p))
    return steps(prompt, logits.clone()).softmax(dim=-1)


def ours(logits: Tensor, prompt: Tensor, decoding: Decoding) -> tuple[Tensor, int]:
    """Our probabilities (B, V), and how many candidates they were found among."""
    seen = nothing_seen(logits).scatter_(1, prompt, True)
    kept, tokens = distribution(logits, seen, decoding)
    return torch.zeros_like(logits).scatter_(1, tokens, kept), tokens.shape[1]


@pytest.mark.parametrize("penalty", [1.0, 1.3, 0.8])
@pytest.mark.parametrize("temperature", [0.6, 1.1])
@pytest.mark.parametrize(
    ("scale", "top_p", "candidates"),
    [
        (8.0, 0.6, 64),
        (2.0, 0.5, 1024),
        (1.0, 0.9, 32_768),
        (8.0, 1.0, None),
        (1.0, 1.0, None),
    ],
    ids=["64 likeliest suffice", "1024 suffice", "all are sorted", "sharp, all", "flat, all"],
)
def test_probabilities_equal_those_of_transformers(
    scale: float, top_p: float, candidates: int | None, temperature: float, penalty: float
) -> None:
    logits = logits_of(scale * temperature)
    prompt = torch.cat([logits.topk(3).indices, torch.tensor([[5, 5, 17]])], dim=1)
    decoding = Decoding(temperature, top_p, penalty)
    probabilities, among = ours(logits, prompt, decoding)
    expected = reference(logits, prompt, decoding)
    if candidates is not None:
        assert among == candidates  # else the case does not prove its shortcut
        assert torch.equal(probabilities > 0, expected > 0)
    torch.testing.assert_close(probabilities, expected, rtol=1e-4, atol=1e-7)


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
    logits = logits_of(scale, vocabulary=vocabulary, rows=2, seed=seed)
    prompt = torch.randint(
        vocabulary, (2, 7), generator=torch.Generator().manual_seed(seed)
    )  # with repeats
    probabilities, _ = ours(logits, prompt, decoding)
    expected = reference(logits, prompt, decoding)
    torch.testing.assert_close(probabilities, expected, rtol=1e-3, atol=1e-6)


def test_draws_follow_the_probabilities() -> None:
    logits = logits_of(1.5, vocabulary=12)
    decoding = Decoding(temperature=1.0, top_p=0.95, repetition_penalty=1.0)
    draws = 4000
    many = logits.expand(draws, -1)
    drawn = choose(many, nothing_seen(many), decoding, generators(*range(draws)))
    expected, _ = ours(logits, torch.zeros(1, 0, dtype=torch.long), decoding)
    share = torch.bincount(drawn, minlength=12) / draws
    spread = (expected[0] * (1 - expected[0]) / draws).sqrt()
    assert bool(((share - expected[0]).abs() <= 4.5 * spread + 1e-9).all())
    assert bool((share[expected[0] == 0] == 0).all())


def test_draws_of_one_generator_follow_the_probabilities() -> None:
    logits = torch.tensor([[2.0, 1.0, 0.0]])
    decoding = Decoding(temperature=1.0, top_p=1.0, repetition_penalty=1.0)
    (generator,) = generators(3)
    drawn = [int(choose(logits, nothing_seen(logits), decoding, [generator])) for _ in range(2000)]
    expected = logits.softmax(dim=-1)[0]
    share = torch.bincount(torch.tensor(drawn), minlength=3) / 2000
    torch.testing.assert_close(share, expected, atol=0.05, rtol=0)


@pytest.mark.parametrize("company", [0.05, 1.0, 2.5], ids=["flat", "wide", "sharp"])
@pytest.mark.parametrize("scale", [8.0, 2.0, 0.5])
def test_a_row_draws_the_same_tokens_beside_rows_of_any_shape(scale: float, company: float) -> None:
    """The shortcut of top-p looks at all rows; the draw of one must not."""
    row, other = logits_of(scale), logits_of(company, seed=1)
    decoding = Decoding(temperature=1.0, top_p=0.9, repetition_penalty=1.0)

    def draw(logits: Tensor, place: int, seeds: tuple[int, ...]) -> list[int]:
        streams = generators(*seeds)
        seen = nothing_seen(logits)
        return [choose(logits, seen, decoding, streams)[place].item() for _ in range(6)]

    alone = draw(row, 0, (7,))
    assert draw(torch.cat([row, other]), 0, (7, 8)) == alone
    assert draw(torch.cat([other, other, row]), 2, (1, 2, 7)) == alone


@pytest.mark.parametrize("penalty", [1.0, 1.5])
def test_temperature_0_takes_the_likeliest_after_the_penalty(penalty: float) -> None:
    logits = torch.tensor([[3.0, 2.5, -1.0], [-1.0, -1.2, -9.0]])
    seen = torch.tensor([[True, False, False], [True, False, False]])
    decoding = Decoding(0.0, 1.0, penalty)
    assert choose(logits, seen, decoding, []).tolist() == ([0, 0] if penalty == 1.0 else [1, 1])


def test_the_tiniest_top_p_leaves_one_token() -> None:
    logits = logits_of(0.1)
    decoding = Decoding(temperature=1.0, top_p=1e-9, repetition_penalty=1.0)
    drawn = choose(logits, nothing_seen(logits), decoding, generators(0))
    assert drawn.item() == logits.argmax().item()


def test_half_precision_logits_are_drawn_from_in_full_precision() -> None:
    logits = logits_of(2.0, vocabulary=400).half()
    decoding = Decoding(temperature=1.0, top_p=0.5, repetition_penalty=1.3)
    empty = torch.zeros(1, 0, dtype=torch.long)
    probabilities, _ = ours(logits.float(), empty, decoding)
    kept, tokens = distribution(logits, nothing_seen(logits), decoding)
    assert kept.dtype is torch.float32
    torch.testing.assert_close(torch.zeros(1, 400).scatter_(1, tokens, kept), probabilities)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": -0.1}, "temperature must be 0 (greedy) or more"),
        ({"top_p": 0.0}, "top-p must be above 0 and at most 1"),
        ({"top_p": 1.01}, "top-p must be above 0 and at most 1"),
        ({"repetition_penalty": 0.0}, "repetition penalty must be above 0 (1 is none)"),
        ({"max_new_tokens": 0}, "max new tokens must be at least 1"),
        (
            {"temperature": -1, "max_new_tokens": 0},
            "temperature must be 0 (greedy) or more; max new tokens must be at least 1",
        ),
    ],
)
def test_settings_that_can_not_be_are_named(settings: dict[str, float], message: str) -> None:
    with pytest.raises(InputError) as caught:
        Decoding(**settings)
    assert str(caught.value) == message


def test_defaults_are_the_public_cards_quick_start() -> None:
    assert from_generation({}) == Decoding(1.1, 0.6, 1.3, 80, 0)


def test_a_models_own_settings_are_its_defaults_and_others_are_ignored() -> None:
    own = {"temperature": 0.7, "top_p": None, "max_new_tokens": 30, "eos_token_id": 2, "system": ""}
    assert from_generation(own) == Decoding(0.7, 0.6, 1.3, 30)


def test_flags_change_only_what_is_given() -> None:
    changed = Decoding(seed=5).changed(temperature=None, top_p=0.9, seed=None)
    assert changed == Decoding(1.1, 0.9, 1.3, 80, 5)
    assert Decoding().changed(temperature=0.0).temperature == 0.0
