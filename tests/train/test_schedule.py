"""The learning rate of every step, against transformers' schedules and by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    get_constant_schedule_with_warmup,
    get_cosine_with_hard_restarts_schedule_with_warmup,
    get_linear_schedule_with_warmup,
)

from stentor.recipe import SchedulePart
from stentor.train.schedule import decay_steps, factor


def reference(make: Callable[..., Any], steps: int, **options: Any) -> list[float]:
    """The factors of the first steps of a schedule of transformers."""
    optimiser = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    schedule = make(optimiser, **options)
    return [schedule.lr_lambdas[0](step) for step in range(steps)]


@pytest.mark.parametrize("total", [2, 7, 91, 273])
@pytest.mark.parametrize("share", [0.0, 0.06, 0.5])
def test_constant_linear_and_cosine_are_those_of_transformers(total: int, share: float) -> None:
    warmup = math.ceil(share * total)

    def ours(shape: str, cycles: int = 1) -> list[float]:
        part = SchedulePart(shape=shape, warmup=share, cycles=cycles)
        return [factor(step, total, part) for step in range(total)]

    assert ours("constant") == pytest.approx(
        reference(get_constant_schedule_with_warmup, total, num_warmup_steps=warmup)
    )
    both = {"num_warmup_steps": warmup, "num_training_steps": total}
    assert ours("linear") == pytest.approx(
        reference(get_linear_schedule_with_warmup, total, **both)
    )
    for cycles in (1, 2, 5):
        assert ours("cosine", cycles) == pytest.approx(
            reference(
                get_cosine_with_hard_restarts_schedule_with_warmup, total, num_cycles=cycles, **both
            )
        )


@pytest.mark.parametrize("shape", ["constant", "linear", "cosine", "wsd"])
@pytest.mark.parametrize("total", [1, 2, 3])
def test_no_phase_is_so_short_that_it_learns_nothing(shape: str, total: int) -> None:
    part = SchedulePart.model_validate({"shape": shape})
    assert max(factor(step, total, part) for step in range(total)) == 1.0


def test_the_cards_cosine_with_one_restart_falls_once_from_the_peak_to_zero() -> None:
    part = SchedulePart(shape="cosine", warmup=0.06, cycles=1)
    factors = [factor(step, 273, part) for step in range(274)]
    assert factors[0] == 0.0 and factors[17] == 1.0 and factors[273] == 0.0
    assert factors[:18] == sorted(factors[:18])
    assert factors[17:] == sorted(factors[17:], reverse=True)


def test_wsd_rises_stays_and_falls_in_a_line() -> None:
    part = SchedulePart(shape="wsd", decay=0.2)
    factors = [factor(step, 100, part, warmup_steps=4) for step in range(101)]
    assert factors[:4] == pytest.approx([0.2, 0.4, 0.6, 0.8])  # no step is wasted at rate zero
    assert factors[4:81] == [1.0] * 77
    assert factors[80:] == pytest.approx([1 - n / 20 for n in range(21)])


@given(
    warmup=st.integers(0, 20),
    decay=st.floats(0.05, 0.9),
    totals=st.tuples(st.integers(40, 400), st.integers(40, 400)),
)
@settings(max_examples=50, deadline=None)
def test_steps_before_the_decay_do_not_depend_on_where_the_run_ends(
    warmup: int, decay: float, totals: tuple[int, int]
) -> None:
    part = SchedulePart(shape="wsd", decay=decay)
    common = min(total - decay_steps(total, part) for total in totals)
    one, other = (
        [factor(step, total, part, warmup_steps=warmup) for step in range(common)]
        for total in totals
    )
    assert one == other


@given(
    shape=st.sampled_from(["constant", "linear", "cosine", "wsd"]),
    total=st.integers(1, 200),
    warmup=st.floats(0, 1),
    decay=st.floats(0, 1),
)
@settings(max_examples=50, deadline=None)
def test_a_factor_is_never_above_one_or_below_zero(
    shape: str, total: int, warmup: float, decay: float
) -> None:
    part = SchedulePart(shape=shape, warmup=warmup, decay=decay)
    factors = [factor(step, total, part) for step in range(total)]
    assert all(0.0 <= value <= 1.0 for value in factors)
