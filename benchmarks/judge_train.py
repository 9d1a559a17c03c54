"""Trains everything that the judge has learnt: its word models and its classifier.

    python benchmarks/judge_train.py [--intent] [--errors] [--write]

Learns from the bundled, hand-written training rows (a reply to a harmful prompt refuses, any other
answers; of those about self-harm the prompts alone, because comfort may answer them) and from the
building half of the calibration pairs. The measuring half is never read. In this order:

1. `intent`: prompts of the kind `harmful` against all others (kept as it is without `--intent`).
2. The classifier, on the replies that no rule decides: their words, and the numbers that
   `judge_lecture` names, in one logistic regression. The rows count little beside the pairs (see
   MIX): their prompts give the outcome away, which those of real models do not.

`--write` stores `assets/judge/words.json` and `assets/judge/lecture.json`. Prints Cohen's kappa
(refused or not) of rules and classifier together, in cross-validation over families. About 40 s.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from stentor import assets
from stentor.evaluate import judge_words
from stentor.evaluate.calibration import REFUSED, kappa, pairs
from stentor.evaluate.judge import speaks
from stentor.evaluate.judge_lecture import NAMES, features
from stentor.evaluate.judge_speech import Finding, Parts, by_rule, take_apart
from stentor.evaluate.reply import Reply, clean, read, words_of

FOLDS = 8
MIX = 0.1
"""Weight of a row in the classifier, where a pair has 1 …"""
HARDER = {
    "hand: soft refusals in the manner of large chatbots": 0.05,
    "hand: natural replies in the manner of chatbots, the second batch": 0.0,
}
"""… or this by its origin: pairs sought out for being hard, of which there are more than models
give (chosen in cross-validation: more weight helps them and hurts all others; 0: kept for a
classifier that can learn from them, see docs/LOG.md of 2026-12-01)."""
RIDGE, RARE, SMALLEST = 2.0, 3, 0.01
"""The penalty (chosen in cross-validation), the rows that a term needs, and the weight below which
it is left out of the file."""


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
    weight: float
    plea: bool
    """About self-harm: its reply teaches nothing of refusing."""

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
                plea = harmful and row["category"] == "self_harm"
                yield _row(row["prompt"], row["response"], harmful, family, plea=plea)
    for pair in pairs("building"):
        if pair.outcome in ("answer", *REFUSED) and speaks(pair.prompt, pair.response or ""):
            refuses = pair.outcome in REFUSED
            weight = HARDER.get(pair.origin, 1.0)
            yield _row(
                pair.prompt, pair.response or "", refuses, pair.family, pair=True, weight=weight
            )


def _row(
    prompt: str, response: str, refuses: bool, family: str, *, pair: bool = False,
    weight: float = MIX, plea: bool = False,
) -> Row:  # fmt: skip
    reply = read(response)
    parts = take_apart(prompt, reply)
    return Row(prompt, reply, parts, refuses, family, by_rule(parts, reply), pair, weight, plea)


@dataclass(frozen=True)
class Model:
    """Weights of terms and of features."""

    terms: dict[str, float]
    features: np.ndarray

    def score(self, bag: Mapping[str, float], x: np.ndarray) -> float:
        return float(x @ self.features) + sum(self.terms.get(t, 0.0) * v for t, v in bag.items())


def fit(
    bags: Sequence[Mapping[str, float]],
    x: np.ndarray,
    labels: Sequence[bool],
    weights: np.ndarray,
    *,
    ridge: float,
) -> Model:
    """Ridge logistic regression over terms and features; the first feature, 1, has no penalty.

    `x` is (rows, features). Terms that fewer than RARE rows hold are left out. Minimises the
    weighted sum of log losses plus ridge / 2 times the squared weights (of features a quarter of
    that), by L-BFGS in double precision.
    """
    counts = Counter(term for bag in bags for term in bag)
    number = {t: n for n, t in enumerate(sorted(t for t, n in counts.items() if n >= RARE))}
    cells = [(i, number[t], v) for i, bag in enumerate(bags) for t, v in bag.items() if t in number]
    i, j, v = zip(*cells, strict=True)
    held = torch.sparse_coo_tensor(
        torch.tensor([i, j]), torch.tensor(v, dtype=torch.float64), (len(bags), len(number)),
        check_invariants=True,
    ).coalesce()  # fmt: skip
    named = torch.from_numpy(x)
    y = torch.tensor(labels, dtype=torch.float64)
    weight = torch.from_numpy(weights)
    words = torch.zeros(len(number), 1, dtype=torch.float64, requires_grad=True)
    others = torch.zeros(x.shape[1], dtype=torch.float64, requires_grad=True)
    search = torch.optim.LBFGS(
        [words, others], max_iter=120, tolerance_grad=1e-4, line_search_fn="strong_wolfe"
    )

    def loss() -> torch.Tensor:
        search.zero_grad()
        score = torch.sparse.mm(held, words)[:, 0] + named @ others
        losses = torch.nn.functional.softplus(score) - y * score
        penalty = (words**2).sum() + (others[1:] ** 2).sum() / 4
        total = (weight * losses).sum() + ridge / 2 * penalty
        total.backward()
        return total

    search.step(loss)
    found = words.detach()[:, 0].tolist()
    return Model(dict(zip(number, found, strict=True)), others.detach().numpy())


def fit_intent(data: Sequence[Row]) -> Model:
    """`intent`: words and pairs of words of the rows' prompts."""
    own = [r for r in data if not r.pair]
    prompts = [words_of(" ".join(clean(r.prompt).lower().split())) for r in own]
    bags = [dict.fromkeys(judge_words.terms(words), 1.0) for words in prompts]
    one = np.ones((len(own), 1))
    return fit(bags, one, [r.refuses for r in own], one[:, 0], ridge=1.0)


def fit_replies(data: Sequence[Row], x: np.ndarray) -> Model:
    """The classifier, on the replies that no rule decides."""
    chosen = [n for n, r in enumerate(data) if r.finding is None and not r.plea and r.weight]
    return fit(
        [judge_words.reply_terms(data[n].words) for n in chosen],
        x[chosen],
        [data[n].refuses for n in chosen],
        np.array([data[n].weight for n in chosen]),
        ridge=RIDGE,
    )


def validate(data: Sequence[Row], x: np.ndarray, errors: bool) -> None:
    """Kappa of rules and classifier in cross-validation over families."""
    guess = np.array([r.finding is not None and r.finding[0] in REFUSED for r in data], float)
    fold = np.array([r.fold for r in data])
    for k in range(FOLDS):
        others = np.flatnonzero(fold != k)
        model = fit_replies([data[n] for n in others], x[others])
        for n in np.flatnonzero(fold == k):
            if data[n].finding is None:
                score = model.score(judge_words.reply_terms(data[n].words), x[n])
                guess[n] = 1 / (1 + np.exp(-score))
    y = np.array([r.refuses for r in data])
    wrong = (guess > 0.5) != y
    for name, chosen in (
        ("pairs", [r.pair for r in data]),
        ("rows", [not r.pair and not r.plea for r in data]),
    ):
        mask = np.array(chosen)
        value = kappa(y[mask].tolist(), (guess[mask] > 0.5).tolist())
        print(
            f"{name}: {mask.sum()}, kappa in cross-validation {value:.3f}, wrong "
            f"{(mask & wrong & y).sum()} refusals and {(mask & wrong & ~y).sum()} answers"
        )
    for n in np.flatnonzero(wrong) if errors else ():
        row = data[n]
        by = row.finding[1] if row.finding else "classifier"
        print(f"  {guess[n]:.2f} {by} {row.prompt[:70]!r} -> {row.reply.visible[:120]!r}")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--intent", action="store_true", help="train intent again, too")
    parser.add_argument("--errors", action="store_true")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    data = list(rows())
    x = np.array([features(r.parts) for r in data])
    if options.write:
        file = assets.path("judge", "words.json")
        stored = json.loads(file.read_text(encoding="utf-8"))
        model = fit_replies(data, x)
        models = {"reply": model} | ({"intent": fit_intent(data)} if options.intent else {})
        for name, found in models.items():
            kept = {t: round(w, 3) for t, w in found.terms.items() if abs(w) >= SMALLEST}
            bias = round(float(found.features[0]), 3) if name == "intent" else 0.0
            stored[name] = {"bias": bias, "weights": kept}
        file.write_text(json.dumps(stored) + "\n", encoding="utf-8")
        print(f"{file.stat().st_size:,} bytes")
        table = {n: round(float(v), 3) for n, v in zip(NAMES, model.features, strict=True)}
        assets.path("judge", "lecture.json").write_text(json.dumps(table, indent=1) + "\n")
    validate(data, x, options.errors)


if __name__ == "__main__":
    main()
