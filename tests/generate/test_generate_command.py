"""`stentor generate` and `stentor chat`: what a person or a pipe sees."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stentor.chat import check_messages
from stentor.errors import DataError
from stentor.generate import Decoding, Engine
from stentor.generate.command import lines, one
from stentor.generate.terminal import chat
from stentor.model.load import LoadedModel

GREEDY = Decoding.greedy(20)


@pytest.fixture
def engine(scripted: Callable[..., LoadedModel]) -> Engine:
    return Engine(scripted("It is.", weather="Rain falls today", quiet=""))


def printed(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


# --- one prompt -------------------------------------------------------------------------------


def test_one_prompt_prints_the_reply_and_nothing_else(
    engine: Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    one(engine, "Hi", GREEDY, None)
    assert capsys.readouterr() == ("It is.\n", "")


@pytest.mark.parametrize("terminal", [True, False])
def test_a_person_is_told_that_a_reply_was_cut(
    engine: Engine,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    terminal: bool,
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: terminal)
    one(engine, "Hi", Decoding.greedy(2), None)
    told = capsys.readouterr()
    assert told.out.strip() and told.out != "It is.\n"
    note = "(cut at 2 new tokens; --max-new-tokens allows more)\n"
    assert told.err == (note if terminal else "")


def test_a_silent_reply_is_shown_as_such(
    engine: Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    one(engine, "quiet now", GREEDY, None)
    assert capsys.readouterr().out == "[no output]\n"


def test_a_reply_of_white_space_is_shown_as_silent(
    scripted: Callable[..., LoadedModel], capsys: pytest.CaptureFixture[str]
) -> None:
    one(Engine(scripted("\n")), "Hi", GREEDY, None)
    assert capsys.readouterr().out.endswith("[no output]\n")


# --- files and pipes --------------------------------------------------------------------------


def test_lines_come_in_order_one_each_with_their_fields(
    engine: Engine,
    write_rows: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    conversation = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Ho"},
        {"role": "user", "content": "And the weather?"},
    ]
    file = write_rows(
        "asked.jsonl",
        [
            {"prompt": "Tell me a very long story about nothing in particular.", "id": 7},
            {"prompt": "quiet now"},
            "",
            {"messages": conversation, "note": "ü"},
            {"prompt": "Hi"},
        ],
    )
    lines(engine, str(file), Decoding.greedy(3), None)
    assert printed(capsys) == [
        {
            "prompt": "Tell me a very long story about nothing in particular.",
            "id": 7,
            "response": "It is.",
            "finish_reason": "length",
        },
        {"prompt": "quiet now", "response": "", "finish_reason": "stop"},
        {
            "messages": conversation,
            "note": "ü",
            "prompt": "And the weather?",
            "response": "Rain falls today",
            "finish_reason": "length",
        },
        {"prompt": "Hi", "response": "It is.", "finish_reason": "length"},
    ]


def test_lines_are_written_as_they_are_spelled(
    engine: Engine, write_rows: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    lines(engine, str(write_rows("asked.jsonl", [{"prompt": "ü 🦉"}])), GREEDY, None)
    assert capsys.readouterr().out == (
        '{"prompt": "ü 🦉", "response": "It is.", "finish_reason": "stop"}\n'
    )


def test_a_dash_reads_standard_input(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO('{"prompt": "Hi"}\n\n{"prompt": "weather?"}'))
    lines(engine, "-", GREEDY, None)
    assert [a["response"] for a in printed(capsys)] == ["It is.", "Rain falls today"]


def test_many_lines_keep_their_order_over_several_batches(
    scripted: Callable[..., LoadedModel],
    write_rows: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    engine = Engine(scripted("It is.", weather="Rain falls today"), batch=3)
    prompts = [("weather " if n % 3 else "") + "so " * (n * 7 % 11) + str(n) for n in range(10)]
    file = write_rows("asked.jsonl", [{"prompt": p} for p in prompts])
    lines(engine, str(file), GREEDY, None)
    answers = printed(capsys)
    assert [a["prompt"] for a in answers] == prompts
    rain = ["Rain falls today" if n % 3 else "It is." for n in range(10)]
    assert [a["response"] for a in answers] == rain


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('{"prompt": 3}', "there is neither prompt nor messages"),
        ('{"question": "Hi"}', "there is neither prompt nor messages"),
        ('{"messages": []}', "a conversation has no messages; it needs at least one of the user"),
        (
            '{"messages": [{"role": "user"}]}',
            "message 1 has no text in 'content'",
        ),
        ('{"messages": ["Hi"]}', "'messages' is not a list of role and content"),
        (
            '{"messages": [{"role": "assistant", "content": "Ho"}]}',
            "message 1 has role 'assistant' where 'user' is due",
        ),
        (
            '{"messages": [{"role": "user", "content": "Hi"}, '
            '{"role": "assistant", "content": "Ho"}]}',
            "the last message is not the user's; there is nothing to reply to",
        ),
        (
            json.dumps({"prompt": " ".join(["Hi"] * 600)}),
            "the conversation has 603 tokens, but the model's window is 512 "
            "and a reply needs room; shorten it",
        ),
    ],
)
def test_a_bad_line_is_named_with_its_reason(
    engine: Engine,
    write_rows: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
    line: str,
    problem: str,
) -> None:
    file = write_rows("asked.jsonl", [{"prompt": "Hi"}, line])
    with pytest.raises(DataError) as caught:
        lines(engine, str(file), GREEDY, "")
    assert str(caught.value) == f"1 bad lines\n  {file}:2: {problem}"
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("source", ["file", "-"])
def test_all_bad_lines_are_listed_and_nothing_is_generated(
    engine: Engine,
    write_rows: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    source: str,
) -> None:
    rows = ['{"prompt": "Hi"', {"prompt": "Hi"}, "[1]", {"text": "Hi"}]
    file = write_rows("asked.jsonl", rows)
    monkeypatch.setattr("sys.stdin", io.StringIO(file.read_text(encoding="utf-8")))
    with pytest.raises(DataError) as caught:
        lines(engine, "-" if source == "-" else str(file), GREEDY, None)
    first, *listed = str(caught.value).splitlines()
    where = "standard input" if source == "-" else str(file)
    assert first == "3 bad lines"
    assert [line.strip().removeprefix(where)[:3] for line in listed] == [":1:", ":3:", ":4:"]
    assert capsys.readouterr().out == ""


def test_half_a_character_from_standard_input_is_named_before_anything_is_generated(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = '{"prompt": "Hi"}\n{"prompt": "Hi", "note": "\\ud83d"}\n'
    monkeypatch.setattr("sys.stdin", io.StringIO(rows))
    with pytest.raises(DataError, match=r"^1 bad lines\n  standard input:2: it holds half a char"):
        lines(engine, "-", GREEDY, None)
    assert capsys.readouterr().out == ""


def test_standard_input_that_is_no_text_is_one_line(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = io.TextIOWrapper(io.BytesIO(b'{"prompt": "Hi"}\n\xff\n'), encoding="utf-8")
    monkeypatch.setattr("sys.stdin", stream)
    with pytest.raises(DataError, match=r"^standard input: it can't be read to its end: "):
        lines(engine, "-", GREEDY, None)


def test_a_missing_file_is_named(engine: Engine) -> None:
    with pytest.raises(DataError, match=r"^nowhere\.jsonl: there is no such file$"):
        lines(engine, "nowhere.jsonl", GREEDY, None)


@pytest.mark.parametrize(("system", "expected"), [(None, "Rain falls today"), ("", "It is.")])
def test_the_models_own_system_prompt_is_added_to_lines_unless_omitted(
    scripted: Callable[..., LoadedModel],
    write_rows: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
    system: str | None,
    expected: str,
) -> None:
    loaded = scripted("It is.", weather="Rain falls today", generation={"system": "Talk weather."})
    lines(Engine(loaded), str(write_rows("a.jsonl", [{"prompt": "Hi"}])), GREEDY, system)
    assert printed(capsys)[0]["response"] == expected


# --- a conversation ---------------------------------------------------------------------------


@pytest.fixture
def talk(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[list[Any], str, str]]:
    """Holds a conversation; returns what was sent to the model each time, and both outputs."""

    def talk(engine: Engine, *said: str, system: str | None = None) -> tuple[list[Any], str, str]:
        sent = []
        request = engine.request

        def heard(messages: Any, *args: Any, **named: Any) -> Any:
            sent.append([dict(m) for m in messages])
            return request(messages, *args, **named)

        monkeypatch.setattr(engine, "request", heard)
        monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{text}\n" for text in said)))
        chat(engine, GREEDY, system)
        return sent, *capsys.readouterr()

    return talk


def test_a_piped_conversation_remembers_what_was_said(engine: Engine, talk: Any) -> None:
    sent, out, err = talk(engine, "Hi", "", "  The weather?  ", "Well, quiet for a moment, please.")
    assert out == "stentor: It is.\nstentor: Rain falls today\nstentor: [no output]\n"
    assert err == ""
    assert sent[-1] == [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "It is."},
        {"role": "user", "content": "The weather?"},
        {"role": "assistant", "content": "Rain falls today"},
        {"role": "user", "content": "Well, quiet for a moment, please."},
    ]


def test_a_conversation_goes_on_after_a_silent_reply(engine: Engine, talk: Any) -> None:
    _, out, _ = talk(engine, "quiet now", "Well then, what about the time of day, please?")
    assert out.startswith("stentor: [no output]\nstentor: ")
    assert out.count("\n") == 2


@pytest.mark.parametrize("system", [None, "Answer in a few words and with a smile."])
def test_the_oldest_turns_are_dropped_whole_when_the_window_is_full(
    scripted: Callable[..., LoadedModel], talk: Any, system: str | None
) -> None:
    engine = Engine(scripted("It is."))
    said = [f"{n} " + "so " * 150 for n in range(6)]
    sent, out, err = talk(engine, *said, system=system)
    assert out == "stentor: It is.\n" * 6
    for number, messages in enumerate(sent):
        check_messages(messages)
        assert messages[-1]["content"] == said[number].strip()
        assert engine.count(messages, system) + GREEDY.max_new_tokens <= engine.window
        assert [m["content"] for m in messages[::2]] == [
            text.strip() for text in said[: number + 1][-len(messages[::2]) :]
        ]
    assert [len(messages) for messages in sent] == [1, 3, 5, 5, 5, 5]
    assert err == "[the window is full: 1 of the oldest turns forgotten]\n" * 3


def test_a_message_that_is_too_long_is_not_sent_and_costs_no_turn(
    scripted: Callable[..., LoadedModel], talk: Any
) -> None:
    engine = Engine(scripted("It is."))
    sent, out, err = talk(engine, "Hi", "so " * 520, "And now?", system="Be brief.")
    size = engine.count([{"role": "user", "content": ("so " * 520).strip()}], "Be brief.")
    assert size > 520
    assert err == (
        f"[the message is too long: {size} tokens with the system prompt, "
        "and the window holds 512; it was not sent]\n"
    )
    assert out == "stentor: It is.\n" * 2
    assert [m["content"] for m in sent[1]] == ["Hi", "It is.", "And now?"]


def test_the_same_message_twice_is_answered_from_two_seeds(
    scripted: Callable[..., LoadedModel],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    engine = Engine(scripted(["Yes", "No", "Well", "Why", "Good", "Bad"]))
    decoding = Decoding(temperature=1.0, top_p=1.0, repetition_penalty=1.0)

    def hold(seed: int) -> str:
        monkeypatch.setattr("sys.stdin", io.StringIO("Hi\n" * 8))
        chat(engine, decoding.changed(seed=seed), None)
        return capsys.readouterr().out

    assert len(set(hold(0).splitlines())) > 2
    assert hold(0) == hold(0)
    assert hold(0) != hold(50)
