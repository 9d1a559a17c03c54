"""The paired comparison of two probes."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from stentor.errors import InputError
from stentor.evaluate.paired import Measure, OverSeeds, Paired, holm, over_seeds, paired
from stentor.evaluate.probe import Record


def record(number: int, outcome: str) -> Record:
    return Record(
        id=f"p{number}", suite="s", sample=0, prompt="?", kind="benign", category="", family="",
        form="", seen=True, response="", outcome=outcome, supportive=False, reason="",
        stopped=True, tokens=1,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("only_a", "only_b", "expected"),
    # two-sided exact binomial tails, by hand: 2·(1/2)^5; 2·(1+10)/2^10; equal counts are certain
    [(0, 5, 0.0625), (1, 9, 22 / 1024), (4, 4, 1.0), (0, 0, 1.0)],
)
def test_mcnemar_is_the_exact_binomial_test(only_a: int, only_b: int, expected: float) -> None:
    assert Paired(100, 50, only_a, only_b).p_value == pytest.approx(expected)


def test_the_interval_of_a_difference() -> None:
    # by hand: a = 5/82, b = 11/82, b - a ± 1.96 · sqrt((a + b - (b - a)²) / 82)
    assert Paired(80, 30, 4, 10).interval == pytest.approx((-0.0211, 0.1675), abs=1e-4)
    low, high = Paired(80, 30, 10, 4).interval or (0, 0)
    assert (low, high) == pytest.approx((-0.1675, 0.0211), abs=1e-4)
    assert Paired(0, 0, 0, 0).interval is None


def test_the_interval_covers_the_true_difference() -> None:
    generator = np.random.default_rng(0)
    covered = 0
    for _ in range(400):
        a = generator.random(60) < 0.4
        b = np.where(generator.random(60) < 0.3, generator.random(60) < 0.9, a)
        low, high = Paired(60, int((a & b).sum()), int((a & ~b).sum()), int((~a & b).sum())
                           ).interval or (0, 0)  # fmt: skip
        covered += low <= 0.3 * (0.9 - 0.4) <= high
    assert 0.92 <= covered / 400 <= 0.99


def test_counts_follow_the_prompts_and_not_their_order() -> None:
    a = [record(1, "answer"), record(2, "refuse"), record(3, "answer"), record(4, "silent")]
    b = [record(4, "answer"), record(3, "answer"), record(2, "answer"), record(1, "refuse")]
    found = paired(a, b, lambda r: r.outcome == "answer")
    assert found == Paired(n=4, both=1, only_a=1, only_b=2)
    assert found.figures()["a"] == 0.5
    assert found.figures()["b"] == 0.75


def test_probes_of_different_prompts_are_refused() -> None:
    with pytest.raises(InputError, match="different prompts"):
        paired([record(1, "answer")], [record(2, "answer")], lambda r: True)


ANSWERED = Measure(lambda r: True, lambda r: r.outcome == "answer")


def test_with_one_seed_the_test_over_prompts_is_mcnemars() -> None:
    for gained, lost in [(5, 0), (9, 1), (4, 4), (0, 0), (2, 7)]:
        changes = (1,) * gained + (-1,) * lost + (0,) * 6
        found = OverSeeds(changes, (sum(changes) / len(changes),))
        assert found.p_value == pytest.approx(Paired(20, 6, lost, gained).p_value)


def test_with_several_seeds_it_counts_all_signs() -> None:
    changes = (3, 2, -1, 3, 0, 1)
    sums = [
        abs(sum(sign * size for sign, size in zip(signs, changes, strict=True)))
        for signs in itertools.product((1, -1), repeat=len(changes))
    ]
    expected = sum(value >= abs(sum(changes)) for value in sums) / len(sums)
    assert OverSeeds(changes, (0.1,)).p_value == pytest.approx(expected)


def test_more_seeds_of_the_same_changes_are_no_more_evidence() -> None:
    one = {1: [record(n, "refuse") for n in range(6)]}
    two = {1: [record(n, "answer" if n < 4 else "refuse") for n in range(6)]}
    alone = over_seeds(one, two, ANSWERED)
    thrice = over_seeds(
        dict.fromkeys((1, 2, 3), one[1]), dict.fromkeys((1, 2, 3), two[1]), ANSWERED
    )
    assert alone is not None and thrice is not None
    assert alone.p_value == thrice.p_value == 0.125
    assert thrice.by_seed == (4 / 6,) * 3 and thrice.one_way


def test_only_seeds_that_both_have_are_compared() -> None:
    a = {1: [record(1, "answer"), record(2, "refuse")], 2: [record(1, "answer")]}
    b = {1: [record(1, "refuse"), record(2, "refuse")], 3: [record(1, "answer")]}
    found = over_seeds(a, b, ANSWERED)
    assert found == OverSeeds(changes=(-1, 0), by_seed=(-0.5,))
    assert over_seeds({1: a[1]}, {2: b[1]}, ANSWERED) is None
    assert over_seeds(a, b, Measure(lambda r: r.kind == "harmful", ANSWERED.holds)) is None


def test_p_values_are_adjusted_as_holm_has_it() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []
