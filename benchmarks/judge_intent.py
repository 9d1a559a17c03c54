"""Trains the judge's guess whether a prompt asks for harm (logistic regression over its words).

    python benchmarks/judge_intent.py [--write]

Learns from the bundled, hand-written training prompts (kind `harmful` against `borderline` and
`benign`, where the borderline ones have the same alarming words) and from the building half of the
calibration pairs, of which the spoken refusals tell nothing and are left out. Prints accuracy in
cross-validation over families; `--write` stores the weights in `assets/judge/intent.json`.
Takes about a minute.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections import Counter
from pathlib import Path

import numpy as np

from stentor import assets
from stentor.evaluate.judge_request import terms

FOLDS, ROUNDS, RATE, RIDGE = 5, 60, 0.5, 2e-4
SMALLEST = 0.15
"""Weights below this are left out of the file."""


def prompts() -> list[tuple[str, bool, str]]:
    """(prompt, asks for harm, family) of the bundled training rows with a single turn."""
    rows = []
    for file in sorted(assets.path("data").glob("*.jsonl")):
        for line in file.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            if "kind" not in row or "prompt" not in row:
                continue
            rows.append((row["prompt"], row["kind"] == "harmful", str(row.get("family"))))
    return rows


def fit(rows: list[frozenset[str]], y: np.ndarray, vocabulary: dict[str, int]) -> np.ndarray:
    """Full-batch AdaGrad on the log loss with a ridge penalty; the last weight is the bias."""
    flat = [(i, vocabulary[t]) for i, terms_ in enumerate(rows) for t in terms_ if t in vocabulary]
    i, j = (np.array(side) for side in zip(*flat, strict=True))
    w = np.zeros(len(vocabulary) + 1)
    seen = np.full(len(w), 1e-8)
    for _ in range(ROUNDS * 10):
        score = np.bincount(i, w[j], len(rows)) + w[-1]
        error = (1 / (1 + np.exp(-score)) - y) / len(rows)
        gradient = np.append(np.bincount(j, error[i], len(vocabulary)), error.sum())
        gradient[:-1] += RIDGE * w[:-1]
        seen += gradient**2
        w -= RATE * gradient / np.sqrt(seen)
    return w


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    data = prompts()
    rows = [terms(p) for p, _, _ in data]
    y = np.array([h for _, h, _ in data], dtype=float)
    fold = np.array([hashlib.sha256(f.encode()).digest()[0] % FOLDS for _, _, f in data])
    counts = Counter(t for r in rows for t in r)
    vocabulary = {t: n for n, t in enumerate(sorted(t for t, c in counts.items() if c >= 3))}

    def score(w: np.ndarray, terms_: frozenset[str]) -> float:
        return float(sum(w[vocabulary[t]] for t in terms_ if t in vocabulary) + w[-1])

    right = 0
    for k in range(FOLDS):
        train = np.flatnonzero(fold != k)
        w = fit([rows[n] for n in train], y[train], vocabulary)
        right += sum((score(w, rows[n]) > 0) == (y[n] > 0.5) for n in np.flatnonzero(fold == k))
    print(
        f"{len(rows)} prompts, {int(y.sum())} ask for harm; right in cross-validation over "
        f"families: {right / len(rows):.3f}"
    )
    w = fit(rows, y, vocabulary)
    kept = {t: round(float(w[n]), 2) for t, n in vocabulary.items() if abs(w[n]) >= SMALLEST}
    print(f"{len(kept)} of {len(vocabulary)} weights kept")
    if options.write:
        file = Path(assets.path("judge", "intent.json"))
        file.write_text(json.dumps({"bias": round(float(w[-1]), 3), "weights": kept}) + "\n")
        print(f"{file.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
