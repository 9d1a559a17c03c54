"""Wilson's interval against published values, and what it must be for any count."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stentor.evaluate.intervals import Rate, mean_interval


@pytest.mark.parametrize(
    ("count", "n", "low", "high"),
    [
        (0, 18, 0.0, 0.1759),
        (10, 10, 0.7225, 1.0),
        (50, 100, 0.4038, 0.5962),
        (1, 10, 0.0179, 0.4042),
        (81, 263, 0.2553, 0.3662),  # Newcombe 1998, table I, method 3
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_interval_equals_known_values(count: int, n: int, low: float, high: float) -> None:
    interval = Rate(count, n).interval
    assert interval == pytest.approx((low, high), abs=6e-5)


@settings(max_examples=60, deadline=None)
@given(n=st.integers(1, 5000), share=st.floats(0, 1))
def test_interval_holds_the_rate_and_mirrors_its_complement(n: int, share: float) -> None:
    count = round(share * n)
    rate, other = Rate(count, n), Rate(n - count, n)
    assert rate.interval and other.interval and rate.value is not None
    low, high = rate.interval
    assert 0 <= low <= rate.value + 1e-12 and rate.value - 1e-12 <= high <= 1
    assert low < high
    assert other.interval == pytest.approx((1 - high, 1 - low), abs=1e-12)


@pytest.mark.parametrize("count", [0, 3, 10])
def test_more_of_the_same_narrows_the_interval(count: int) -> None:
    widths = []
    for times in (1, 4, 16):
        low, high = Rate(count * times, 10 * times).interval or (0, 0)
        widths.append(high - low)
    assert widths == sorted(widths, reverse=True) and len(set(widths)) == 3


def test_nothing_counted_is_no_rate_and_no_interval() -> None:
    rate = Rate(0, 0)
    assert (rate.value, rate.interval, str(rate)) == (None, None, "– (n 0)")
    assert rate.figures() == {
        "rate": None, "count": 0, "n": 0, "prompts": 0, "low": None, "high": None,
    }  # fmt: skip


@pytest.mark.parametrize("times", [1, 3, 20])
def test_more_replies_to_the_same_prompts_narrow_nothing(times: int) -> None:
    rate = Rate(7 * times, 10 * times, prompts=10)
    assert rate.value == 0.7
    assert rate.interval == pytest.approx(Rate(7, 10).interval)
    assert (rate.figures()["n"], rate.figures()["prompts"]) == (10 * times, 10)


def test_figures_are_plain_numbers_for_json() -> None:
    figures = Rate(1, 2).figures()
    assert json.loads(json.dumps(figures, allow_nan=False)) == figures
    assert (figures["rate"], figures["count"], figures["n"]) == (0.5, 1, 2)
    assert (figures["low"], figures["high"]) == Rate(1, 2).interval


def test_a_rate_is_shown_with_interval_and_n() -> None:
    assert str(Rate(50, 100)) == "50.0 % [40–60] (n 100)"
    assert str(Rate(0, 18)) == "0.0 % [0–18] (n 18)"


def test_the_interval_of_a_mean_is_students() -> None:
    mean, low, high = mean_interval([1.0, 2.0, 3.0])
    assert mean == 2.0
    # t(0.975, 2) = 4.303, standard error 1 / sqrt(3)
    assert low == pytest.approx(2 - 4.303 / 3**0.5) and high == pytest.approx(2 + 4.303 / 3**0.5)
    assert mean_interval([0.5]) == (0.5, None, None)


def test_the_interval_of_many_values_is_nearly_the_normal_one() -> None:
    values = [float(n % 2) for n in range(400)]
    _, low, _ = mean_interval(values)
    assert low is not None
    assert 0.5 - low == pytest.approx(1.96595 * (400 / 399) ** 0.5 * 0.5 / 20, rel=1e-3)
