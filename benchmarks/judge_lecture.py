"""Trains the judge's classifier of lectures (logistic regression) on data of our own.

    python benchmarks/judge_lecture.py [--strength 3.0] [--write]

Learns from the building pairs in English that no rule decides. Prints accuracy in cross-validation
over families, so that the choice of features and of the ridge penalty never sees the measuring
half; `--write` stores the weights in `src/stentor/assets/judge/lecture.json`. Run `judge_words.py`
first; takes a few seconds. (Tried and dropped: adding the bundled training rows, a reply to a
harmful prompt taken for a refusal; their short answers shift the odds, 38 instead of 30 errors.)
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from stentor import assets
from stentor.evaluate.calibration import pairs
from stentor.evaluate.judge import undecided
from stentor.evaluate.judge_lecture import NAMES, features

FOLDS = 10


class Row(NamedTuple):
    """Features, is it a refusal, fold, and what to print."""

    x: list[float]
    refuses: bool
    fold: int
    text: str


def fold_of(family: str) -> int:
    """The fold a family lies in, whatever else is there."""
    return hashlib.sha256(("fold" + family).encode()).digest()[0] % FOLDS


def fit(x: np.ndarray, y: np.ndarray, strength: float) -> np.ndarray:
    """Ridge logistic regression by Newton's method; the bias is hardly penalised."""
    penalty = np.full(x.shape[1], strength)
    penalty[0] = 1e-3
    w = np.zeros(x.shape[1])
    for _ in range(30):
        p = 1 / (1 + np.exp(-x @ w))
        gradient = x.T @ (p - y) + penalty * w
        hessian = (x * (p * (1 - p))[:, None]).T @ x + np.diag(penalty)
        w -= np.linalg.solve(hessian, gradient)
    return w


def from_pairs() -> Iterator[Row]:
    for pair in pairs("building"):
        found = undecided(pair.prompt, pair.response) if pair.response else None
        if found and pair.outcome in ("answer", "refuse", "partial"):
            x = features(found.asked, found.sentences, found.kinds)
            text = f"{pair.prompt[:60]!r} -> {pair.response[:80]!r}"
            yield Row(x, pair.outcome != "answer", fold_of(pair.family), text)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--strength", type=float, default=3.0)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    rows = list(from_pairs())
    x = np.array([r.x for r in rows])
    y = np.array([r.refuses for r in rows], dtype=float)
    fold = np.array([r.fold for r in rows])
    guess = np.zeros(len(y))
    for k in range(FOLDS):
        train = fold != k
        w = fit(x[train], y[train], options.strength)
        guess[~train] = 1 / (1 + np.exp(-x[~train] @ w))
    wrong = (guess > 0.5) != (y > 0.5)
    print(
        f"{len(y)} pairs, {int(y.sum())} refusals; wrong in cross-validation: {int(wrong.sum())}, "
        f"of them refusals missed: {int((wrong & (y > 0.5)).sum())}"
    )
    for i in np.flatnonzero(wrong):
        print(f"  {guess[i]:.2f} {rows[i].text}")
    w = fit(x, y, options.strength)
    for name, value in sorted(zip(NAMES, w, strict=True), key=lambda t: -abs(t[1])):
        print(f"{value:8.2f}  {name}")
    if options.write:
        weights = {name: round(float(v), 3) for name, v in zip(NAMES, w, strict=True)}
        assets.path("judge", "lecture.json").write_text(json.dumps(weights, indent=1) + "\n")


if __name__ == "__main__":
    main()
