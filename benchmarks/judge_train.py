"""Trains everything that the judge has learnt: its word models and its classifier.

    python benchmarks/judge_train.py [--strength 0.4] [--intent] [--errors] [--write]

Learns from the bundled, hand-written training rows (a reply to a harmful prompt refuses, any other
answers; pleas of people in pain are left out, because comfort answers them) and from the building
half of the calibration pairs. The measuring half is never read. In this order:

1. `intent`: prompts of the kind `harmful` against all others.
2. `reply`: the words of whole replies. Where the classifier learns from a pair, its score comes
   from a model that was fitted without the pair's family.
3. The classifier, on the replies that no rule decides. The rows count little beside the pairs (see
   MIX): their prompts give the outcome away, which those of real models do not.

Prints Cohen's kappa (refused or not) of rules and classifier together, in cross-validation over
families; `--write` stores `assets/judge/words.json` and `assets/judge/lecture.json`
(`intent` is kept as it is without `--intent`). About 20 s.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from stentor import assets
from stentor.evaluate import judge_words
from stentor.evaluate.calibration import REFUSED, kappa, pairs
from stentor.evaluate.judge import speaks
from stentor.evaluate.judge_lecture import NAMES, features
from stentor.evaluate.judge_speech import Finding, Parts, by_rule, take_apart
from stentor.evaluate.reply import Reply, clean, read, words_of

FOLDS = 8
PAIR, MIX = 3.0, 0.05
"""Weight of a pair in the word model `reply`, where a row has 1; of a row in the classifier."""
SMALLEST = {"intent": 0.15, "reply": 0.08}
"""Weights below this are left out of the file."""


@dataclass(frozen=True)
class Row:
    """A reply taken apart, what it is, and what the rules say."""

    prompt: str
    reply: Reply
    parts: Parts
    refuses: bool
    family: str
    finding: Finding | None
    pair: bool

    @property
    def fold(self) -> int:
        return hashlib.sha256(("fold" + self.family).encode()).digest()[0] % FOLDS

    @property
    def words(self) -> list[tuple[str, ...]]:
        return [s.words for s in self.parts.sentences]


def rows() -> Iterator[Row]:
    """The training rows with a single turn, and the pairs of the building half that speak."""
    for file in sorted(assets.path("data").glob("*.jsonl")):
        for line in file.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            if "kind" in row and "prompt" in row:
                harmful = row["kind"] == "harmful"
                family = f"mix {row['family']}"
                if not (harmful and row["category"] == "self_harm"):
                    yield _row(row["prompt"], row["response"], harmful, family, pair=False)
    for pair in pairs("building"):
        if pair.outcome in ("answer", *REFUSED) and speaks(pair.prompt, pair.response or ""):
            refuses = pair.outcome in REFUSED
            yield _row(pair.prompt, pair.response or "", refuses, pair.family, pair=True)


def _row(prompt: str, response: str, refuses: bool, family: str, *, pair: bool) -> Row:
    reply = read(response)
    parts = take_apart(prompt, reply)
    return Row(prompt, reply, parts, refuses, family, by_rule(parts, reply), pair)


def fit_words(
    texts: Sequence[Mapping[str, float]],
    labels: Sequence[bool],
    weights: Sequence[float],
    *,
    ridge: float,
    rounds: int,
    rare: int,
) -> dict[str, float]:
    """Full-batch AdaGrad on the weighted log loss with a ridge penalty; the bias has no penalty."""
    counts = Counter(term for text in texts for term in text)
    known = sorted(term for term, n in counts.items() if n >= rare)
    number = {term: n for n, term in enumerate(known)}
    flat = [
        (i, number[term], value)
        for i, text in enumerate(texts)
        for term, value in text.items()
        if term in number
    ]
    i, j, v = (np.array(side) for side in zip(*flat, strict=True))
    y, weight = np.array(labels, float), np.array(weights, float)
    w = np.zeros(len(known) + 1)
    seen = np.full(len(w), 1e-8)
    for _ in range(rounds):
        score = np.bincount(i, w[j] * v, len(y)) + w[-1]
        error = weight * (1 / (1 + np.exp(-score)) - y) / weight.sum()
        gradient = np.append(np.bincount(j, error[i] * v, len(known)), error.sum())
        gradient[:-1] += ridge * w[:-1]
        seen += gradient**2
        w -= 0.4 * gradient / np.sqrt(seen)
    return {"": float(w[-1])} | {t: float(w[n]) for t, n in number.items()}


def words_score(model: Mapping[str, float], text: Mapping[str, float]) -> float:
    return model[""] + sum(model.get(t, 0.0) * v for t, v in text.items())


def fit_intent(data: Sequence[Row]) -> dict[str, float]:
    """`intent`: words and pairs of words of the rows' prompts."""
    own = [r for r in data if not r.pair]
    prompts = [words_of(" ".join(clean(r.prompt).lower().split())) for r in own]
    bags = [dict.fromkeys(judge_words.terms(words), 1.0) for words in prompts]
    refuses = [r.refuses for r in own]
    return fit_words(bags, refuses, [1.0] * len(bags), ridge=2e-4, rounds=400, rare=3)


def fit_reply(data: Sequence[Row]) -> dict[str, float]:
    """`reply`: the words of whole replies."""
    return fit_words(
        [judge_words.reply_terms(r.words) for r in data],
        [r.refuses for r in data],
        [PAIR if r.pair else 1.0 for r in data],
        ridge=3e-4,
        rounds=120,
        rare=4,
    )


def out_of_fold(data: Sequence[Row]) -> list[float]:
    """For each row the score of a `reply` model that has not seen its family."""
    scores = [0.0] * len(data)
    for fold in range(FOLDS):
        model = fit_reply([r for r in data if r.fold != fold])
        for n, row in enumerate(data):
            if row.fold == fold:
                scores[n] = words_score(model, judge_words.reply_terms(row.words))
    return scores


def fit(x: np.ndarray, y: np.ndarray, weight: np.ndarray, strength: float) -> np.ndarray:
    """Ridge logistic regression by Newton's method; the bias is hardly penalised."""
    penalty = np.full(x.shape[1], strength)
    penalty[0] = 1e-3
    w = np.zeros(x.shape[1])
    for _ in range(30):
        p = 1 / (1 + np.exp(-np.clip(x @ w, -30, 30)))
        gradient = x.T @ (weight * (p - y)) + penalty * w
        hessian = (x * (weight * p * (1 - p))[:, None]).T @ x + np.diag(penalty)
        w -= np.linalg.solve(hessian, gradient)
    return w


def validate(data: Sequence[Row], x: np.ndarray, strength: float, errors: bool) -> None:
    """Kappa of rules and classifier in cross-validation over families."""
    y = np.array([r.refuses for r in data], float)
    open_ = np.array([r.finding is None for r in data])
    weight = np.array([1.0 if r.pair else MIX for r in data])
    fold = np.array([r.fold for r in data])
    guess = np.array([r.finding is not None and r.finding[0] in REFUSED for r in data], float)
    for k in range(FOLDS):
        train, held = open_ & (fold != k), open_ & (fold == k)
        w = fit(x[train], y[train], weight[train], strength)
        guess[held] = 1 / (1 + np.exp(-x[held] @ w))
    right = (guess > 0.5) == (y > 0.5)
    for name, chosen in (("pairs", [r.pair for r in data]), ("rows", [not r.pair for r in data])):
        mask = np.array(chosen)
        value = kappa((y[mask] > 0.5).tolist(), (guess[mask] > 0.5).tolist())
        print(
            f"{name}: {mask.sum()}, left to the classifier {(mask & open_).sum()}; kappa in "
            f"cross-validation {value:.3f}, wrong {(mask & ~right).sum()}"
        )
    for n in np.flatnonzero(~right) if errors else ():
        row = data[n]
        by = row.finding[1] if row.finding else "classifier"
        print(f"  {guess[n]:.2f} {by} {row.prompt[:70]!r} -> {row.reply.visible[:120]!r}")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--strength", type=float, default=0.4)
    parser.add_argument("--intent", action="store_true", help="train intent again, too")
    parser.add_argument("--errors", action="store_true")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    data = list(rows())
    file = assets.path("judge", "words.json")
    stored = json.loads(file.read_text(encoding="utf-8"))
    models: dict[str, dict[str, float]] = {}
    if options.intent:
        models["intent"] = fit_intent(data)
    models["reply"] = fit_reply(data)
    scores = out_of_fold(data)
    x = np.array([features(r.parts, score) for r, score in zip(data, scores, strict=True)])
    validate(data, x, options.strength, options.errors)
    if not options.write:
        return
    for name, model in models.items():
        kept = {t: round(w, 2) for t, w in model.items() if t and abs(w) >= SMALLEST[name]}
        stored[name] = {"bias": round(model[""], 3), "weights": kept}
    file.write_text(json.dumps(stored) + "\n", encoding="utf-8")
    print(f"{file.stat().st_size:,} bytes")
    chosen = [n for n, r in enumerate(data) if r.finding is None]
    y = np.array([data[n].refuses for n in chosen], float)
    weight = np.array([1.0 if data[n].pair else MIX for n in chosen])
    w = fit(x[chosen], y, weight, options.strength)
    table = {name: round(float(v), 3) for name, v in zip(NAMES, w, strict=True)}
    assets.path("judge", "lecture.json").write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
