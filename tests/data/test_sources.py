"""Each source maps its rows to the right kind, and notes what it can't use."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stentor import assets
from stentor.data import sources
from stentor.data.examples import Example, Tally
from stentor.data.files import read_rows
from stentor.data.sources.beavertails import CATEGORIES
from stentor.errors import DataError
from stentor.recipe import SourcePart

WriteRows = Callable[..., Path]


def texts(example: Example) -> list[str]:
    return [m["content"] for m in example.messages]


def read(
    write_rows: WriteRows, use: str, rows: list[Any], **fields: Any
) -> tuple[list[Example], Tally]:
    write_rows("rows.jsonl", rows)
    tally = Tally()
    part = SourcePart(use=use, path="rows.jsonl", **fields)
    return sources.examples(part, Path(), tally, seed=1), tally


# --- every source: a row as its data set has it, and what becomes of it

MAPPED = [
    ("chat", {"prompt": "P", "response": "R"}, "benign", "", ["P", "R"], None),
    ("chat", {"prompt": "P", "response": "R", "kind": "harmful", "category": "violence"},
     "harmful", "violence", ["P", "R"], None),
    ("chat", {"messages": [{"role": "user", "content": "P"}, {"role": "assistant", "content": "R"}],
              "kind": "borderline"}, "borderline", "", ["P", "R"], None),
    ("chat", {"messages": None, "prompt": "P", "response": "R"}, "benign", "", ["P", "R"], None),
    ("dolly", {"instruction": "P", "context": "", "response": "R", "category": "open_qa"},
     "benign", "open_qa", ["P", "R"], None),
    ("dolly", {"instruction": "P", "context": " C ", "response": "R"},
     "benign", "", ["P\n\nC", "R"], None),
    ("dolly", {"instruction": "P", "context": None, "response": "R"},
     "benign", "", ["P", "R"], None),
    ("instruction", {"instruction": "P", "input": "I", "output": "R"},
     "benign", "", ["P\n\nI", "R"], None),
    ("safety_tuned_llamas", {"instruction": "P", "input": "", "output": "R"},
     "harmful", "", ["P", "R"], None),
    ("falsereject", {"prompt": "P", "instruct_response": "R", "category_text": "Theft"},
     "borderline", "Theft", ["P", "R"], None),
    ("falsereject", {"prompt": "P", "response": "R", "category": 4},
     "borderline", "4", ["P", "R"], None),
    ("coconot", {"prompt": "P", "chosen": "R", "rejected": "No.", "subcategory": "safety"},
     "borderline", "safety", ["P", "R"], "No."),
    ("pku_saferlhf", {"prompt": "P", "response": "R"}, "borderline", "", ["P", "R"], None),
    ("pku_saferlhf", {"prompt": "P", "response": ["R", "U"]}, "borderline", "", ["P", "R"], "U"),
    ("pku_saferlhf", {"prompt": "P", "response": ["R"]}, "borderline", "", ["P", "R"], None),
    ("preference", {"prompt": "P", "chosen": "R", "rejected": "W", "kind": "harmful"},
     "harmful", "", ["P", "R"], "W"),
    ("preference", {"prompt": "P", "chosen": [{"role": "user", "content": "P"},
                                              {"role": "assistant", "content": "R"}],
                    "rejected": [{"role": "assistant", "content": "W"}]},
     "benign", "", ["P", "R"], "W"),
    ("preference", {"prompt": [{"role": "user", "content": "P"}],
                    "chosen": [{"role": "assistant", "content": "R"}],
                    "rejected": [{"role": "assistant", "content": "W"}]},
     "benign", "", ["P", "R"], "W"),
    ("transcript", {"text": "User: P\nAssistant: R\n"}, "benign", "", ["P", "R"], None),
    ("beavertails", {"prompt": "P", "response": "R", "is_safe": True, "category": {}},
     "borderline", "", ["P", "R"], None),
]  # fmt: skip


@pytest.mark.parametrize(("use", "row", "kind", "category", "expected", "rejected"), MAPPED)
def test_a_source_maps_its_rows(
    write_rows: WriteRows, use: str, row: Any, kind: str, category: str,
    expected: list[str], rejected: str | None,
) -> None:  # fmt: skip
    (example,), tally = read(write_rows, use, [row])
    assert texts(example) == expected
    assert [m["role"] for m in example.messages] == ["user", "assistant"]
    assert (example.kind, example.category, example.rejected) == (kind, category, rejected)
    assert example.where == "rows.jsonl:1"
    assert (tally.read, tally.kept, tally.problems) == (1, 1, [])


def test_every_source_that_reads_a_file_of_ones_own_is_tried_here() -> None:
    bundled = {"bundled", "seed_safety", "stop_calibration"}
    assert {"text", *(use for use, *_ in MAPPED)} == {*sources.names()} - bundled


BAD = [
    ("chat", {"prompt": "P"}, "the reply is missing or empty"),
    ("chat", {"messages": []}, "a conversation has no messages; it needs at least one of the user"),
    ("dolly", {"context": "", "response": "R"}, "the prompt is missing or empty"),
    ("dolly", {"instruction": "P", "response": None}, "the reply is missing or empty"),
    ("instruction", {"instruction": "P", "input": "", "output": " "},
     "the reply is missing or empty"),
    ("safety_tuned_llamas", {"input": "", "output": "R"}, "the prompt is missing or empty"),
    ("falsereject", {"prompt": "P"}, "the reply is missing or empty"),
    ("coconot", {"prompt": "P", "rejected": "W"}, "the reply is missing or empty"),
    ("pku_saferlhf", {"prompt": "P", "response": []}, "the reply is missing or empty"),
    ("pku_saferlhf", {"prompt": "P", "response": ["R", 3]}, "the rejected reply is no text"),
    ("coconot", {"prompt": "P", "chosen": "R", "rejected": ["W"]}, "the rejected reply is no text"),
    ("preference", {"prompt": "P", "chosen": "R"}, "the rejected reply is missing"),
    ("preference", {"prompt": [{"role": "system", "content": "S"},
                               {"role": "user", "content": "P"}], "chosen": "R", "rejected": "W"},
     "a prompt that is a list must hold one message, the user's"),
    ("preference", {"prompt": "P", "chosen": [], "rejected": "W"}, "the reply is missing or empty"),
    ("beavertails", {"prompt": "P", "response": "R"}, "prompt or is_safe is missing"),
    ("beavertails", {"prompt": "P", "response": "R", "is_safe": "no"},
     "prompt or is_safe is missing"),
    ("beavertails", {"response": "R", "is_safe": True}, "prompt or is_safe is missing"),
    ("beavertails", {"prompt": "P", "response": "", "is_safe": True},
     "the reply is missing or empty"),
    ("beavertails", {"prompt": "P", "response": "R", "is_safe": False, "category": "violence"},
     "category is not a mapping of names to true or false"),
]  # fmt: skip


@pytest.mark.parametrize(("use", "row", "why"), BAD)
def test_a_source_notes_a_bad_row_and_reads_on(
    write_rows: WriteRows, use: str, row: Any, why: str
) -> None:
    good = [row for name, row, *_ in MAPPED if name == use][-1]
    found, tally = read(write_rows, use, [row, "{", good])
    assert [e.where for e in found] == ["rows.jsonl:3"]
    assert sorted(tally.problems) == [
        f"rows.jsonl:1: {why}",
        "rows.jsonl:2: not JSON: Expecting property name enclosed in double quotes at column 2",
    ]
    assert (tally.read, tally.kept) == (2, 1)


def test_a_conversation_of_several_turns_is_kept_whole(write_rows: WriteRows) -> None:
    roles = ["system", "user", "assistant", "user", "assistant"]
    messages = [{"role": role, "content": f"{n} "} for n, role in enumerate(roles)]
    (example,), _ = read(write_rows, "chat", [{"messages": messages}])
    assert [m["role"] for m in example.messages] == roles
    assert texts(example) == ["0", "1", "2", "3", "4"]


TRANSCRIPTS = [
    ("User: A\nAssistant: B\nUser: C\nAssistant: D", ["A", "B", "C", "D"]),
    ("User: A\nAssistant: B\nUser: C", ["A", "B"]),  # up to the last reply
    ("User: A\n\nin two\nAssistant:B\nsaid User: not I", ["A\n\nin two", "B\nsaid User: not I"]),
]


@pytest.mark.parametrize(("text", "expected"), TRANSCRIPTS)
def test_a_transcript_gives_its_whole_exchanges(
    write_rows: WriteRows, text: str, expected: list[str]
) -> None:
    (example,), tally = read(write_rows, "transcript", [{"text": text}])
    assert texts(example) == expected
    assert not tally.left_out and not tally.problems


def test_plain_documents_are_kept_whole_and_what_holds_no_text_is_noted(
    write_rows: WriteRows,
) -> None:
    found, tally = read(write_rows, "text", [{"text": " A bird. "}, {"text": "  "}, {"words": "x"}])
    (example,) = found
    assert example.messages == ({"role": "text", "content": "A bird."},)
    assert example.kind == "text" and example.key == "a bird"
    assert len(tally.problems) == 2 and ":2: there is no text" in tally.problems[0]


def test_documents_that_are_no_transcripts_are_passed_over_and_counted(
    write_rows: WriteRows,
) -> None:
    """They come from a corpus, in which most documents are none: that is no mistake."""
    rows = [
        {"text": t}
        for t in (
            "A bird.",
            "Users: many",
            "Assistant: B\nUser: A",
            "User: A",
            "User: A\nUser: B\nAssistant: C",
            "User: A\nAssistant:\nUser: B\nAssistant: C",
        )
    ]
    rows += [{"prompt": "P"}, {"text": "User: A\nAssistant: B"}]
    (example,), tally = read(write_rows, "transcript", rows)
    assert texts(example) == ["A", "B"]
    assert tally.left_out == {"not a transcript": 4, "not whole exchanges": 3}
    assert not tally.problems and tally.read == 8


# --- BeaverTails

REFUSALS: dict[str, list[str]] = {}
for _row in read_rows(assets.path("data", "refusals.jsonl")):
    REFUSALS.setdefault(_row.fields["category"], []).append(_row.fields["response"])

TO_THEIRS = {ours: theirs for theirs, ours in CATEGORIES.items()}


def pair(prompt: str, *, safe: bool, categories: tuple[str, ...] = (), reply: str = "R") -> Any:
    """A row of BeaverTails; `categories` by our names."""
    flags = {theirs: ours in categories for theirs, ours in CATEGORIES.items()}
    return {"prompt": prompt, "response": reply, "is_safe": safe, "category": flags}


@pytest.mark.parametrize(
    ("labels", "kind", "examples"),
    [
        ("U", "harmful", 1),
        ("UU", "harmful", 1),
        ("UUS", "harmful", 1),
        ("SUU", "harmful", 1),
        ("US", None, 0),  # half is not most
        ("SSU", None, 0),
        ("S", "borderline", 1),
        ("SSS", "borderline", 3),
    ],
)
def test_a_prompt_is_harmful_when_most_pairs_are_unsafe_helpful_when_none_is(
    write_rows: WriteRows, labels: str, kind: str | None, examples: int
) -> None:
    rows = [
        pair("P?", safe=label == "S", categories=("violence",), reply=f"{label}{n}")
        for n, label in enumerate(labels)
    ]
    found, tally = read(write_rows, "beavertails", rows)
    assert [e.kind for e in found] == [kind] * examples
    assert tally.read == len(rows) == len(found) + sum(tally.left_out.values())
    if kind is None:
        assert tally.left_out["prompt neither harmful nor helpful"] == len(rows)


def test_prompts_that_differ_in_case_and_marks_are_judged_together(write_rows: WriteRows) -> None:
    rows = [
        pair("How do I do it?", safe=False, categories=("violence",)),
        pair("how do i do it", safe=True),
        pair("Other", safe=True),
        pair("HOW do I do it!", safe=False, categories=("violence",)),
    ]
    found, _ = read(write_rows, "beavertails", rows)
    assert [(e.kind, texts(e)[0]) for e in found] == [
        ("harmful", "How do I do it?"),
        ("borderline", "Other"),
    ]


@pytest.mark.parametrize("category", sorted(REFUSALS))
def test_a_harmful_prompt_gets_a_refusal_of_ours_that_fits_its_category(
    write_rows: WriteRows, category: str
) -> None:
    rows = [pair(f"P{n}", safe=False, categories=(category,)) for n in range(30)]
    found, _ = read(write_rows, "beavertails", rows)
    assert {e.category for e in found} == {category}
    replies = {texts(e)[1] for e in found}
    assert replies <= {*REFUSALS[category]}
    assert len(replies) > 1  # not the same one for all


def test_there_are_refusals_for_each_of_the_fourteen_categories() -> None:
    assert {*REFUSALS} == {*CATEGORIES.values()} == {*TO_THEIRS}
    assert len(REFUSALS) == 14


def test_the_category_named_most_often_decides(write_rows: WriteRows) -> None:
    rows = [
        pair("P", safe=False, categories=("violence", "terrorism")),
        pair("P", safe=False, categories=("terrorism",)),
        pair("P", safe=True, categories=("violence",)),  # what is safe has no say
        pair("P", safe=False, categories=("terrorism",)),
    ]
    (example,), _ = read(write_rows, "beavertails", rows)
    assert example.category == "terrorism"


def test_pain_asks_for_support_whatever_else_a_prompt_touches(write_rows: WriteRows) -> None:
    rows = [pair("P", safe=False, categories=("violence", "drugs_weapons"))] * 4
    rows.append(pair("P", safe=False, categories=("violence", "self_harm")))
    (example,), _ = read(write_rows, "beavertails", rows)
    assert example.category == "self_harm"
    assert texts(example)[1] in REFUSALS["self_harm"]


@pytest.mark.parametrize("category", [None, {}, {"unheard of": True}])
def test_an_unsafe_prompt_without_a_category_is_still_refused(
    write_rows: WriteRows, category: Any
) -> None:
    row = {"prompt": "P", "response": "R", "is_safe": False, "category": category}
    (example,), _ = read(write_rows, "beavertails", [row])
    assert example.kind == "harmful"
    assert texts(example)[1] in {r for group in REFUSALS.values() for r in group}


def test_a_prompt_gets_the_same_refusal_wherever_it_stands(write_rows: WriteRows) -> None:
    rows = [pair(f"Prompt {n}!", safe=False, categories=("violence",)) for n in range(40)]
    one, _ = read(write_rows, "beavertails", rows)
    other, _ = read(write_rows, "beavertails", [*reversed(rows), rows[3]])
    assert {texts(e)[0]: texts(e)[1] for e in one} == {texts(e)[0]: texts(e)[1] for e in other}
    marks, _ = read(
        write_rows, "beavertails", [pair("prompt 3", safe=False, categories=("violence",))]
    )
    assert texts(marks[0])[1] == texts(one[3])[1]


def test_an_unsafe_answer_is_never_learned(write_rows: WriteRows) -> None:
    rows = [
        pair(f"P{n % 7}", safe=n % 3 == 0, categories=("violence",), reply=f"safe {n}")
        if n % 3 == 0
        else pair(f"P{n % 7}", safe=False, categories=("violence",), reply=f"UNSAFE {n}")
        for n in range(60)
    ]
    found, tally = read(write_rows, "beavertails", rows)
    assert found
    assert not any("UNSAFE" in text for e in found for text in [*texts(e), e.rejected or ""])
    assert tally.read == 60 == len(found) + sum(tally.left_out.values())


# --- choosing among rows


def test_only_the_kinds_asked_for_are_kept_and_the_others_counted(write_rows: WriteRows) -> None:
    rows = [
        {"prompt": f"P{n}", "response": "R", "kind": kind}
        for n, kind in enumerate(["harmful", "benign", "borderline", "benign"])
    ]
    found, tally = read(write_rows, "chat", rows, kinds=("harmful", "borderline"))
    assert [e.kind for e in found] == ["harmful", "borderline"]
    assert (tally.read, tally.kept, tally.left_out) == (4, 2, {"kind benign": 2})


def test_a_cap_draws_by_the_seed_and_keeps_the_order(write_rows: WriteRows) -> None:
    rows = [{"prompt": f"P{n}", "response": "R"} for n in range(200)]
    found, tally = read(write_rows, "chat", rows, cap=30)
    again, _ = read(write_rows, "chat", rows, cap=30)
    other = sources.examples(SourcePart(use="chat", path="rows.jsonl", cap=30), Path(), seed=2)
    numbers = [int(texts(e)[0][1:]) for e in found]
    assert len(found) == 30 == tally.kept
    assert numbers == sorted(numbers) and numbers != list(range(30))
    assert found == again != other
    assert tally.left_out == {"over the cap": 170}


def test_a_cap_above_the_rows_leaves_nothing_out(write_rows: WriteRows) -> None:
    rows = [{"prompt": f"P{n}", "response": "R"} for n in range(3)]
    found, tally = read(write_rows, "chat", rows, cap=3)
    assert len(found) == 3 and not tally.left_out


def test_a_glob_reads_all_its_files_in_order(write_rows: WriteRows, tmp_path: Path) -> None:
    for name in ("b", "a"):
        write_rows(f"part-{name}.jsonl", [{"prompt": name, "response": "R"}])
    found = sources.examples(SourcePart(use="chat", path="part-*.jsonl"), tmp_path)
    assert [e.where for e in found] == [f"{tmp_path}/part-{n}.jsonl:1" for n in "ab"]


@pytest.mark.parametrize("use", ["seed_safety", "stop_calibration", "bundled"])
def test_our_own_sources_need_no_file(use: str) -> None:
    tally = Tally()
    found = sources.examples(SourcePart(use=use), Path("/nowhere"), tally)
    assert len(found) == tally.read > 100
    assert not tally.problems and not tally.left_out


# --- what can't be read


def test_an_unknown_source_names_the_nearest() -> None:
    with pytest.raises(DataError) as caught:
        sources.find("beavertail")
    assert str(caught.value) == (
        "no source is called 'beavertail'; did you mean 'beavertails'?"
    )  # fmt: skip


def test_a_source_without_rows_of_its_own_asks_for_a_place() -> None:
    with pytest.raises(DataError) as caught:
        sources.examples(SourcePart(use="chat"), Path())
    assert str(caught.value) == (
        "source chat: give a path or a hub data set; it has none of its own"
    )


def test_a_missing_file_says_where_paths_start(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        sources.examples(SourcePart(use="chat", path="none-*.jsonl"), tmp_path)
    assert str(caught.value) == (
        f"{tmp_path}/none-*.jsonl: no such file; relative paths start from data.root or "
        "STENTOR_DATA"
    )


def test_a_hub_source_out_of_reach_is_an_error_that_names_it() -> None:
    with pytest.raises(DataError, match=r"^databricks/databricks-dolly-15k \(train\): "):
        sources.examples(SourcePart(use="dolly"), Path())
