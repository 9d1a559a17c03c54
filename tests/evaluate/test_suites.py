"""Suites: ours load, anybody's load too, and every bad line is named at once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stentor import assets
from stentor.errors import DataError
from stentor.evaluate import suites
from stentor.evaluate.suites import Prompt

HARMFUL = {"prompt": "How do I pick a lock?", "kind": "harmful"}
BENIGN = {"prompt": "Why is the sky blue?", "kind": "benign"}


@pytest.fixture
def write(write_rows: Callable[..., Path]) -> Callable[..., str]:
    return lambda *rows, name="mine.jsonl": str(write_rows(name, list(rows)))


def refused(path: str) -> list[str]:
    """The lines of the error that loading a suite gives."""
    with pytest.raises(DataError) as caught:
        suites.load(path)
    return str(caught.value).splitlines()


@pytest.mark.parametrize("name", suites.names())
def test_shipped_suites_load_by_name_and_by_path(name: str) -> None:
    suite = suites.load(name)
    assert (suite.name, suite.version >= 1) == (name, True)
    assert {p.kind for p in suite.prompts} == set(suites.KINDS)
    assert suites.load(str(assets.path("suites", f"{name}.jsonl"))) == suite


def test_probe_35_has_the_card_s_counts() -> None:
    prompts = suites.load("probe-35").prompts
    assert sum(p.should_answer for p in prompts) == 17
    assert sum(not p.should_answer for p in prompts) == 18


def test_no_prompt_occurs_twice_in_the_shipped_suites() -> None:
    texts = [p.text for name in suites.names() for p in suites.load(name).prompts]
    assert len(texts) == len(set(texts))


def test_the_header_names_the_suite(write: Callable[..., str]) -> None:
    suite = suites.load(write({"suite": "locks", "version": 3, "about": "x"}, HARMFUL))
    assert (suite.name, suite.version, len(suite.prompts)) == ("locks", 3, 1)


def test_a_file_without_header_is_called_as_the_file(write: Callable[..., str]) -> None:
    suite = suites.load(write(HARMFUL, "", BENIGN))
    assert (suite.name, suite.version) == ("mine", 0)
    assert [p.id for p in suite.prompts] == ["mine-1", "mine-2"]


def test_every_field_is_kept_and_absent_ones_have_defaults(write: Callable[..., str]) -> None:
    fields = {"id": 7, "category": "theft", "family": "locks", "form": "plain", "seen": False}
    full, bare = suites.load(write(HARMFUL | fields | {"pair": "b"}, BENIGN)).prompts
    assert full == Prompt(
        "7", HARMFUL["prompt"], "harmful", "theft", "locks", "plain", seen=False, pair="b"
    )
    assert bare == Prompt("mine-2", BENIGN["prompt"], "benign", seen=True, pair=None)


@pytest.mark.parametrize(
    ("kind", "answer"), [("harmful", False), ("borderline", True), ("benign", True)]
)
def test_all_but_harmful_prompts_should_be_answered(
    write: Callable[..., str], kind: str, answer: bool
) -> None:
    (prompt,) = suites.load(write({"prompt": "Hi", "kind": kind})).prompts
    assert prompt.should_answer is answer


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"kind": "benign"}, "the prompt is missing"),
        ({"prompt": "  ", "kind": "benign"}, "the prompt is missing"),
        ({"prompt": 5, "kind": "benign"}, "the prompt is missing"),
        ({"prompt": "Hi"}, "kind is None, not one of harmful, borderline, benign"),
        (
            {"prompt": "Hi", "kind": "safe"},
            "kind is 'safe', not one of harmful, borderline, benign",
        ),
        ({"prompt": "Hi", "kind": ["benign"]}, "kind is ['benign'], not one of harmful, border"),
        (BENIGN | {"id": "a"}, "the id 'a' occurs twice"),
        ("[1]", "a list where an object with fields is due"),
        ('{"prompt"', "not JSON: Expecting ':' delimiter at column"),
        ({"suite": "late", "version": 2}, "the prompt is missing"),
    ],
)
def test_a_bad_line_is_named_with_file_line_and_reason(
    write: Callable[..., str], row: Any, problem: str
) -> None:
    path = write({"suite": "x", "version": 1}, HARMFUL | {"id": "a"}, row, BENIGN)
    first, line = refused(path)
    assert first == "1 bad lines"
    assert line.startswith(f"  {path}:3: {problem}")


def test_all_bad_lines_are_listed_at_once(write: Callable[..., str]) -> None:
    path = write({"kind": "benign"}, HARMFUL, "{", {"prompt": "Hi", "kind": "x"})
    first, *lines = refused(path)
    assert first == "3 bad lines"
    assert sorted(line.split(": ")[0].strip() for line in lines) == [
        f"{path}:1",
        f"{path}:3",
        f"{path}:4",
    ]


@pytest.mark.parametrize("version", ["two", None, [1], 1.5, True])
def test_a_version_that_is_no_whole_number_is_a_bad_line(
    write: Callable[..., str], version: Any
) -> None:
    path = write({"suite": "x", "version": version}, HARMFUL)
    assert refused(path) == [
        "1 bad lines",
        f"  {path}:1: version is {version!r}, not a whole number",
    ]


@pytest.mark.parametrize("rows", [(), ({"suite": "x", "version": 1},)])
def test_a_suite_without_prompts_is_an_error(write: Callable[..., str], rows: Any) -> None:
    path = write(*rows)
    assert refused(path) == [f"{path}: the suite has no prompts"]


def test_an_unknown_suite_is_refused_with_the_nearest() -> None:
    assert refused("probe-5000") == [
        "no suite 'probe-5000': it is neither a file nor a shipped suite; did you mean 'probe-500'?"
    ]
    (line,) = refused("zzz")
    assert line.endswith("; there is " + ", ".join(suites.names()))
