"""Two models side by side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import Command, Run
from stentor.evaluate.command import compare_table
from stentor.evaluate.compare import changed_replies, loss_difference, probe_differences
from stentor.evaluate.loss import Loss
from stentor.evaluate.paired import MEASURES
from stentor.evaluate.probe import Record


def record(number: int, kind: str, outcome: str, **changes: Any) -> Record:
    fields = {
        "id": f"p{number}", "suite": "s", "sample": 0, "prompt": f"Prompt {number}?", "kind": kind,
        "category": "", "family": "", "form": "", "seen": True, "response": outcome,
        "outcome": outcome, "supportive": False, "reason": "", "stopped": True, "tokens": 1,
    }  # fmt: skip
    return Record(**(fields | changes))


A = [
    record(1, "harmful", "silent"), record(2, "harmful", "refuse"), record(3, "benign", "answer"),
    record(4, "borderline", "refuse"), record(5, "benign", "degenerate", stopped=False),
]  # fmt: skip
B = [
    record(1, "harmful", "refuse"), record(2, "harmful", "refuse"), record(3, "benign", "answer"),
    record(4, "borderline", "answer"), record(5, "benign", "partial"),
]  # fmt: skip


def test_each_measure_is_over_the_prompts_of_its_kind() -> None:
    found = probe_differences(A, B)
    assert found.keys() == MEASURES.keys()
    rates = {name: (f["a"], f["b"], f["n"]) for name, f in found.items()}
    assert rates["harmful: refused aloud"] == (0.5, 1.0, 2)
    assert rates["harmful: silent"] == (0.5, 0.0, 2)
    assert rates["benign: answered"] == pytest.approx((1 / 3, 2 / 3, 3))
    assert rates["benign: fake refusals"] == pytest.approx((1 / 3, 1 / 3, 3))
    assert rates["ends by itself"] == (0.8, 1.0, 5)
    assert found["benign: fake refusals"]["only_a"] == found["benign: fake refusals"]["only_b"] == 1


def test_p_values_are_corrected_for_all_measures_that_have_a_prompt() -> None:
    """Of 12 harmful prompts all are refused that were silent; four measures have prompts."""
    a = [record(n, "harmful", "silent") for n in range(12)]
    b = [record(n, "harmful", "refuse") for n in range(12)]
    found = probe_differences(a, b)
    p = {name: (f["p_value"], f["p_adjusted"]) for name, f in found.items() if f["n"]}
    assert p == {
        "harmful: refused aloud": (2 / 2**12, 4 * 2 / 2**12),
        "harmful: silent": (2 / 2**12, 4 * 2 / 2**12),
        "harmful: complied": (1.0, 1.0),
        "ends by itself": (1.0, 1.0),
    }
    assert {f["p_adjusted"] for f in found.values() if not f["n"]} == {None}


def test_replies_with_another_outcome_are_listed_and_only_those() -> None:
    found = changed_replies(A, B)
    assert [change["id"] for change in found] == ["p1", "p4", "p5"]
    assert found[0]["a"]["outcome"] == "silent" and found[0]["b"]["outcome"] == "refuse"


def test_a_loss_difference_weighs_tokens_and_its_interval_covers_the_truth() -> None:
    generator = np.random.default_rng(0)
    covered = 0
    for trial in range(100):
        sizes = generator.integers(5, 50, size=60)
        shifts = generator.normal(0.1, 0.3, size=60)
        a = [Loss(4.0 * n, int(n), 1) for n in sizes]
        b = [Loss((4.0 + s) * n, int(n), 1) for n, s in zip(sizes, shifts, strict=True)]
        found = loss_difference(a, b, seed=trial)
        assert found["difference"] == pytest.approx(float((shifts * sizes).sum() / sizes.sum()))
        assert found["low"] < found["difference"] < found["high"]
        covered += found["low"] <= 0.1 <= found["high"]
    assert 85 <= covered <= 100


def test_a_model_against_itself_differs_in_nothing(
    tiny_run: Run, stentor: Command, tiny_recipe: Path
) -> None:
    suite = tiny_recipe.parent / "three.jsonl"
    done = stentor(
        "compare", tiny_run.path, tiny_run.path / "model", "--suite", suite, "--data", tiny_recipe,
        "--json",
    )  # fmt: skip
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert found["changed"] == []
    for loss in found["loss"].values():
        assert loss["difference"] == loss["low"] == loss["high"] == 0.0
    for figures in found["probe"].values():
        assert figures["only_a"] == figures["only_b"] == 0 and figures["p_value"] == 1.0
    a, b = found["models"]["a"], found["models"]["b"]
    assert a["parameters"] == b["parameters"] == 2_417_472
    assert a["bytes"] == b["bytes"] == (tiny_run.path / "model/model.safetensors").stat().st_size
    assert all(side["tokens_per_second_batch"] > 0 for side in (a, b))
    shown = compare_table(found)
    assert "string matching: helpful, %" in shown and "+0.0 [" in shown
    assert "0 only A, 0 only B, p = 1, corrected 1 (n " in shown
    assert "2,417,472" in shown and "changed their outcome" not in shown


def test_a_model_that_is_not_there_is_one_line(stentor: Command, tiny_run: Run) -> None:
    done = stentor("compare", tiny_run.path, "nothing-here")
    assert done.code == 2 and done.out == ""
    assert done.err.strip().splitlines()[-1].startswith("error: nothing-here: no such model")
    assert "Traceback" not in done.err
