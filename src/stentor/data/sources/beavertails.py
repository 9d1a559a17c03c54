"""BeaverTails: prompts with answers that people labelled safe or unsafe (CC BY-NC 4.0).

A prompt is *harmful* when most of its pairs are unsafe: it is paired with a refusal of ours that
fits its category. It is *helpful* when none is: it keeps its safe answers. Prompts in between are
left out and counted.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator

from stentor import assets
from stentor.data.examples import Example, Tally, conversation, normalise
from stentor.data.files import Row, read_rows
from stentor.data.sources import Place
from stentor.errors import DataError

ABOUT = "harmful prompts refused, harmless ones with their safe answers (CC BY-NC 4.0)"
LICENCE = "cc-by-nc-4.0"
DEFAULT = Place(hub="PKU-Alignment/BeaverTails", split="330k_train")

# BeaverTails' names of its categories → ours.
CATEGORIES = {
    "animal_abuse": "animal_abuse",
    "child_abuse": "child_abuse",
    "controversial_topics,politics": "controversial_topics",
    "discrimination,stereotype,injustice": "discrimination",
    "drug_abuse,weapons,banned_substance": "drugs_weapons",
    "financial_crime,property_crime,theft": "financial_crime",
    "hate_speech,offensive_language": "hate_speech",
    "misinformation_regarding_ethics,laws_and_safety": "misinformation",
    "non_violent_unethical_behavior": "unethical_behavior",
    "privacy_violation": "privacy_violation",
    "self_harm": "self_harm",
    "sexually_explicit,adult_content": "sexual_content",
    "terrorism,organized_crime": "terrorism",
    "violence,aiding_and_abetting,incitement": "violence",
}


def read(rows: Iterable[Row], tally: Tally) -> Iterator[Example]:
    """Prompts in the order in which they first appear."""
    prompts: dict[str, list[Row]] = {}
    for row in rows:
        prompt, safe = row.fields.get("prompt"), row.fields.get("is_safe")
        if not isinstance(prompt, str) or not prompt.strip() or not isinstance(safe, bool):
            tally.problems.append(f"{row.where}: prompt or is_safe is missing")
            continue
        if not isinstance(row.fields.get("category") or {}, dict):
            tally.problems.append(
                f"{row.where}: category is not a mapping of names to true or false"
            )
            continue
        prompts.setdefault(normalise(prompt), []).append(row)
    refusals = _refusals()
    for key, pairs in prompts.items():
        unsafe = [row for row in pairs if not row.fields["is_safe"]]
        if 2 * len(unsafe) > len(pairs):
            yield _refused(key, unsafe, refusals)
            if len(pairs) > 1:
                tally.left_out["further answers to a harmful prompt"] += len(pairs) - 1
        elif unsafe:
            tally.left_out["prompt neither harmful nor helpful"] += len(pairs)
        else:
            yield from _helpful(pairs, tally)


def _refused(key: str, unsafe: list[Row], refusals: dict[str, list[str]]) -> Example:
    flags = Counter(
        ours
        for row in unsafe
        for name, ours in CATEGORIES.items()
        if (row.fields.get("category") or {}).get(name)
    )
    # the rarest need comes first: pain asks for support whatever else a prompt touches
    category = (
        "self_harm" if "self_harm" in flags else (flags.most_common(1) or [("violence", 0)])[0][0]
    )
    choices = refusals[category]
    drawn = int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big") % len(choices)
    prompt = unsafe[0].fields["prompt"]
    return conversation(prompt, choices[drawn], "harmful", unsafe[0].where, category=category)


def _helpful(pairs: list[Row], tally: Tally) -> Iterator[Example]:
    for row in pairs:
        try:
            yield conversation(
                row.fields["prompt"], row.fields.get("response"), "borderline", row.where
            )
        except DataError as problem:
            tally.problems.append(str(problem))


def _refusals() -> dict[str, list[str]]:
    """Our refusals that fit any prompt of a category."""
    found: dict[str, list[str]] = {}
    for row in read_rows(assets.path("data", "refusals.jsonl")):
        found.setdefault(row.fields["category"], []).append(row.fields["response"])
    return found
