"""From sources to phases: no held-out prompt is trained on, duplicates go, counts come out."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from stentor.chat import Encoded, SegmentTemplate
from stentor.data import mix
from stentor.data.encode import EncodedExample
from stentor.data.examples import Example, normalise
from stentor.data.mix import Prepared
from stentor.errors import DataError
from stentor.evaluate import suites
from stentor.recipe import DataPart, PhasePart, Recipe, SourcePart

WriteRows = Callable[..., Path]


def turn(number: int, kind: str = "benign") -> dict[str, str]:
    return {"prompt": f"Prompt {number}?", "response": f"Reply {number}.", "kind": kind}


def asking(prompt: str) -> dict[str, str]:
    return {"prompt": prompt, "response": "Warm it.", "kind": "benign"}


def talk(*numbers: int) -> dict[str, Any]:
    messages = []
    for n in numbers:
        messages.append({"role": "user", "content": f"Prompt {n}?"})
        messages.append({"role": "assistant", "content": f"Reply {n}."})
    return {"messages": messages}


@pytest.fixture
def prepare(write_rows: WriteRows, template: SegmentTemplate) -> Callable[..., Prepared]:
    """Sources of rows, prepared as a recipe would have them."""

    def work(seed: int = 1, strict: bool = True, **given: Any) -> Prepared:
        fields = {k: given.pop(k) for k in [*given] if k in DataPart.model_fields}
        parts = {}
        for name, rows in given.items():
            write_rows(f"{name}.jsonl", rows)
            parts[name] = SourcePart(use="chat", path=f"{name}.jsonl")
        part = DataPart(**{"system": None, "hold_out": 0.0, "sources": parts, **fields})
        return mix.prepare(part, template, seed, strict=strict)

    return work


def prompts(examples: list[EncodedExample]) -> list[str]:
    return [prompt for e in examples for prompt in e.example.prompts]


def everywhere(side: dict[str, list[EncodedExample]]) -> set[str]:
    return {prompt for examples in side.values() for prompt in prompts(examples)}


def assert_apart_and_counted(prepared: Prepared) -> None:
    assert not everywhere(prepared.train) & everywhere(prepared.held_out)
    for name, tally in prepared.tallies.items():
        used = len(prepared.train[name]) + len(prepared.held_out[name])
        assert tally.read == used + sum(tally.left_out.values())
        assert tally.kept == len(prepared.train[name])


# --- the held-out part


@settings(max_examples=25, deadline=None, derandomize=True)
@given(data=st.data())
def test_no_held_out_prompt_is_trained_on_in_any_turn_of_any_source(
    data: st.DataObject, template: SegmentTemplate, tmp_path_factory: pytest.TempPathFactory
) -> None:
    numbers = st.lists(st.integers(0, 60), min_size=1, max_size=3)
    rows = st.lists(numbers, min_size=14, max_size=40)
    folder = tmp_path_factory.mktemp("rows")
    parts = {}
    for name in "ab":
        text = "".join(json.dumps(talk(*n)) + "\n" for n in data.draw(rows))
        (folder / f"{name}.jsonl").write_text(text)
        parts[name] = SourcePart(use="chat", path=f"{name}.jsonl")
    part = DataPart(root=str(folder), sources=parts, system=None, hold_out=0.1, hold_out_at_least=1)
    try:
        prepared = mix.prepare(part, template, data.draw(st.integers(0, 9)))
    except DataError as error:  # all the rest shared a prompt with what is held out
        assert "no row is left to train on" in str(error)
        reject()
    assert_apart_and_counted(prepared)
    for name, tally in prepared.tallies.items():  # of a single conversation none can be held out
        assert prepared.held_out[name] or tally.read - tally.left_out["duplicate"] < 2


def test_a_prompt_held_out_of_one_source_leaves_the_other_too(
    prepare: Callable[..., Prepared],
) -> None:
    rows = [turn(n) for n in range(40)]
    other = [{**turn(n), "response": "Another reply."} for n in range(60)]
    prepared = prepare(one=rows, two=other, hold_out=0.25, hold_out_at_least=0)
    assert_apart_and_counted(prepared)
    assert (len(prepared.held_out["one"]), len(prepared.held_out["two"])) == (10, 15)
    shared = "shares a prompt with the held-out part"
    assert prepared.tallies["one"].left_out[shared] > 0
    assert prepared.tallies["two"].left_out[shared] > 0


def test_a_conversation_leaves_when_one_of_its_turns_is_held_out(
    prepare: Callable[..., Prepared],
) -> None:
    rows = [turn(n) for n in range(20)] + [talk(n, 100 + n, 200 + n) for n in range(20)]
    prepared = prepare(rows=rows, hold_out=0.3, hold_out_at_least=0)
    assert_apart_and_counted(prepared)
    held_alone = {e.example.key for e in prepared.held_out["rows"] if "\n" not in e.example.key}
    assert held_alone
    for e in prepared.train["rows"]:
        assert not held_alone & {*e.example.prompts}


def test_prompts_that_differ_in_case_and_marks_lie_on_one_side(
    prepare: Callable[..., Prepared],
) -> None:
    rows = [
        {"prompt": text, "response": f"{n}{mark}."}
        for n in range(30)
        for mark, text in enumerate([f"How {n}?", f"how {n}", f"  HOW, {n}!! "])
    ]
    prepared = prepare(rows=rows, hold_out=0.2, hold_out_at_least=0)
    assert_apart_and_counted(prepared)
    assert len(prepared.held_out["rows"]) == 3 * 6


def test_the_split_does_not_depend_on_the_order_of_rows(prepare: Callable[..., Prepared]) -> None:
    rows = [turn(n) for n in range(100)]
    one = prepare(rows=rows, hold_out=0.1, hold_out_at_least=0)
    shuffled = random.Random(3).sample(rows, len(rows))
    other = prepare(rows=shuffled, hold_out=0.1, hold_out_at_least=0)
    assert everywhere(one.held_out) == everywhere(other.held_out)
    assert everywhere(one.train) == everywhere(other.train)


def test_another_seed_holds_out_other_prompts(prepare: Callable[..., Prepared]) -> None:
    held = [
        everywhere(prepare(rows=[turn(n) for n in range(100)], hold_out=0.1, seed=s).held_out)
        for s in (1, 1, 2)
    ]
    assert held[0] == held[1] != held[2]


def test_what_stands_in_a_suite_or_nearly_is_held_out_or_not_read_but_never_trained_on(
    prepare: Callable[..., Prepared], write_rows: WriteRows
) -> None:
    asked = "How do I get old candle wax out of a rug?"
    suite = [{"prompt": asked, "kind": "benign"}]
    path = str(write_rows("kept.jsonl", suite))
    texts = [
        "how do I get old candle wax out of a rug",  # the same
        "How do I get old candle wax out of my rug?",  # nearly
        "How do I get dried paint out of a rug?",  # other words
    ]
    rows = [asking(text) for text in texts] + [turn(n) for n in range(4)]
    later = [{"role": "user", "content": asked}, {"role": "assistant", "content": "Warm it."}]
    rows.append({"messages": talk(9)["messages"] + later})
    prepared = prepare(rows=rows, kept_apart=(path,))
    assert {normalise(p) for p in everywhere(prepared.train)} == {
        normalise(texts[2]), *(f"prompt {n}" for n in range(4))
    }  # fmt: skip
    assert prepared.tallies["rows"].left_out["in a suite, or nearly"] == 3
    assert len(everywhere(prepare(rows=rows, kept_apart=()).train)) == 8


def test_prompts_of_the_shipped_suites_are_left_out_unless_told_otherwise(
    prepare: Callable[..., Prepared],
) -> None:
    asked = suites.load("probe-500").prompts[7].text
    rows = [asking(asked), turn(1)]
    assert asked not in everywhere(prepare(rows=rows).train)
    with pytest.raises(DataError, match="no suite 'probe-50'"):
        prepare(rows=rows, kept_apart=("probe-50",))


def test_with_a_seed_of_its_own_the_split_is_the_same_in_runs_of_all_seeds(
    prepare: Callable[..., Prepared],
) -> None:
    rows = [turn(n) for n in range(100)]
    held = [
        everywhere(prepare(rows=rows, hold_out=0.1, seed=seed, hold_out_seed=kept).held_out)
        for seed, kept in ((1, 7), (2, 7), (7, None), (1, None))
    ]
    assert held[0] == held[1] == held[2] != held[3]


@pytest.mark.parametrize(
    ("prompts", "share", "at_least", "held"),
    [
        (100, 0.03, 20, 20),
        (40, 0.03, 20, 20),
        (39, 0.03, 20, 19),  # never more than half
        (9, 0.03, 20, 4),
        (1, 0.03, 20, 0),
        (100, 0.3, 20, 30),
        (100, 0.03, 0, 3),
        (100, 0.0, 20, 0),
    ],
)
def test_how_many_prompts_are_held_out(
    prepare: Callable[..., Prepared], prompts: int, share: float, at_least: int, held: int
) -> None:
    prepared = prepare(
        rows=[turn(n) for n in range(prompts)], hold_out=share, hold_out_at_least=at_least
    )
    assert len(prepared.held_out["rows"]) == held
    assert len(prepared.train["rows"]) == prompts - held


def test_holding_out_everything_is_an_error(prepare: Callable[..., Prepared]) -> None:
    with pytest.raises(DataError) as caught:
        prepare(rows=[turn(n) for n in range(5)], hold_out=1.0)
    assert str(caught.value) == (
        "source rows: no row is left to train on; of 5 read: 5 held out; give more rows, or change "
        "kinds, data.hold_out or data.max_tokens"
    )


def test_where_no_row_is_left_every_reason_is_told(prepare: Callable[..., Prepared]) -> None:
    rows = [{"prompt": f"Long {n}?", "response": "on and " * 100} for n in range(4)]
    with pytest.raises(DataError, match=r"of 7 read: 3 duplicate, 4 longer than 40 tokens; give"):
        prepare(one=[turn(n) for n in range(3)], two=[turn(n) for n in range(3)] + rows,
                max_tokens=40)  # fmt: skip


# --- duplicates, bad rows, counting


def test_equal_conversations_stay_once_over_all_sources(prepare: Callable[..., Prepared]) -> None:
    one = [turn(1), turn(2), {**turn(1), "prompt": "prompt 1!"}]
    two = [turn(2), turn(3), {**turn(2), "response": "Another."}, talk(1, 2), talk(1, 2)]
    prepared = prepare(one=one, two=two)
    assert prompts(prepared.train["one"]) == ["prompt 1", "prompt 2"]
    assert prompts(prepared.train["two"]) == ["prompt 3", "prompt 2", "prompt 1", "prompt 2"]
    assert [t.left_out["duplicate"] for t in prepared.tallies.values()] == [1, 2]
    assert_apart_and_counted(prepared)


def test_every_row_is_counted_whatever_became_of_it(prepare: Callable[..., Prepared]) -> None:
    rows = [turn(n) for n in range(60)] + [turn(3), talk(4, 5)]
    rows += [{"prompt": f"Long {n}?", "response": "on and " * 100} for n in range(4)]
    rows += [{"prompt": f"Cut {n}?", "response": "Yes. " + "and on " * 50} for n in range(4)]
    prepared = prepare(rows=rows, hold_out=0.2, max_tokens=40)
    assert_apart_and_counted(prepared)
    tally = prepared.tallies["rows"]
    assert tally.left_out["longer than 40 tokens"] == 4
    assert tally.left_out["duplicate"] == 1
    assert tally.changed == {"reply cut at the end of a sentence": 4}
    assert max(e.length for e in prepared.train["rows"]) <= 40


def test_bad_rows_stop_a_run_and_are_all_listed(prepare: Callable[..., Prepared]) -> None:
    rows = [turn(1), {"prompt": "P"}, "{", turn(2)]
    with pytest.raises(DataError) as caught:
        prepare(good=[turn(n) for n in range(9)], bad=rows, worse=[[1], turn(3)])
    assert str(caught.value) == (
        "3 bad rows\n"
        "  bad.jsonl:2: the reply is missing or empty\n"
        "  bad.jsonl:3: not JSON: Expecting property name enclosed in double quotes at column 2\n"
        "  worse.jsonl:1: a list where an object with fields is due"
    )


def test_of_many_bad_rows_fifty_are_shown_and_the_rest_counted(
    prepare: Callable[..., Prepared],
) -> None:
    with pytest.raises(DataError) as caught:
        prepare(bad=[turn(1), *[{"prompt": "P"}] * 61])
    lines = str(caught.value).split("\n")
    assert len(lines) == 52
    assert (lines[0], lines[-1]) == ("61 bad rows", "  … and 11 more")


def test_without_strictness_bad_rows_stay_in_the_tallies(prepare: Callable[..., Prepared]) -> None:
    prepared = prepare(rows=[turn(1), {"prompt": "P"}, turn(2)], strict=False)
    assert prepared.tallies["rows"].problems == ["rows.jsonl:2: the reply is missing or empty"]
    assert len(prepared.train["rows"]) == 2


def test_the_hash_follows_the_data(prepare: Callable[..., Prepared]) -> None:
    rows = [turn(n) for n in range(10)]
    plain = prepare(rows=rows).hash()
    assert plain == prepare(rows=rows).hash()
    changes: list[dict[str, Any]] = [
        {"rows": rows[:-1]},
        {"rows": [*rows[:-1], {**rows[-1], "response": "Other."}]},
        {"rows": rows, "system": "Be kind."},
        {"rows": rows, "hold_out": 0.2},
        {"rows": [*rows[:-1], {**rows[-1], "kind": "borderline"}]},
    ]
    hashes = {prepare(**change).hash() for change in changes}
    assert plain not in hashes and len(hashes) == len(changes)


def test_the_hash_follows_rejected_replies(
    write_rows: WriteRows, template: SegmentTemplate
) -> None:
    found = set()
    for rejected in ("No.", "Never."):
        write_rows("pairs.jsonl", [{"prompt": "P?", "chosen": "Yes.", "rejected": rejected}])
        source = SourcePart(use="preference", path="pairs.jsonl")
        part = DataPart(system=None, hold_out=0.0, sources={"pairs": source})
        found.add(mix.prepare(part, template, 1).hash())
    assert len(found) == 2


# --- the mixes of phases


@pytest.fixture
def prepared(prepare: Callable[..., Prepared]) -> Prepared:
    """60 rows of source a (one in three harmful), 30 of source b."""
    return prepare(
        a=[turn(n, "benign" if n % 3 else "harmful") for n in range(60)],
        b=[turn(100 + n) for n in range(30)],
    )


def drawn(prepared: Prepared, seed: int = 1, **fields: Any) -> list[EncodedExample]:
    return mix.phase_examples(PhasePart(**{"name": "main", **fields}), prepared, seed)


def by_source(examples: list[EncodedExample]) -> dict[str, int]:
    return {name: sum(e.source == name for e in examples) for name in "ab"}


@pytest.mark.parametrize(
    ("mixed", "examples", "counts"),
    [
        ({"a": 20, "b": 5}, None, {"a": 20, "b": 5}),
        ({"b": 30}, None, {"a": 0, "b": 30}),
        ({"a": 90, "b": 90}, None, {"a": 60, "b": 30}),  # a source gives what it has
        ({"a": 0.75, "b": 0.25}, 40, {"a": 30, "b": 10}),
        ({"a": 0.2, "b": 0.2}, 40, {"a": 20, "b": 20}),  # weights need not sum to 1
        ({"a": 0.5, "b": 0.5}, 7, {"a": 4, "b": 3}),
        ({"a": 0.1, "b": 0.9}, 40, {"a": 4, "b": 30}),
    ],
)
def test_a_mix_gives_the_counts_it_names(
    prepared: Prepared, mixed: Any, examples: int | None, counts: dict[str, int]
) -> None:
    chosen = drawn(prepared, mix=mixed, examples=examples)
    assert by_source(chosen) == counts
    keys = [e.example.key for e in chosen]
    assert len({*keys}) == len(keys)  # no row twice


@settings(max_examples=50, deadline=None, derandomize=True)
@given(
    weights=st.lists(st.floats(0.001, 0.999), min_size=1, max_size=6),
    total=st.integers(1, 60),
)
def test_a_mix_by_weights_has_the_size_asked_for(weights: list[float], total: int) -> None:
    named = {f"s{n}": weight for n, weight in enumerate(weights)}
    rows = {
        name: [EncodedExample(Encoded((1, 2), (0, 1)), name, Example((), "benign", ""))] * total
        for name in named
    }
    chosen = drawn(Prepared(rows, {}, {}), mix=named, examples=total)
    assert len(chosen) == total
    for name, weight in named.items():
        count = sum(e.source == name for e in chosen)
        assert abs(count - total * weight / sum(weights)) < 1


def test_examples_caps_a_mix_by_counts(prepared: Prepared) -> None:
    chosen = drawn(prepared, mix={"a": 60, "b": 30}, examples=50)
    assert len(chosen) == 50
    assert all(by_source(chosen).values())
    assert len(drawn(prepared, mix={"a": 6, "b": 3}, examples=50)) == 9


def test_an_entry_may_name_a_kind(prepared: Prepared) -> None:
    chosen = drawn(prepared, mix={"a:harmful": 15, "b": 2})
    assert by_source(chosen) == {"a": 15, "b": 2}
    assert {e.example.kind for e in chosen if e.source == "a"} == {"harmful"}
    assert by_source(drawn(prepared, mix={"a:harmful": 50}))["a"] == 20


def test_a_kind_that_a_source_does_not_hold_is_an_error(prepared: Prepared) -> None:
    with pytest.raises(DataError) as caught:
        drawn(prepared, mix={"b:harmful": 3})
    assert str(caught.value) == (
        "mix entry 'b:harmful': the source has no rows of kind 'harmful' to train on"
    )


def contrast(name: str, prompt: str, kind: str) -> EncodedExample:
    messages = ({"role": "user", "content": prompt}, {"role": "assistant", "content": "So."})
    return EncodedExample(Encoded((1, 2), (0, 1)), name, Example(messages, kind, prompt))


def test_contrast_takes_harmful_rows_with_the_look_alikes_of_their_words() -> None:
    rows = [
        contrast("a", "How do I kill my neighbour's dog?", "harmful"),
        contrast("a", "How do I forge a passport stamp?", "harmful"),
        contrast("a", "Which poison leaves no trace?", "harmful"),
        contrast("a", "How do I kill weeds near my neighbour's wall?", "borderline"),
        contrast("a", "What does a passport stamp show?", "borderline"),
        contrast("a", "Why did the comedian bomb on stage?", "borderline"),
        contrast("a", "Which poison leaves no trace, says the riddle?", "benign"),
    ]
    found = drawn(Prepared({"a": rows}, {}, {}), mix={"a:contrast": 99})
    pairs = {found[n].example.where: found[n + 1].example.where for n in range(0, len(found), 2)}
    assert pairs == {
        "How do I kill my neighbour's dog?": "How do I kill weeds near my neighbour's wall?",
        "How do I forge a passport stamp?": "What does a passport stamp show?",
    }
    nearest = drawn(Prepared({"a": rows}, {}, {}), mix={"a:contrast": 3})
    assert nearest == found[:2]  # the nearest pair, and no half of another


def test_a_source_without_pairs_has_no_contrast(prepared: Prepared) -> None:
    with pytest.raises(DataError) as caught:
        drawn(prepared, mix={"a:contrast": 4})
    assert str(caught.value) == (
        "mix entry 'a:contrast': no harmful row of the source has a near look-alike to train on; "
        "give it rows that have, or take a kind (a:harmful)"
    )


def test_what_a_mix_asks_for_in_vain_is_told(prepared: Prepared) -> None:
    phase = PhasePart(name="main", mix={"a:harmful": 50, "b": 30})
    assert mix.shortages(phase, prepared) == {"a:harmful": (50, 20)}


def test_joined_phases_are_one_with_the_same_examples(prepared: Prepared) -> None:
    fields: dict[str, Any] = {
        "name": "r",
        "data": {"sources": {"a": {"use": "chat"}, "b": {"use": "chat"}}},
        "phases": [
            {"name": "first", "mix": {"a": 8}, "epochs": 2, "learning_rate": 0.1},
            {"name": "second", "mix": {"a": 20, "b": 5}, "batch": 4, "learning_rate": 0.2},
        ],
    }
    apart = mix.course(Recipe(**fields), prepared)
    assert [phase.name for phase, _ in apart] == ["first", "second"]
    ((phase, examples),) = mix.course(Recipe(**fields, joined="second"), prepared)
    assert (phase.name, phase.epochs, phase.batch, phase.learning_rate) == ("joined", 1, 4, 0.2)
    (_, first), (_, second) = apart
    assert examples == [*first, *first, *second]


def test_a_draw_is_a_function_of_seed_and_phase(prepared: Prepared) -> None:
    first = drawn(prepared, mix={"a": 20})
    assert first == drawn(prepared, mix={"a": 20})
    assert first != drawn(prepared, mix={"a": 20}, seed=2)
    assert first != drawn(prepared, mix={"a": 20}, name="other")


def test_what_one_source_gives_does_not_depend_on_the_others(prepared: Prepared) -> None:
    alone = drawn(prepared, mix={"a": 20})
    mixed = drawn(prepared, mix={"b": 10, "a": 20})
    assert [e for e in mixed if e.source == "a"] == alone


def test_no_phase_draws_a_held_out_prompt(prepare: Callable[..., Prepared]) -> None:
    prepared = prepare(a=[turn(n) for n in range(80)], hold_out=0.3)
    chosen = drawn(prepared, mix={"a": 1000})
    assert len(chosen) == 56
    assert not {*prompts(chosen)} & everywhere(prepared.held_out)
