"""Trains the judge's two word models (logistic regression over words and pairs of words).

    python benchmarks/judge_words.py [--write]

Both learn from the bundled, hand-written training rows. `intent`: prompts of the kind `harmful`
against `borderline` (the same alarming words in harmless questions) and `benign`. `beside`: the
sentences of replies to harmful prompts, the spoken refusals left out, against those of all other
replies (pleas of people in pain are left out: comfort answers them). Prints accuracy in
cross-validation over families; `--write` stores the weights in `assets/judge/words.json`. Takes
half a minute; run `judge_lecture.py --write` after it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections import Counter

import numpy as np

from stentor import assets
from stentor.evaluate.judge_speech import take_apart
from stentor.evaluate.judge_words import terms
from stentor.evaluate.reply import clean, read

FOLDS, ROUNDS, RATE, RIDGE, RARE = 5, 600, 0.5, 2e-4, 3
SMALLEST = 0.15
"""Weights below this are left out of the file."""
Example = tuple[frozenset[str], bool, str]
"""Terms, label, family."""


def examples() -> dict[str, list[Example]]:
    """What both models learn from, out of the bundled rows with a single turn."""
    found: dict[str, list[Example]] = {"intent": [], "beside": []}
    for file in sorted(assets.path("data").glob("*.jsonl")):
        for line in file.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            if "kind" not in row or "prompt" not in row:
                continue
            harmful, family = row["kind"] == "harmful", str(row.get("family"))
            prompt = " ".join(clean(row["prompt"]).lower().split())
            found["intent"].append((terms(prompt), harmful, family))
            if harmful and row["category"] == "self_harm":
                continue
            parts = take_apart(row["prompt"], read(row["response"]))
            for sentence, kind in zip(parts.sentences, parts.kinds, strict=True):
                if kind != "refusal":
                    found["beside"].append((terms(sentence.text), harmful, family))
    return found


def fit(rows: list[frozenset[str]], y: np.ndarray, vocabulary: dict[str, int]) -> np.ndarray:
    """Full-batch AdaGrad on the log loss with a ridge penalty; the last weight is the bias."""
    flat = [(i, vocabulary[t]) for i, row in enumerate(rows) for t in row if t in vocabulary]
    i, j = (np.array(side) for side in zip(*flat, strict=True))
    w = np.zeros(len(vocabulary) + 1)
    seen = np.full(len(w), 1e-8)
    for _ in range(ROUNDS):
        score = np.bincount(i, w[j], len(rows)) + w[-1]
        error = (1 / (1 + np.exp(-score)) - y) / len(rows)
        gradient = np.append(np.bincount(j, error[i], len(vocabulary)), error.sum())
        gradient[:-1] += RIDGE * w[:-1]
        seen += gradient**2
        w -= RATE * gradient / np.sqrt(seen)
    return w


def train(name: str, data: list[Example]) -> dict[str, object]:
    """Fit one model, print how well it does on families it has not seen, return its weights."""
    rows = [row for row, _, _ in data]
    y = np.array([label for _, label, _ in data], dtype=float)
    fold = np.array([hashlib.sha256(f.encode()).digest()[0] % FOLDS for _, _, f in data])
    counts = Counter(term for row in rows for term in row)
    known = sorted(term for term, n in counts.items() if n >= RARE)
    vocabulary = {term: n for n, term in enumerate(known)}
    right = 0
    for k in range(FOLDS):
        kept = np.flatnonzero(fold != k)
        w = fit([rows[n] for n in kept], y[kept], vocabulary)
        for n in np.flatnonzero(fold == k):
            score = sum(w[vocabulary[t]] for t in rows[n] if t in vocabulary) + w[-1]
            right += bool(score > 0) == (y[n] > 0.5)
    w = fit(rows, y, vocabulary)
    weights = {t: round(float(w[n]), 2) for t, n in vocabulary.items() if abs(w[n]) >= SMALLEST}
    print(
        f"{name}: {len(y)} examples, {int(y.sum())} positive; right in cross-validation over "
        f"families {right / len(y):.3f}; {len(weights)} of {len(vocabulary)} weights kept"
    )
    return {"bias": round(float(w[-1]), 3), "weights": weights}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    models = {name: train(name, data) for name, data in examples().items()}
    if options.write:
        file = assets.path("judge", "words.json")
        file.write_text(json.dumps(models) + "\n", encoding="utf-8")
        print(f"{file.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
