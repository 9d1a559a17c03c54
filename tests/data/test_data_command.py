"""`stentor data show` and `stentor data check`: what a recipe's data come to."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stentor.chat import SegmentTemplate
from stentor.data import command
from stentor.data.encode import encode
from stentor.data.examples import Tally, conversation
from stentor.errors import RecipeError

WriteRows = Callable[..., Path]

RECIPE = """
name: mine
model: {base: "preset:stentor-2m"}
data:
  system: Be kind.
  max_tokens: 60
  hold_out: 0.2
  hold_out_at_least: 1
  sources:
    mine: {use: chat, path: mine.jsonl}
phases:
  - {name: one, mix: {mine: 10}}
  - {name: two, mix: {"mine:harmful": 5}}
"""

ROWS: list[Any] = [
    {
        "prompt": f"Question {n}?",
        "response": f"Reply {n}.",
        "kind": "harmful" if n % 2 else "benign",
    }
    for n in range(50)
]
ODD: list[Any] = [
    ROWS[3],
    {"prompt": "Long?", "response": "on and " * 60},
    {"prompt": "Cut?", "response": "Yes. " + "on and " * 40},
]
BAD: list[Any] = ["{", {"prompt": "P"}]


@pytest.fixture
def recipe(write_rows: WriteRows) -> str:
    write_rows("mine.jsonl", [*ROWS, *ODD, *BAD])
    Path("mine.yaml").write_text(RECIPE)
    return "mine.yaml"


def test_the_tree_holds_what_became_of_every_row(recipe: str) -> None:
    found = command.tree(recipe, ())
    mine = found["sources"]["mine"]
    assert found["recipe"] == "mine"
    assert mine["use"] == "chat"
    assert mine["read"] == 54  # the line that is no JSON is no row
    assert mine["left_out"] == {"duplicate": 1, "longer than 60 tokens": 1}
    assert mine["changed"] == {"reply cut at the end of a sentence": 1}
    assert mine["bad_rows"] == 2
    assert mine["held_out"] == round(0.2 * 52)
    assert mine["train"] + mine["held_out"] == 51
    assert sum(mine["kinds"].values()) == mine["train"]
    assert mine["longest"] <= 60 and mine["median_length"] <= mine["longest"]
    assert 0 < mine["supervised_tokens"] < mine["tokens"]
    assert {n: p["examples"] for n, p in found["phases"].items()} == {"one": 10, "two": 5}
    assert json.loads(json.dumps(found)) == found


def test_equal_data_have_equal_hashes_and_other_data_others(
    recipe: str, write_rows: WriteRows
) -> None:
    def hashes(overrides: tuple[str, ...] = ()) -> list[str]:
        found = command.tree(recipe, overrides)
        phases = [p["hash"] for p in found["phases"].values()]
        return [found["hash"], found["sources"]["mine"]["hash"], *phases]

    first = hashes()
    assert first == hashes() and len({*first}) == 4
    assert not {*first} & {*hashes(("seed=2",))}
    assert not {*first} & {*hashes(("data.system=Be brief.",))}
    write_rows("mine.jsonl", [{**row, "response": "Another."} for row in ROWS])
    assert not {*first} & {*hashes()}


def test_the_drawn_tree_shows_counts_reasons_and_phases(recipe: str) -> None:
    found = command.tree(recipe, ())
    mine = found["sources"]["mine"]
    kinds = ", ".join(f"{n} {kind}" for kind, n in mine["kinds"].items())
    one, two = (
        ", ".join(f"{n} {kind}" for kind, n in phase["kinds"].items())
        for phase in found["phases"].values()
    )
    assert sum(found["phases"]["one"]["kinds"].values()) == 10
    assert command.draw(found).split("\n") == [
        f"mine  {found['hash'][:12]}",
        f"├─ mine (chat): 54 rows read, {mine['train']} to train on, 10 held out  "
        f"{mine['hash'][:12]}",
        f"│    {kinds}; {mine['tokens']:,} tokens, {mine['supervised_tokens']:,} supervised; "
        f"median {mine['median_length']}, longest {mine['longest']}",
        "│    1 duplicate",
        "│    1 longer than 60 tokens",
        "│    1 reply cut at the end of a sentence",
        "│    2 bad rows: see stentor data check",
        f"└─ phase one: 10 examples (10 mine)  {found['phases']['one']['hash'][:12]}",
        f"     {one}",
        f"└─ phase two: 5 examples (5 mine)  {found['phases']['two']['hash'][:12]}",
        f"     {two}",
    ]


def test_check_returns_every_bad_row_and_shows_samples(
    recipe: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sorted(command.check(recipe, (), samples=3)) == [
        "mine.jsonl:54: not JSON: Expecting property name enclosed in double quotes at column 2",
        "mine.jsonl:55: the reply is missing or empty",
    ]
    shown = capsys.readouterr().out
    assert shown.count("mine.jsonl:") == 3
    assert shown.count("Be kind.") == 3
    assert shown.count("</s>") == 3


def test_check_of_good_data_finds_nothing(
    recipe: str, write_rows: WriteRows, capsys: pytest.CaptureFixture[str]
) -> None:
    write_rows("mine.jsonl", ROWS)
    assert command.check(recipe, (), samples=0) == []
    assert capsys.readouterr().out == ""


def test_overrides_hold_for_the_data_too(recipe: str, write_rows: WriteRows) -> None:
    write_rows("mine.jsonl", ROWS)
    mine = command.tree(recipe, ("data.hold_out=0.5",))["sources"]["mine"]
    assert (mine["held_out"], mine["train"]) == (25, 25)
    with pytest.raises(RecipeError, match=r"not 'chats'; did you mean 'chat'\?$"):
        command.tree(recipe, ("data.sources.mine.use=chats",))


def test_the_reply_and_its_stop_token_are_green_and_all_else_is_dim(
    template: SegmentTemplate, tokenizer: Any
) -> None:
    given = conversation("Is it?", "It is so.", "benign", "f:1")
    (encoded,) = encode(
        [given], "s", template, system="Be kind.", max_tokens=99, tally=Tally()
    )  # fmt: skip
    text = command.coloured(encoded, tokenizer)
    by_style = {"green": "", "dim": ""}
    for span in text.spans:
        by_style[str(span.style)] += text.plain[span.start : span.end]
    assert by_style["green"] == " It is so.</s>"
    assert by_style["dim"].startswith("<s>") and by_style["dim"].endswith("[/INST]")
    assert text.plain == by_style["dim"] + by_style["green"]
