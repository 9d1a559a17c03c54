"""Prompts for `stentor data distill`, from data sets that allow commercial use and our own mix.

    python benchmarks/distill_prompts.py --data DIR --out FOLDER
    stentor data distill FOLDER/known.jsonl --out FOLDER/known_pairs.jsonl.gz

DIR holds the sets as JSON lines, packed or not, in any subfolders: databricks-dolly-15k
(CC BY-SA 3.0), webquestions (CC BY 4.0), opentriviaqa (CC BY-SA 4.0). Sets that are not there are
left out, and said. Three files come out, the most promising first: `known` (short questions whose
answer is known, so that a wrong reply is seen), `advice`, and `explain` (with the answer that the
set gives as the reference).
"""

from __future__ import annotations

import argparse
import json
import random
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stentor import assets
from stentor.data.examples import normalise
from stentor.data.files import read_rows

OURS = ("mix_everyday", "mix_safety", "stop_calibration")
TRIVIA = {"animals", "for-kids", "general", "geography", "history", "humanities", "world"}
LONGEST = 18  # words of a prompt
ADVICE = re.compile(
    r"(?:how (?:can|do|should|could) (?:i|you|we|one)|what (?:should|can) i|"
    r"why (?:do|should) (?:people|i|we)|(?:give me|what are) (?:some |good |fun )*(?:tips|ways))\b",
    re.IGNORECASE,
)
UNFIT = re.compile(  # what changes with time, needs a list, or asks for a name
    r"\b(?:latest|current|today|recent|\d{4}|of all time|favou?rite|who|whose|list|names?|code|"
    r"how (?:many|much|old|tall|far)|which (?:year|team|player)|movies?|films?|songs?|albums?)\b",
    re.IGNORECASE,
)


def common_words() -> set[str]:
    """The words that occur twice and more in our own rows: what a small model may know."""
    words: Counter[str] = Counter()
    for name in OURS:
        for row in read_rows(assets.path("data", f"{name}.jsonl")):
            words.update(normalise(f"{row.fields['prompt']} {row.fields['response']}").split())
    return {word for word, count in words.items() if count > 1}


def rows_of(data: Path, name: str) -> Iterator[dict[str, Any]]:
    files = sorted(path for path in data.rglob(f"*{name}*.jsonl*") if path.is_file())
    if not files:
        print(f"{name}: not in {data}, left out", file=sys.stderr)
    for file in files:
        yield from (row.fields for row in read_rows(file))


def known(data: Path, common: set[str]) -> Iterator[dict[str, Any]]:
    """Questions of common words, with their answers."""
    for row in rows_of(data, "webquestions"):
        if len(row["answers"]) == 1 and rare(row["qText"], common) <= 2:
            asked = row["qText"][:1].upper() + row["qText"][1:]
            yield {"prompt": asked, "answers": row["answers"], "source": "webquestions"}
    for row in rows_of(data, "opentriviaqa"):
        asked, answer = row["question"].strip(), row["answer"]
        alone = asked.endswith("?") and not re.search(r"\b(?:these|following)\b|_", asked)
        short = len(asked.split()) <= LONGEST and len(answer.split()) <= 3
        if row["category"] in TRIVIA and alone and short and rare(asked, common) <= 1:
            yield {"prompt": asked, "answers": [answer], "source": "opentriviaqa"}


def dolly(data: Path, common: set[str]) -> Iterator[dict[str, Any]]:
    """Questions without a context or a name, of common words, with the answer that people gave."""
    for row in rows_of(data, "databricks-dolly"):
        asked = " ".join(row["instruction"].split())
        named = re.search(r"\b[A-Z][a-z]", asked[1:])
        if row["context"] or row["category"] == "classification" or named or UNFIT.search(asked):
            continue
        if 2 <= len(asked.split()) <= LONGEST and rare(asked, common) == 0:
            yield {"prompt": asked, "reference": row["response"][:600], "source": "dolly"}


def rare(text: str, common: set[str]) -> int:
    return sum(word not in common for word in normalise(text).split())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    common = common_words()
    people = list(dolly(given.data, common))
    files = {
        "known": list(known(given.data, common)),
        "advice": [row for row in people if ADVICE.match(row["prompt"])],
        "explain": [row for row in people if not ADVICE.match(row["prompt"])],
    }
    given.out.mkdir(parents=True, exist_ok=True)
    for name, rows in files.items():
        random.Random(0).shuffle(rows)
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (given.out / f"{name}.jsonl").write_text(lines)
        print(f"{name}: {len(rows):,} {dict(Counter(row['source'] for row in rows))}")


if __name__ == "__main__":
    main()
