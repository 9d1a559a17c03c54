"""`stentor chat` at a terminal: commands, keys, colours; and over pipes."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prompt_toolkit.application import create_app_session
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput

from stentor.errors import DataError
from stentor.generate import Decoding, Engine
from stentor.generate.conversation import Conversation
from stentor.generate.terminal import HELP, Pipe, Terminal, Wrapped, chat, talk
from stentor.model.load import LoadedModel

GREEDY = Decoding.greedy(20)


class Script:
    """A screen that says what it is told, and keeps what it was shown."""

    def __init__(self, *said: str, stop: bool = False) -> None:
        self._said = iter(said)
        self._stop = stop
        self.replies: list[str] = []
        self.notes: list[str] = []
        self.told: list[str] = []

    def read(self) -> str:
        for text in self._said:
            return text
        raise EOFError

    def reply(self, pieces: Iterator[str]) -> bool:
        if self._stop:
            self.replies.append(next(pieces))
            return False
        self.replies.append("".join(pieces))
        return True

    def note(self, text: str) -> None:
        self.notes.append(text)

    def tell(self, text: str) -> None:
        self.told.append(text)


@pytest.fixture
def engine(scripted: Callable[..., LoadedModel]) -> Engine:
    return Engine(scripted("It is.", weather="Rain falls today", generation={"system": "Say."}))


def held(engine: Engine, *said: str, **options: Any) -> tuple[Conversation, Script]:
    conversation, screen = Conversation(engine, GREEDY, None), Script(*said, **options)
    talk(conversation, screen, cut=True)
    return conversation, screen


def test_exit_ends_and_nothing_after_it_is_said(engine: Engine) -> None:
    assert held(engine, "Hi", "/exit", "Hi")[1].replies == ["It is."]


def test_help_names_every_command(engine: Engine) -> None:
    (text,) = held(engine, "/help")[1].told
    for name in ("help", "reset", "system", "settings", "save", "load", "exit"):
        assert f"/{name} " in text


def test_reset_forgets(engine: Engine) -> None:
    conversation, _ = held(engine, "Hi", "/reset", "The weather?")
    assert [m["content"] for m in conversation.messages] == ["The weather?", "Rain falls today"]


def test_the_system_prompt_is_shown_and_set(engine: Engine) -> None:
    conversation, screen = held(engine, "/system", "Hi", "/system Be brief.", "/system", "Hi")
    assert screen.told == ["Say.", "Be brief."]
    assert conversation.system == "Be brief." and len(conversation.messages) == 2
    assert held(engine, "/system none", "/system")[1].told == ["(no system prompt)"]


def test_settings_are_shown_and_set(engine: Engine) -> None:
    conversation, screen = held(
        engine, "/settings temperature=0.7 seed=3", "/settings max_new_tokens=2", "The weather?"
    )
    assert conversation.decoding == Decoding(0.7, 1.0, 1.0, 2, 3)
    assert screen.told[0].startswith("temperature=0.7  top_p=1.0")
    assert screen.replies == ["Rain f"] or len(screen.replies[0].split()) <= 2
    assert screen.notes == ["cut at 2 new tokens; /settings max_new_tokens=… allows more"]
    assert held(engine, "/settings temperature=1", "/settings greedy")[0].decoding == GREEDY


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("/settings top_p=7", "top-p must be above 0 and at most 1"),
        ("/settings top_p=x", "top_p: 'x' is not a number"),
        ("/settings temperature=nan", "temperature must be 0 (greedy), or at least 0.001"),
        ("/settings repetition_penalty=inf", "repetition penalty must be from 0.01 to 100"),
        ("/settings heat=1", "there is no setting 'heat=1'"),
        ("/dance", "there is no command /dance; /help lists them, //dance sends it as text"),
        ("/save", "a file is missing: /save FILE"),
        ("/load none.json", "none.json: there is no such file"),
        ("/load .", ".: it can't be read: Is a directory"),
    ],
)
def test_a_mistake_is_a_word_and_no_end(engine: Engine, line: str, text: str) -> None:
    conversation, screen = held(engine, line, "Hi")
    assert len(screen.notes) == 1 and text in screen.notes[0]
    assert screen.replies == ["It is."] and conversation.decoding == GREEDY


def test_two_slashes_send_one(engine: Engine) -> None:
    assert held(engine, "//help")[0].messages[0]["content"] == "/help"


def test_a_saved_conversation_can_be_loaded(engine: Engine) -> None:
    first, _ = held(engine, "Hi", "/save talk.json")
    saved = json.loads(Path("talk.json").read_text(encoding="utf-8"))
    assert [m["role"] for m in saved["messages"]] == ["system", "user", "assistant"]
    second, screen = held(engine, "/load talk.json", "The weather?")
    assert second.messages[:2] == first.messages and second.system == "Say."
    assert len(second.messages) == 4 and screen.notes == ["2 messages from talk.json"]


def test_no_file_is_overwritten_but_the_conversations_own(engine: Engine) -> None:
    Path("notes.txt").write_text("mine", encoding="utf-8")
    _, screen = held(engine, "Hi", "/save notes.txt", "/save talk.json", "Hi", "/save talk.json")
    assert screen.notes == [
        "notes.txt: there is such a file already; choose another name",
        "2 messages saved to talk.json", "4 messages saved to talk.json",
    ]  # fmt: skip
    assert Path("notes.txt").read_text(encoding="utf-8") == "mine"
    _, screen = held(engine, "/load talk.json", "/save talk.json")
    assert screen.notes[1] == "4 messages saved to talk.json"


@pytest.mark.parametrize("command", ["/reset", "/system Be brief."])
def test_a_new_conversation_is_not_saved_over_the_one_before(engine: Engine, command: str) -> None:
    _, screen = held(engine, "Hi", "/save talk.json", command, "The weather?", "/save talk.json")
    assert screen.notes[-1] == "talk.json: there is such a file already; choose another name"
    saved = json.loads(Path("talk.json").read_text(encoding="utf-8"))
    assert [m["content"] for m in saved["messages"]] == ["Say.", "Hi", "It is."]


@pytest.mark.parametrize(
    "text",
    [
        "no JSON",
        "[]",
        '{"messages": [{"role": "system", "content": 3}]}',
        '{"messages": 3}',
        '{"messages": [{"role": "user"}]}',
        "\xff",
    ],
)
def test_a_file_that_holds_no_conversation_is_refused(engine: Engine, text: str) -> None:
    Path("bad.json").write_text(text, encoding="latin-1")
    conversation = Conversation(engine, GREEDY, None)
    with pytest.raises(DataError):
        conversation.load(Path("bad.json"))
    assert conversation.messages == []


def test_a_stopped_reply_is_kept_as_far_as_it_was_shown(engine: Engine) -> None:
    conversation, screen = held(engine, "The weather?", stop=True)
    assert conversation.messages[-1] == {"role": "assistant", "content": screen.replies[0]}
    assert screen.notes == ["stopped"] and conversation.ended == "interrupted"


def test_the_window_ends_a_reply_with_a_word(scripted: Callable[..., LoadedModel]) -> None:
    conversation = Conversation(Engine(scripted("ha", loop=True)), Decoding.greedy(10_200), None)
    screen = Script("Hi")
    talk(conversation, screen)
    assert screen.notes == ["the window is full, so the reply ends here"]
    assert screen.replies[0].count("ha") == 512 - 4


def test_a_piped_line_that_ends_with_a_backslash_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("one\\\ntwo\nthree\n"))
    screen = Pipe()
    assert [screen.read(), screen.read()] == ["one\ntwo", "three"]
    monkeypatch.setattr("sys.stdin", io.StringIO("four\\"))
    assert screen.read() == "four"
    with pytest.raises(EOFError):
        screen.read()


def test_a_pipe_takes_commands(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("Hi\n/system\n/reset\n"))
    chat(engine, GREEDY, None)
    out, err = capsys.readouterr()
    assert out == "stentor: It is.\nSay.\n"
    assert err == "[forgotten; a new conversation]\n"


# --- at a terminal -----------------------------------------------------------------------------


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Terminal]]:
    """A terminal at which somebody has typed these keys."""
    monkeypatch.setenv("NO_COLOR", "1")
    with create_pipe_input() as keys, create_app_session(input=keys, output=DummyOutput()):

        def typed(text: str) -> Terminal:
            keys.send_text(text)
            return Terminal()

        yield typed


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        ("Hi\r", "Hi"),
        ("one\\\rtwo\r", "one\ntwo"),
        ("one\x1b\rtwo\r", "one\ntwo"),
        ("\x1b[200~one\ntwo\x1b[201~\r", "one\ntwo"),
        ("lost\x03kept\r", "kept"),
        ("Hx\x7fi\r", "Hi"),
    ],
    ids=["enter", "backslash", "alt enter", "paste", "ctrl c", "backspace"],
)
def test_keys_make_a_message(typed: Callable[[str], Terminal], keys: str, text: str) -> None:
    assert typed(keys).read() == text


def test_what_was_sent_is_kept_for_the_arrow_keys(typed: Callable[[str], Terminal]) -> None:
    terminal = typed("first\rsecond\r")
    assert [terminal.read(), terminal.read()] == ["first", "second"]
    assert terminal._session.history.get_strings() == ["first", "second"]


def test_ctrl_d_ends(typed: Callable[[str], Terminal]) -> None:
    with pytest.raises(EOFError):
        typed("\x04").read()


def test_ctrl_c_stops_a_reply_and_not_the_program(
    typed: Callable[[str], Terminal], engine: Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    terminal = typed("Hi\rThe weather?\r\x04")
    conversation = Conversation(engine, GREEDY, None)
    tokens, stops = engine.tokens, iter([True, False])

    def interrupted(requests: Any) -> Iterator[Any]:
        stop = next(stops)
        for number, drawn in enumerate(tokens(requests)):
            if stop and number == 1:
                raise KeyboardInterrupt
            yield drawn

    engine.tokens = interrupted  # type: ignore[method-assign, assignment]
    talk(conversation, terminal)
    out = capsys.readouterr().out.splitlines()
    assert out[1:] == ["stentor: It", "[stopped]", "stentor: Rain falls today"]
    assert [m["content"] for m in conversation.messages[:2]] == ["Hi", "It"]


def test_silence_and_colours(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    with create_pipe_input() as keys, create_app_session(input=keys, output=DummyOutput()):
        Terminal().reply(iter([" ", "\n"]))
    out = capsys.readouterr().out
    assert out.endswith("\x1b[2m[no output]\x1b[0m\n") and "\x1b[1;36mstentor: \x1b[0m" in out


def test_notes_and_help_fit_the_width(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "40")
    with create_pipe_input() as keys, create_app_session(input=keys, output=DummyOutput()):
        terminal = Terminal()
    capsys.readouterr()
    terminal.tell(HELP)
    terminal.note("a note \x1b[31m" + "that goes on " * 9)
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 40 and "\x1b" not in out
    assert out.split() == [*HELP.split(), *("[a note [31m" + "that goes on " * 9 + "]").split()]


@pytest.mark.parametrize(
    ("pieces", "text"),
    [
        (["a bc", "d ef"], "a bcd ef"),
        (["twelve letters", " and more than that"], "twelve letters and\nmore than that"),
        (["a\x1b[31mb\x07"], "a[31mb"),
        (["one\ntwo"], "one\ntwo"),
        (["漢字漢字 漢字漢字漢字漢字"], "漢字漢字 \n漢字漢字漢字漢字"),
    ],
)
def test_words_are_kept_whole(pieces: list[str], text: str) -> None:
    wrapped = Wrapped(20, 0)
    got = "".join(map(wrapped.add, pieces)) + wrapped.end()
    assert [line.rstrip() for line in got.split("\n")] == [
        line.rstrip() for line in text.split("\n")
    ]
