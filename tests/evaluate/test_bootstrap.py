"""The paired bootstrap of figures that are no rates."""

from __future__ import annotations

import math

import numpy as np
import pytest

from stentor.evaluate.bootstrap import paired_bootstrap

NOTHING = {"difference": None, "low": None, "high": None}


def test_two_rows_have_three_samples() -> None:
    """One row twice, both, or the other twice: the quotients are 1 and 2, 2 and 8/3, 4 and 4."""
    a, b = [(2, 2), (4, 1)], [(4, 2), (4, 1)]
    found = paired_bootstrap(a, b)
    assert found == pytest.approx({"difference": 2 / 3, "low": 0.0, "high": 1.0})
    raised = paired_bootstrap(a, b, of=np.exp)
    assert raised["difference"] == pytest.approx(math.exp(8 / 3) - math.exp(2))
    assert raised["high"] == pytest.approx(math.exp(8 / 3) - math.exp(2))
    assert raised["low"] == pytest.approx(0.0)


def test_the_interval_covers_the_true_difference_and_knows_that_rows_are_paired() -> None:
    generator = np.random.default_rng(0)
    covered, widths = 0, []
    for trial in range(200):
        common = generator.normal(0, 5, size=60)  # a hard row is hard for both
        a = [(float(v), 1.0) for v in common]
        b = [(float(v), 1.0) for v in common + generator.normal(0.5, 1, size=60)]
        found = paired_bootstrap(a, b, seed=trial)
        covered += found["low"] <= 0.5 <= found["high"]
        widths.append(found["high"] - found["low"])
    assert 180 <= covered <= 199
    # 2 · 1.96 / sqrt(60) = 0.51; unpaired rows would give about 3.6
    assert np.mean(widths) == pytest.approx(0.5, abs=0.05)


def test_a_seed_gives_the_same_interval_and_another_one_nearly_so() -> None:
    generator = np.random.default_rng(0)
    a, b = ([(float(v), 1.0) for v in generator.normal(0, 1, size=40)] for _ in range(2))
    first, again, other = (paired_bootstrap(a, b, seed=seed) for seed in (3, 3, 4))
    assert first == again
    assert first["low"] != other["low"]
    assert first["low"] == pytest.approx(other["low"], abs=0.05)


def test_rows_without_the_figure_are_not_counted() -> None:
    """A is silent to one prompt: its mean is over the others."""
    a, b = [(1.0, 1.0), (0.0, 0.0), (3.0, 1.0)], [(1.0, 1.0), (4.0, 1.0), (1.0, 1.0)]
    found = paired_bootstrap(a, b)
    assert found["difference"] == 0.0
    assert found["low"] < 0.0 < found["high"]


def test_one_row_has_no_interval_and_no_row_no_difference() -> None:
    assert paired_bootstrap([(2, 2)], [(4, 2)]) == {"difference": 1.0, "low": None, "high": None}
    assert paired_bootstrap([], []) == NOTHING
    assert paired_bootstrap([(0, 0), (0, 0)], [(1, 1), (1, 1)]) == NOTHING
