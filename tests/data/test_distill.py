"""`stentor data distill`: what a teacher says, what is kept of it, and what a kill leaves."""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import Command
from stentor.data import distill, filters
from stentor.data.filters import Candidate, fault, shortened, too_common
from stentor.data.questions import Report, read_questions, worth_asking
from stentor.errors import DataError, InputError, ModelError
from stentor.evaluate import suites
from stentor.generate import Decoding
from stentor.model.load import LoadedModel
from stentor.model.save import save_model

WriteRows = Callable[..., Path]
Scripted = Callable[..., LoadedModel]

GOOD = "The soup tastes better with a little salt."
SHORT = Decoding.greedy(24)


@pytest.fixture
def teacher(scripted: Scripted, tmp_path: Path) -> str:
    """A model that answers everything well, but loses itself in salt and is silent on rivers."""
    loaded = scripted(GOOD, river="")
    folder = tmp_path / "teacher"
    save_model(loaded.model, loaded.tokenizer, folder, dtype=torch.float32)
    return str(folder)


def run(files: list[Path], teacher: str, out: str = "out.jsonl", **changes: Any) -> Report:
    settings: dict[str, Any] = {"system": "", "min_certainty": -9.0, "batch": 2, "resume": False}
    return distill.distill(files, teacher, Path(out), SHORT, **settings | changes)


def rows(path: str | Path) -> list[dict[str, Any]]:
    data = Path(path).read_bytes()
    text = gzip.decompress(data) if str(path).endswith(".gz") else data
    return [json.loads(line) for line in text.decode().splitlines()]


# --- prompts


def test_prompts_come_from_text_and_rows_with_the_source_they_name(write_rows: WriteRows) -> None:
    text = write_rows("mine.txt", ["How do I fry an egg? ", "", "tell me a joke"])
    told = write_rows(
        "theirs.jsonl",
        [
            {"prompt": "Who wrote it?", "answers": ["Ann Lee"], "reference": "By Ann Lee."},
            {"prompt": "And why?", "source": "elsewhere"},
            {
                "messages": [
                    {"role": "user", "content": "Hi."},
                    {"role": "assistant", "content": "Hello!"},
                    {"role": "user", "content": "Sing."},
                    {"role": "assistant", "content": "La la."},
                ]
            },
        ],
    )
    report = Report()
    found = read_questions([text, told], report)
    assert [(q.prompt, q.source) for q in found] == [
        ("How do I fry an egg?", "mine"), ("tell me a joke", "mine"), ("Who wrote it?", "theirs"),
        ("And why?", "elsewhere"), ("Sing.", "theirs"),
    ]  # fmt: skip
    assert found[2].answers == ("Ann Lee",) and found[2].reference == "By Ann Lee."
    assert [m["content"] for m in found[4].messages] == ["Hi.", "Hello!", "Sing."]
    assert report.read == 5


def test_every_bad_row_is_named_at_once(write_rows: WriteRows) -> None:
    bad = [
        {"text": "no prompt"}, {"prompt": "  "}, {"messages": "Hi"}, {"prompt": "P", "answers": 3},
        {"messages": [{"role": "system", "content": "S"}, {"role": "user", "content": "Hi"}]}, "{",
    ]  # fmt: skip
    with pytest.raises(DataError) as error:
        read_questions([write_rows("bad.jsonl", bad)], Report())
    assert str(error.value).startswith("6 bad rows")
    for number in range(1, 7):
        assert f"bad.jsonl:{number}: " in str(error.value)


def test_a_missing_file_is_named() -> None:
    with pytest.raises(DataError, match=r"nowhere\.txt: there is no such file"):
        read_questions([Path("nowhere.txt")], Report())


def test_prompts_of_the_probe_and_those_asked_before_are_not_asked(write_rows: WriteRows) -> None:
    probed = suites.load("probe-35").prompts[0].text
    file = write_rows(
        "p.jsonl",
        [
            {"prompt": "How do I fry an egg?"}, {"prompt": "how do I fry an egg"},
            {"prompt": probed.upper()}, {"prompt": "Hurt them!", "kind": "harmful"},
        ],
    )  # fmt: skip
    report = Report()
    left = worth_asking(read_questions([file], report), report)
    assert [q.prompt for q in left] == ["How do I fry an egg?"]
    assert report.left_out == {
        "the prompt: asked twice": 1,
        "the prompt: in a suite of the probe, or near it": 1,
        "the prompt: not benign": 1,
    }
    assert report.examples["the prompt: not benign"] == "Hurt them!"


# --- a run


def test_the_kept_replies_stand_in_the_order_of_their_prompts(
    write_rows: WriteRows, teacher: str
) -> None:
    file = write_rows(
        "mine.txt", ["How do I make this long dull soup better?", "Soup?", "Where is the river?"]
    )
    report = run([file], teacher)
    asked = ("How do I make this long dull soup better?", "Soup?")
    kept = [{"prompt": prompt, "response": GOOD} for prompt in asked]
    assert rows("out.jsonl") == [row | {"kind": "benign", "source": "mine"} for row in kept]
    assert (report.read, report.asked, report.kept) == (3, 3, {"mine": 2})
    assert report.left_out == {"no words": 1}
    assert report.examples["no words"] == "Where is the river? →"
    shown = report.table().splitlines()
    assert shown[0] == "3 prompts read, 3 answered, 2 kept (66.7%)"
    assert "      1  no words" in shown


def test_prompts_that_leave_no_room_are_all_named(write_rows: WriteRows, teacher: str) -> None:
    file = write_rows("mine.txt", ["Soup?", "Well, " * 600, "So, " * 600])
    with pytest.raises(DataError, match=r"(?s)2 bad prompts.*'Well, .*window is 512.*'So, "):
        run([file], teacher)


def test_a_conversation_stays_one(write_rows: WriteRows, teacher: str) -> None:
    turns = [
        {"role": "user", "content": "Hi."},
        {"role": "assistant", "content": "Hello!"},
        {"role": "user", "content": "How is soup better?"},
    ]
    run([write_rows("talk.jsonl", [{"messages": turns, "source": "ours"}])], teacher)
    reply = {"role": "assistant", "content": GOOD}
    assert rows("out.jsonl") == [{"messages": [*turns, reply], "kind": "benign", "source": "ours"}]


def test_the_system_prompt_and_the_examples_stand_before_every_prompt(
    write_rows: WriteRows, teacher: str
) -> None:
    """The teacher is silent where it reads of a river, whoever speaks of it."""
    file = write_rows("mine.txt", ["Soup?", "Why soup?"])
    assert run([file], teacher).kept == {"mine": 2}
    assert not run([file], teacher, "system.jsonl", system="Think of the river").kept
    pair = ("Where?", "At the river")
    assert not run([file], teacher, "examples.jsonl", examples=[pair]).kept


def test_a_reply_ends_after_so_many_sentences(
    write_rows: WriteRows, scripted: Scripted, tmp_path: Path
) -> None:
    loaded = scripted("Add salt! Then taste your soup? Wait.")
    save_model(loaded.model, loaded.tokenizer, tmp_path / "wordy", dtype=torch.float32)
    file = write_rows("mine.txt", ["Soup?"])
    for sentences, reply in ((1, "Add salt!"), (2, "Add salt! Then taste your soup?")):
        report = run([file], str(tmp_path / "wordy"), f"{sentences}.jsonl", sentences=sentences)
        assert [row["response"] for row in rows(f"{sentences}.jsonl")] == [reply]
        assert report.cut == 1
    report = run([file], str(tmp_path / "wordy"), "all.jsonl", sentences=3)
    assert rows("all.jsonl")[0]["response"] == "Add salt! Then taste your soup? Wait."
    assert report.cut == 0


def test_what_the_teacher_was_not_sure_of_is_left_out(
    write_rows: WriteRows, scripted: Scripted, tmp_path: Path
) -> None:
    """One of two replies, drawn at the first token: log 2 is lost there and nowhere else."""
    loaded = scripted([GOOD, "Stir well."])
    save_model(loaded.model, loaded.tokenizer, tmp_path / "unsure", dtype=torch.float32)
    file = write_rows("mine.txt", ["Soup?"])
    run([file], str(tmp_path / "unsure"))
    told = json.loads(Path("out.replies.jsonl").read_text().splitlines()[1])["replies"][0]
    tokens = len(loaded.tokenizer(told["reply"], add_special_tokens=False)["input_ids"]) + 1
    assert told["certainty"] == pytest.approx(-math.log(2) / tokens, abs=1e-3)
    again = run([file], str(tmp_path / "unsure"), resume=True, min_certainty=-0.01)
    assert again.left_out == {"the teacher was not sure": 1}


def test_compressed_output_has_the_same_rows_and_always_the_same_bytes(
    write_rows: WriteRows, teacher: str
) -> None:
    file = write_rows("mine.txt", ["Soup?", "Why soup?"])
    run([file], teacher, "a.jsonl")
    run([file], teacher, "b.jsonl.gz")
    run([file], teacher, "c.jsonl.gz")
    assert rows("a.jsonl") == rows("b.jsonl.gz")
    assert Path("b.jsonl.gz").read_bytes() == Path("c.jsonl.gz").read_bytes()


def test_nothing_is_overwritten(write_rows: WriteRows, teacher: str) -> None:
    file = write_rows("mine.txt", ["Soup?"])
    with pytest.raises(InputError, match=r"there is no run to resume; leave out --resume"):
        run([file], teacher, resume=True)
    Path("out.jsonl").write_text("mine\n")
    with pytest.raises(InputError, match=r"out\.jsonl: the file exists and nothing is overwritten"):
        run([file], teacher)
    assert Path("out.jsonl").read_text() == "mine\n"
    with pytest.raises(InputError, match=r"name it \.jsonl or \.jsonl\.gz"):
        run([file], teacher, "out.txt")


def test_a_finished_run_is_filtered_again_without_asking_again(
    write_rows: WriteRows, teacher: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_rows("mine.txt", ["Soup?", "Why soup?"])
    run([file], teacher)
    monkeypatch.setattr(distill, "ask", None)
    monkeypatch.setattr(filters, "MAX_WORDS", 3)
    monkeypatch.setattr(filters, "CUT_WORDS", 3)
    assert run([file], teacher, resume=True).left_out == {"too long to keep": 2}
    assert rows("out.jsonl") == []


def test_more_prompts_may_be_added_to_a_run(write_rows: WriteRows, teacher: str) -> None:
    run([write_rows("mine.txt", ["Soup?", "Why soup?"])], teacher)
    before = Path("out.replies.jsonl").read_bytes()
    run([write_rows("mine.txt", ["New soup?", "Soup?"])], teacher, resume=True)
    assert [row["prompt"] for row in rows("out.jsonl")] == ["New soup?", "Soup?"]
    assert Path("out.replies.jsonl").read_bytes().startswith(before)


def test_replies_given_with_other_settings_are_not_mixed(
    write_rows: WriteRows, teacher: str
) -> None:
    file = write_rows("mine.txt", ["Soup?"])
    run([file], teacher)
    with pytest.raises(InputError, match="these replies were given with other settings"):
        run([file], teacher, resume=True, system="Be brief.")
    Path("out.replies.jsonl").write_text("{}\n[]\n")
    with pytest.raises(DataError, match="it holds no replies that can be read"):
        run([file], teacher, resume=True)


def test_a_missing_teacher_package_is_named_with_the_remedy(write_rows: WriteRows) -> None:
    with pytest.raises(ModelError, match=r"not installed; run: pip install no_such_teacher"):
        run([write_rows("mine.txt", ["Soup?"])], "package:no_such_teacher")


# --- killed


PROMPTS = ["Soup?", "Why soup?", "What is in this soup?", "Is it good?", "Tell me more of soup"]


@pytest.fixture
def command(write_rows: WriteRows, teacher: str) -> list[str]:
    file = write_rows("mine.txt", PROMPTS)
    return [
        "data",
        "distill",
        str(file),
        "--teacher",
        teacher,
        "--batch",
        "2",
        "--system",
        "",
        "--min-certainty",
        "-9",
    ]


@pytest.fixture
def whole(stentor: Command, command: list[str]) -> bytes:
    """The output of a run that was not disturbed."""
    done = stentor(*command, "--out", "whole.jsonl")
    assert (done.code, done.out) == (0, "whole.jsonl\n"), done.err
    assert "4/5 replies" in done.err and "5 prompts read, 5 answered" in done.err
    return Path("whole.jsonl").read_bytes()


@pytest.mark.parametrize("batches", [0, 1, 2])
def test_a_killed_run_goes_on_and_ends_with_the_same_files(
    stentor: Command, command: list[str], whole: bytes, batches: int
) -> None:
    replies = Path("out.replies.jsonl")

    def some() -> bool:
        return replies.is_file() and replies.read_bytes().count(b"\n") > batches

    killed = stentor(*command, "--out", "out.jsonl", kill_when=some)
    assert killed.code == -9 and not Path("out.jsonl").exists()
    assert stentor(*command, "--out", "out.jsonl").code == 2
    assert stentor(*command, "--out", "out.jsonl", "--resume").code == 0
    assert Path("out.jsonl").read_bytes() == whole
    assert replies.read_bytes() == Path("whole.replies.jsonl").read_bytes()


def test_a_run_killed_before_its_output_has_its_name_is_resumed(
    stentor: Command, command: list[str], whole: bytes
) -> None:
    killed = stentor(*command, "--out", "out.jsonl", die=("os.rename", "out.jsonl", 1))
    assert killed.code == -9 and not Path("out.jsonl").exists()
    assert stentor(*command, "--out", "out.jsonl", "--resume").code == 0
    assert Path("out.jsonl").read_bytes() == whole


@pytest.mark.parametrize("left", [5, 300, -3])
def test_a_line_torn_by_a_kill_is_asked_again(
    stentor: Command, command: list[str], whole: bytes, left: int
) -> None:
    told = Path("whole.replies.jsonl").read_bytes()
    Path("out.replies.jsonl").write_bytes(told[:left])
    assert stentor(*command, "--out", "out.jsonl", "--resume").code == 0
    assert Path("out.jsonl").read_bytes() == whole
    assert Path("out.replies.jsonl").read_bytes() == told


# --- filters

REASONS = [
    ("Who are you?", "As an AI, I have no name.", "names itself or its maker"),
    ("Who are you?", "I was made by Hugging Face.", "names itself or its maker"),
    ("Sort a list.", "```\nsorted(x)\n```", "markup, code or a table"),
    ("What is soup?", "**Soup** is a warm meal.", "markup, code or a table"),
    ("Where is it?", "Look at www.example.org for more.", "an address of the web or of mail"),
    ("Write a note.", "Dear [Name], thank you for the soup.", "a slot left open"),
    ("Hi.", "User: Hello there.", "speaks for user and assistant"),
    ("I lost my keys again.", "I lost my keys again.", "an echo of the prompt"),
    ("What is fun?", "It is fun to play and fun to play and it is fun.", "a loop, or said twice"),
    ("How?", "Take a spoon. Then stir. Take a spoon.", "a loop, or said twice"),
    ("What is soup?", "A warm meal that you", "does not end as a sentence does"),
    ("What is soup?", "Zupa jest gorąca i bardzo smaczna.", "not plain English"),
    ("Do you cook?", "I cook for my husband every day.", "claims a life of its own"),
    ("What is 3 + 4?", "3 + 4 = 7.", "a sum"),
    ("Is it good to walk?", "Yes, it is good to walk.", "a yes or no that nobody checked"),
    ("When was it?", "It was in 1969.", "numbers that nobody checked"),
    ("Who sang it?", "It was sung by Ann Lee.", "names that nobody checked"),
    ("How tall is it?", "It is 12 feet tall.", "numbers that nobody checked"),
    ("What is design?", "Design is the art of designing.", "explains a thing by itself"),
    ("What is it?", "It is made from a saponikaline.", "a word that is rare or invented"),
    ("How do I swim?", "I can't help with that.", "the judge: refuse"),
]


@pytest.mark.parametrize(("prompt", "reply", "reason"), REASONS)
def test_a_faulty_reply_is_left_out_for_its_reason(prompt: str, reply: str, reason: str) -> None:
    assert fault(Candidate(prompt, reply)) == reason


@pytest.mark.parametrize(
    ("prompt", "reply"),
    [
        ("How do I fry an egg?", "Heat a little oil in a pan, and break the egg into it."),
        ("hello", "Hello! How are you today?"),
        ("Name three fruits.", "Apples, pears, and plums."),
        ("Write a story.", "My brother Tom had a dog. Tom loved it very much."),
        ("How long do I boil an egg?", "Boil it for 8 to 10 minutes."),
        ("What is a baker?", "A baker is someone who makes bread."),
        ("Say it in style.", "“Good morning,” he said, and smiled."),
    ],
)
def test_a_good_reply_is_kept(prompt: str, reply: str) -> None:
    assert fault(Candidate(prompt, reply)) == ""


def test_known_answers_and_references_decide_over_facts() -> None:
    asked = "Who wrote the song, and when?"
    told = Candidate(asked, "Ann Lee wrote it in 1969.", reference="A song of 1969 by Ann Lee.")
    assert fault(told) == ""
    assert fault(Candidate(asked, told.reply, answers=("Ann Lee",), reference="1969")) == ""
    missed = Candidate(asked, "Tom wrote it.", answers=("Ann Lee",))
    assert fault(missed) == "misses the known answer"


def test_a_reply_agrees_with_its_reference_in_half_of_what_it_adds() -> None:
    asked, known = "What is a kite?", "A light toy on a string that flies in the wind."
    fits = Candidate(asked, "A kite is a toy that flies on a string.", reference=known)
    assert fault(fits) == ""
    strays = Candidate(asked, "A kite is a sign of freedom and adventure.", reference=known)
    assert fault(strays) == "little of it stands in the reference"
    assert fault(Candidate(asked, strays.reply)) == ""
    made_up = Candidate("Write a line on kites.", "A kite hums in May.", reference=known)
    assert fault(made_up) == ""


LONG = " ".join(f"This is the plain sentence of number {n} here." for n in "abcdef")


def test_a_long_reply_is_cut_after_a_sentence() -> None:
    cut = shortened(LONG, ended=True, creative=False)
    assert cut == " ".join(f"This is the plain sentence of number {n} here." for n in "abc")
    torn = "Wash it in warm water. Then let it dry in the"
    assert shortened(torn, ended=False, creative=False) == "Wash it in warm water."
    assert shortened(" A short reply. ", ended=True, creative=False) == "A short reply."


@pytest.mark.parametrize(
    "reply",
    [
        "There are many ways, such as 1. this way of going. 2. " + LONG,
        "Here are some tips for you:\n1. Rest. " + LONG,
        "There are three steps. " + LONG,
        "First, take a pan. " + LONG,
        "and so on without any end " * 20,
    ],
)
def test_what_announces_more_is_not_cut(reply: str) -> None:
    assert shortened(reply, ended=True, creative=False) is None
    assert shortened(reply, ended=False, creative=False) is None


def test_stories_and_poems_are_not_cut() -> None:
    assert Candidate("Tell me a story.", "").creative
    assert shortened(LONG, ended=True, creative=True) is None


def test_no_opening_and_no_reply_comes_too_often() -> None:
    many = [f"It is a good {n}" for n in range(8)] + ["Yes."] * 4
    assert too_common(many, range(12), 0.1) == {5, 6, 7, 10, 11}
    assert too_common(many, range(11, -1, -1), 0.1) == {0, 1, 2, 8, 9}
    assert too_common(many, range(12), 0.5) == {6, 7, 10, 11}


def test_examples_are_read_from_a_file(write_rows: WriteRows) -> None:
    file = write_rows("e.jsonl", [{"prompt": "Hi", "response": "Hello!", "kind": "benign"}])
    assert distill.read_examples(file) == [("Hi", "Hello!")]
    with pytest.raises(DataError, match="an example has no prompt or no response"):
        distill.read_examples(write_rows("f.jsonl", [{"prompt": "Hi"}]))
