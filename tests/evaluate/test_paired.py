"""The paired comparison of two probes."""

from __future__ import annotations

import pytest

from stentor.errors import InputError
from stentor.evaluate.paired import Paired, paired
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
