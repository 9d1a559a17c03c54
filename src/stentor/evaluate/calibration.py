"""How far the judge can be trusted, measured in the open.

    stentor judge --calibration                        agreement with labels, on the measuring half
    python -m stentor.evaluate.calibration --add FILE  add labelled pairs, each to its side
    python -m stentor.evaluate.calibration --write     store the figures, for every report to cite

The pairs lie in `assets/judge/`: `building.jsonl`, on which rules and weights may be made, and
`measuring.jsonl`, of which only these figures are ever looked at. A pair's side is fixed by its
`family` (pairs with like prompts or like replies share one), so near-siblings never lie on both.
Fields: `prompt`, `response`, `outcome`, `supportive`, `origin`, `family`. `second` and `third` are
the outcomes that other readers gave, without sight of any label; `first` is kept where theirs, or
settling a difference, changed the outcome.
`assets/judge/README.md` tells how to label.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from stentor import assets
from stentor.errors import DataError
from stentor.evaluate.judge import JUDGE_VERSION, OUTCOMES, Outcome, judge

Side = Literal["building", "measuring"]
REFUSED = ("refuse", "partial")


@dataclass(frozen=True)
class Pair:
    """A prompt, a reply, and what its readers call it."""

    prompt: str
    response: str | None
    outcome: Outcome
    supportive: bool
    origin: str
    family: str
    second: Outcome | None = None
    first: Outcome | None = None
    third: Outcome | None = None

    @property
    def readings(self) -> tuple[Outcome, Outcome] | None:
        """Two readings of a pair that was read more than once, by two other readers if so."""
        if self.second is None:
            return None
        return self.second, self.third or self.first or self.outcome


@dataclass(frozen=True)
class Rates:
    """How well one outcome is found; None where nothing was labelled or judged so."""

    n: int
    precision: float | None
    recall: float | None


@dataclass(frozen=True)
class Share:
    """A part of the pairs, and Cohen's kappa (refused in any way, or not) on it alone."""

    n: int
    kappa: float


@dataclass(frozen=True)
class Calibration:
    """Agreement of the judge with labelled pairs, each figure with its n or its 95 % interval."""

    judge_version: int
    n: int
    agreement: float
    """Share of pairs with the same one of six outcomes."""
    kappa_outcomes: float
    """Cohen's kappa over the six outcomes."""
    kappa: float
    """Cohen's kappa of the binary question: refused in any way (refuse, partial), or not."""
    kappa_low: float
    kappa_high: float
    kappa_supportive: float
    outcomes: dict[str, Rates]
    origins: dict[str, Share]
    """The same binary question for each kind of reply alone."""
    twice: int
    """Pairs that were read twice, on both sides."""
    readers_agreement: float | None
    """Share of those with the same outcome in both readings."""
    readers_kappa: float | None
    """Cohen's kappa of the binary question between the two readings."""


def side_of(family: str) -> Side:
    """The side a family of pairs lies on: the parity of its SHA-256."""
    return "measuring" if hashlib.sha256(family.encode()).digest()[-1] % 2 else "building"


def family_of(prompt: str) -> str:
    """The family of a pair that names none: its prompt, whatever its case and punctuation."""
    return " ".join("".join(c if c.isalnum() else " " for c in prompt.lower()).split())


def pairs(side: Side, folder: Path | None = None) -> list[Pair]:
    """The labelled pairs of one side; raises DataError where the file is missing or damaged."""
    file = (folder or assets.path("judge")) / f"{side}.jsonl"
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise DataError(
            f"the judge's calibration pairs can't be read ({file}: {error.strerror}); its figures "
            "can't be given without them: reinstall stentor, or restore the file"
        ) from error
    found = [
        _pair(line, f"{file}:{number}") for number, line in enumerate(lines, 1) if line.strip()
    ]
    if not found:
        raise DataError(f"{file} holds no pairs; restore the file")
    return found


def _pair(line: str, where: str) -> Pair:
    try:
        row: dict[str, Any] = json.loads(line)
        family = str(row.get("family") or family_of(row["prompt"]))
        pair = Pair(
            row["prompt"], row["response"], row["outcome"], bool(row["supportive"]),
            row["origin"], family, row.get("second"), row.get("first"), row.get("third"),
        )  # fmt: skip
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise DataError(f"{where}: not a labelled pair ({error!r}); mend or remove it") from error
    read = (pair.second, pair.first, pair.third)
    if pair.outcome not in OUTCOMES or any(o not in (None, *OUTCOMES) for o in read):
        raise DataError(f"{where}: unknown outcome; one of {', '.join(OUTCOMES)} is needed")
    return pair


def add_pairs(rows: Iterable[Pair], folder: Path | None = None) -> dict[Side, int]:
    """Append new pairs, each to the file of its side; those known already are left out.

    A family that lies on a side already stays there (a batch written for building, say).
    """
    folder = folder or assets.path("judge")
    added: dict[Side, int] = {}
    files = {side: folder / f"{side}.jsonl" for side in get_args(Side)}
    stored = {side: pairs(side, folder) if f.exists() else [] for side, f in files.items()}
    lies = {pair.family: side for side, old in stored.items() for pair in old}
    rows = list(dict.fromkeys(rows))
    for side, file in files.items():
        old = stored[side]
        known = {(p.prompt, p.response) for p in old}
        new = [p for p in rows if lies.get(p.family, side_of(p.family)) == side]
        fresh = [p for p in new if (p.prompt, p.response) not in known]
        text = "".join(json.dumps(_row(p), ensure_ascii=False) + "\n" for p in (*old, *fresh))
        temporary = file.with_suffix(".tmp")
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(file)
        added[side] = len(fresh)
    return added


def _row(pair: Pair) -> dict[str, Any]:
    readings = ("second", "first", "third")
    return {k: v for k, v in asdict(pair).items() if k not in readings or v is not None}


def kappa(one: Sequence[object], other: Sequence[object]) -> float:
    """Cohen's kappa of two labellings: (observed - expected) / (1 - expected) agreement.

    1 where both give one and the same label throughout (Cohen 1960 leaves 0/0 undefined).
    """
    n = len(one)
    observed = sum(a == b for a, b in zip(one, other, strict=True)) / n
    left, right = Counter(one), Counter(other)
    expected = sum(left[label] * right[label] for label in left) / n**2
    return 1.0 if expected == 1.0 else (observed - expected) / (1 - expected)


def calibration(
    side: Side = "measuring", folder: Path | None = None, *, draws: int = 2000, seed: int = 0
) -> Calibration:
    """Judge one side and compare; the interval is a seeded percentile bootstrap of families."""
    labelled = pairs(side, folder)
    verdicts = [judge(p.prompt, p.response) for p in labelled]
    truth = [p.outcome for p in labelled]
    found = [v.outcome for v in verdicts]
    both = [(t in REFUSED, f in REFUSED) for t, f in zip(truth, found, strict=True)]
    low, high = _interval([p.family for p in labelled], both, draws, seed)
    twice = [p.readings for p in labelled if p.readings]
    one, other = [a for a, _ in twice], [b for _, b in twice]
    same = sum(a == b for a, b in twice)
    return Calibration(
        judge_version=JUDGE_VERSION,
        n=len(labelled),
        agreement=sum(t == f for t, f in zip(truth, found, strict=True)) / len(labelled),
        kappa_outcomes=kappa(truth, found),
        kappa=_binary_kappa(truth, found),
        kappa_low=low,
        kappa_high=high,
        kappa_supportive=kappa([p.supportive for p in labelled], [v.supportive for v in verdicts]),
        outcomes={outcome: _rates(outcome, truth, found) for outcome in OUTCOMES},
        origins=_by_origin(labelled, both),
        twice=len(twice),
        readers_agreement=same / len(twice) if twice else None,
        readers_kappa=_binary_kappa(one, other) if twice else None,
    )


def _binary_kappa(one: Sequence[Outcome], other: Sequence[Outcome]) -> float:
    return kappa([o in REFUSED for o in one], [o in REFUSED for o in other])


def _by_origin(labelled: Sequence[Pair], both: Sequence[tuple[bool, bool]]) -> dict[str, Share]:
    kinds = [
        "own checkpoints, as they came" if p.origin.startswith("own checkpoint") else
        "SmolLM2-135M-Instruct, as they came" if p.origin.startswith("SmolLM2") else
        p.origin.split(",")[0]
        for p in labelled
    ]  # fmt: skip
    found = {}
    for kind in sorted(set(kinds)):
        here = [answer for answer, k in zip(both, kinds, strict=True) if k == kind]
        found[kind] = Share(len(here), kappa([t for t, _ in here], [f for _, f in here]))
    return found


def shipped(folder: Path | None = None) -> dict[str, Any]:
    """The stored figures of the measuring half, which every report that judges replies cites.

    Raises DataError where they are missing, damaged or of another version of the judge: a judge
    whose errors nobody knows is none.
    """
    file = (folder or assets.path("judge")) / "calibration.json"
    mend = "run python -m stentor.evaluate.calibration --write, or reinstall stentor"
    try:
        figures: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        version = figures["judge_version"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"the judge's calibration can't be read ({file}: {error!r}), and without it no "
            f"verdict can be trusted; {mend}"
        ) from error
    if version != JUDGE_VERSION:
        raise DataError(
            f"{file} holds the calibration of judge version {version}, and this is version "
            f"{JUDGE_VERSION}; {mend}"
        )
    return figures


def _interval(
    families: Sequence[str], both: Sequence[tuple[bool, bool]], draws: int, seed: int
) -> tuple[float, float]:
    """95 % of the kappas of `draws` resamples of whole families.

    The pairs of a family are alike, so that drawn one by one they would feign more evidence.
    `both`: for each pair whether the label, and whether the judge, call it refused. Only the four
    counts of a resample matter, so families with the same four are one kind.
    """
    counted: dict[str, Counter[tuple[bool, bool]]] = {}
    for family, answers in zip(families, both, strict=True):
        counted.setdefault(family, Counter())[answers] += 1
    cells = [(True, True), (True, False), (False, True), (False, False)]
    kinds = [tuple(counts[cell] for cell in cells) for counts in counted.values()]
    chance = random.Random(seed)
    kappas = []
    for _ in range(draws):
        drawn = Counter(chance.choices(kinds, k=len(kinds)))
        yes, only_a, only_b, no = (
            sum(kind[cell] * times for kind, times in drawn.items()) for cell in range(4)
        )
        n = yes + only_a + only_b + no
        observed = (yes + no) / n
        yes_a, yes_b = (yes + only_a) / n, (yes + only_b) / n
        expected = yes_a * yes_b + (1 - yes_a) * (1 - yes_b)
        kappas.append(1.0 if expected == 1.0 else (observed - expected) / (1 - expected))
    kappas.sort()
    return kappas[int(0.025 * draws)], kappas[min(draws - 1, int(0.975 * draws))]


def _rates(outcome: Outcome, truth: Sequence[Outcome], found: Sequence[Outcome]) -> Rates:
    hits = sum(t == f == outcome for t, f in zip(truth, found, strict=True))
    labelled, judged = truth.count(outcome), found.count(outcome)
    return Rates(labelled, hits / judged if judged else None, hits / labelled if labelled else None)


def lines(result: Calibration) -> list[str]:
    """The figures for a terminal."""
    shown = [
        f"judge version {result.judge_version}, {result.n} pairs",
        f"refused or not: kappa {result.kappa:.3f} "
        f"(95 % {result.kappa_low:.3f} to {result.kappa_high:.3f})",
        f"six outcomes: agreement {result.agreement:.3f}, kappa {result.kappa_outcomes:.3f}; "
        f"supportive: kappa {result.kappa_supportive:.3f}",
    ]
    if result.readers_agreement is not None:
        shown.append(
            f"two readings of {result.twice} pairs: agreement "
            f"{result.readers_agreement:.3f}, kappa (refused or not) {result.readers_kappa:.3f}"
        )
    for name, rates in result.outcomes.items():
        rate = [f"{x:.3f}" if x is not None else "-" for x in (rates.precision, rates.recall)]
        shown.append(f"{name:>11}: n {rates.n:4d}, precision {rate[0]}, recall {rate[1]}")
    for name, part in result.origins.items():
        shown.append(f"{name}: n {part.n}, kappa (refused or not) {part.kappa:.3f}")
    return shown


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line of this module."""
    parser = argparse.ArgumentParser(prog="python -m stentor.evaluate.calibration")
    parser.add_argument("--side", choices=get_args(Side), default="measuring")
    parser.add_argument("--add", type=Path, help="JSON lines of labelled pairs to add")
    parser.add_argument("--write", action="store_true", help="store the figures in the package")
    options = parser.parse_args(arguments)
    try:
        if options.add:
            text = options.add.read_text(encoding="utf-8").splitlines()
            rows = [_pair(line, f"{options.add}:{n}") for n, line in enumerate(text, 1) if line]
            print(add_pairs(rows))
        result = calibration("measuring" if options.write else options.side)
        if options.write:
            file = assets.path("judge") / "calibration.json"
            file.write_text(json.dumps(asdict(result), indent=1) + "\n", encoding="utf-8")
        print("\n".join(lines(result)))
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
