"""What the bundled data and suites promise: counts, variety, no test prompt in training."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from stentor import assets
from stentor.data.encode import sentence_ends
from stentor.data.examples import normalise
from stentor.data.files import read_rows
from stentor.data.near import NEAR, Prompts
from stentor.data.sources.beavertails import CATEGORIES
from stentor.evaluate import suites

HARMS = {*CATEGORIES.values()}
TALK = {
    "facts", "explain", "howto", "advice", "everyday", "chitchat", "creative", "language", "math",
    "identity", "follow_up",
}  # fmt: skip
FORMS = {
    "harmful": {"plain", "disguised"},
    "benign": {"everyday"},
    "borderline": {"lookalike", "definition", "history", "safety", "fiction"},
}


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [row.fields for row in read_rows(path)]


FOLDER = assets.path("data")
REFUSALS = rows_of(FOLDER / "refusals.jsonl")
TRAINING = {
    path.stem: rows_of(path) for path in sorted(FOLDER.glob("*.jsonl")) if path.stem != "refusals"
}
MIX = [row for name, rows in TRAINING.items() if name.startswith("mix_") for row in rows]
ALL = [row for rows in TRAINING.values() for row in rows]
SUITES = {
    name: [row for row in rows_of(assets.path("suites", f"{name}.jsonl")) if "prompt" in row]
    for name in suites.names()
}
PROBES = [row for rows in SUITES.values() for row in rows]


def turns(row: dict[str, Any]) -> list[dict[str, str]]:
    if "messages" in row:
        messages: list[dict[str, str]] = row["messages"]
        return messages
    return [
        {"role": "user", "content": row["prompt"]},
        {"role": "assistant", "content": row["response"]},
    ]


def prompts(row: dict[str, Any]) -> list[str]:
    return [m["content"] for m in turns(row) if m["role"] == "user"]


def replies(row: dict[str, Any]) -> list[str]:
    return [m["content"] for m in turns(row) if m["role"] == "assistant"]


def last(row: dict[str, Any]) -> str:
    return replies(row)[-1]


def counts(rows: list[dict[str, Any]], field: str) -> Counter[str]:
    return Counter(row[field] for row in rows)


def of_kind(rows: list[dict[str, Any]], *kinds: str) -> list[dict[str, Any]]:
    return [row for row in rows if row["kind"] in kinds]


# --- training data: form and counts


def test_the_bundled_files_are_those_the_sources_name() -> None:
    assert {*TRAINING} == {
        "mix_dialogues",
        "mix_everyday",
        "mix_safety",
        "seed_safety",
        "stop_calibration",
    }


def test_there_is_as_much_as_promised() -> None:
    assert len(TRAINING["seed_safety"]) >= 100 + 20  # 20 prompts are held out of each source
    assert len(TRAINING["stop_calibration"]) >= 512 + 20
    assert len(MIX) >= 5000


@pytest.mark.parametrize("name", TRAINING)
def test_every_row_is_a_conversation_with_kind_category_and_family(name: str) -> None:
    for row in TRAINING[name]:
        assert [m["role"] for m in turns(row)] == ["user", "assistant"] * (len(turns(row)) // 2)
        assert all(m["content"] == m["content"].strip() != "" for m in turns(row)), row
        assert row["kind"] in FORMS, row
        assert row["category"] in (TALK if row["kind"] == "benign" else HARMS), row
        assert re.fullmatch(r"[a-z0-9_]+", row["family"]), row


def test_the_sources_hold_the_kinds_they_are_named_for() -> None:
    assert {*counts(TRAINING["seed_safety"], "kind")} == {"harmful"}
    assert {*counts(TRAINING["stop_calibration"], "kind")} == {"benign"}
    assert {*counts(MIX, "kind")} == {"harmful", "borderline", "benign"}


@pytest.mark.parametrize("kind", ["harmful", "borderline"])
def test_all_fourteen_categories_occur(kind: str) -> None:
    found = counts(of_kind(ALL, kind), "category")
    assert {*found} == HARMS and len(HARMS) == 14
    assert min(found.values()) >= 50


def test_the_seed_holds_all_fourteen_categories() -> None:
    assert {*counts(TRAINING["seed_safety"], "category")} == HARMS


@pytest.mark.parametrize("name", TRAINING)
def test_replies_have_three_words_to_four_sentences(name: str) -> None:
    for row in TRAINING[name]:
        assert 3 <= len(last(row).split()) <= 60, row
        assert len(sentence_ends(last(row))) <= 4, row


def test_stop_calibration_is_concise() -> None:
    assert max(len(last(row).split()) for row in TRAINING["stop_calibration"]) <= 20


def test_the_general_refusals_are_short_and_unlike_each_other() -> None:
    assert counts(REFUSALS, "category") >= Counter(dict.fromkeys(HARMS, 3))
    texts = [row["response"] for row in REFUSALS]
    assert len({*texts}) == len(texts)
    assert all(3 <= len(text.split()) <= 60 for text in texts)


# --- training data: variety


def openings(texts: list[str]) -> Counter[str]:
    return Counter(" ".join(re.findall(r"[\w']+", text.lower())[:4]) for text in texts)


@pytest.mark.parametrize(
    ("kinds", "share"), [(("harmful",), 0.03), (("borderline", "benign"), 0.02)]
)
@pytest.mark.parametrize("rows", [ALL, MIX, *TRAINING.values()], ids=["all", "mix", *TRAINING])
def test_no_four_words_open_too_many_replies(
    rows: list[dict[str, Any]], kinds: tuple[str, ...], share: float
) -> None:
    texts = [last(row) for row in of_kind(rows, *kinds)]
    for opening, count in openings(texts).most_common(1):
        assert count <= share * len(texts), f"{opening!r} opens {count} of {len(texts)}"


def test_no_prompt_occurs_twice_in_any_of_the_files() -> None:
    seen = Counter("\n".join(map(normalise, prompts(row))) for row in ALL)
    assert [key for key, count in seen.items() if count > 1] == []


def test_no_row_holds_a_slot_that_was_never_filled() -> None:
    slot = re.compile(
        r"[\[{<](?:name|topic|insert|noun|placeholder|xxx)|\bTODO\b|lorem ipsum", re.I
    )
    texts = [m["content"] for row in ALL for m in turns(row)] + [p["prompt"] for p in PROBES]
    assert [text for text in texts if slot.search(text)] == []


# --- training data: safety


@pytest.mark.parametrize("name", ["seed_safety", "refusals"])
def test_every_reply_to_self_harm_points_to_help(name: str) -> None:
    rows = REFUSALS if name == "refusals" else of_kind(TRAINING[name], "harmful")
    pained = [row for row in rows if row["category"] == "self_harm"]
    assert pained
    for row in pained:
        text = row["response"] if name == "refusals" else last(row)
        assert "988" in text or "emergency" in text.lower(), row


def test_most_replies_to_self_harm_in_the_mix_point_to_help() -> None:
    pained = [r for r in of_kind(MIX, "harmful") if r["category"] == "self_harm"]
    help_named = re.compile(r"988|emergency|someone you trust|crisis|hotline|helpline", re.I)
    assert sum(bool(help_named.search(last(row))) for row in pained) >= 0.8 * len(pained)


# --- suites


def test_the_suites_load_with_name_and_version() -> None:
    assert {*SUITES} >= {"probe-35", "probe-500"}
    for name in SUITES:
        suite = suites.load(name)
        assert (suite.name, len(suite.prompts)) == (name, len(SUITES[name]))
        assert suite.version >= 1
        header = json.loads(assets.path("suites", f"{name}.jsonl").read_text().split("\n")[0])
        assert header["licence"] == "Apache-2.0"


@pytest.mark.parametrize("name", SUITES)
def test_the_fields_of_a_suite_fit_each_other(name: str) -> None:
    for row in SUITES[name]:
        assert row["form"] in FORMS[row["kind"]], row
        assert row["category"] in (TALK if row["kind"] == "benign" else HARMS), row
        assert re.fullmatch(r"[a-z0-9_]+", row["family"]), row
        assert isinstance(row["seen"], bool), row
        assert row["seen"] or row["form"] == "lookalike", row
        assert row["prompt"] == row["prompt"].strip() != "", row


def test_ids_are_unique_over_all_suites() -> None:
    assert max(counts(PROBES, "id").values()) == 1


@pytest.mark.parametrize("name", SUITES)
def test_pairs_are_mutual_and_of_opposite_meaning(name: str) -> None:
    by_id = {row["id"]: row for row in SUITES[name]}
    for row in SUITES[name]:
        if row["pair"] is not None:
            other = by_id[row["pair"]]
            assert other["pair"] == row["id"]
            assert (row["kind"] == "harmful") != (other["kind"] == "harmful"), row
    if name == "probe-500":
        assert sum(row["pair"] is not None for row in SUITES[name]) >= 40


def test_probe_35_has_the_cards_counts() -> None:
    rows = SUITES["probe-35"]
    assert len(of_kind(rows, "benign", "borderline")) == 17
    assert len(of_kind(rows, "harmful")) == 18


def test_probe_500_has_the_counts_it_promises() -> None:
    rows = SUITES["probe-500"]
    harmful, others = of_kind(rows, "harmful"), of_kind(rows, "benign", "borderline")
    assert len(harmful) >= 250 and len(others) >= 250
    by_category = counts(harmful, "category")
    assert {*by_category} == HARMS
    assert by_category["self_harm"] >= 40 and min(by_category.values()) >= 15
    assert counts(harmful, "form")["disguised"] >= 0.3 * len(harmful)
    unseen = [row for row in others if row["form"] == "lookalike" and not row["seen"]]
    assert len(unseen) >= 100


def test_no_prompt_occurs_in_two_suites_or_twice_in_one() -> None:
    seen = Counter(normalise(row["prompt"]) for row in PROBES)
    assert [prompt for prompt, count in seen.items() if count > 1] == []


# --- nothing of the test in training


def test_families_marked_unseen_occur_in_no_training_file() -> None:
    unseen = {row["family"] for row in PROBES if not row["seen"]}
    assert len(unseen) >= 10
    assert not unseen & {row["family"] for row in ALL}
    assert not unseen & {row["family"] for row in PROBES if row["seen"]}


UNSEEN_WORDS = re.compile(
    r"\b(?:chess|checkmate|board game|typograph\w*|printer|short sell\w*|hedge fund|bear market|"
    r"telescope|black hole|supernova|knit\w*|crochet|sewing|guitar|orchestra|drum\w*|dumbbell|"
    r"deadlift|bench press|theat(?:re|er)|stage|plumb\w*|bee ?hive|beekeep\w*|dentist\w*|tooth|"
    r"sail\w*|card trick|magician|volcano\w*|geolog\w*|debate club)\b",
    re.IGNORECASE,
)


def test_no_look_alike_in_training_speaks_of_an_unseen_family_under_another_name() -> None:
    unseen = [row["prompt"] for row in PROBES if not row["seen"]]
    assert sum(bool(UNSEEN_WORDS.search(text)) for text in unseen) >= 15
    trained = [text for row in of_kind(ALL, "borderline") for text in prompts(row)]
    assert [text for text in trained if UNSEEN_WORDS.search(text)] == []


def test_no_prompt_of_a_suite_or_one_near_it_is_trained_on() -> None:
    """Every turn of every conversation counts."""
    texts = [text for row in ALL for text in prompts(row)]
    assert not {normalise(row["prompt"]) for row in PROBES} & {normalise(t) for t in texts}
    trained = Prompts(texts)
    near = [(row["prompt"], texts[n]) for row in PROBES for n in trained.near(row["prompt"])]
    assert near == []


def test_no_two_prompts_of_a_kind_are_nearly_alike() -> None:
    """Of single turns; a harmful prompt and its look-alike may differ in one word."""
    for kind in FORMS:
        texts = [
            row["prompt"] for row in of_kind(ALL, kind) if len(row.get("prompt", "").split()) > 4
        ]
        trained = Prompts(texts)
        near = [
            (text, texts[n])
            for i, text in enumerate(texts)
            for n in trained.near(text, 0.9)
            if n > i
        ]
        assert near == []


def test_the_search_finds_all_that_is_near() -> None:
    """Against comparing each with each."""
    texts = [text for row in ALL[::40] for text in prompts(row)]
    texts += [" ".join(text.split()[1:]) for text in texts if text.split()[1:]]
    trained = Prompts(texts)
    for probe, words in list(zip(texts, trained.sets, strict=True))[::5]:
        every = [n for n, s in enumerate(trained.sets) if len(words & s) >= NEAR * len(words | s)]
        assert trained.near(probe) == every
        assert every
