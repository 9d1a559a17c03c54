"""`stentor chat`: a conversation at a terminal, or over pipes, one message a line."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Protocol

from stentor.errors import InputError
from stentor.generate import Decoding, Engine
from stentor.generate.command import NO_OUTPUT
from stentor.generate.conversation import Conversation

HELP = """\
/help             this list
/reset            forget the conversation
/system [TEXT]    show or set the system prompt; /system none: without one; starts afresh
/settings [A=B …] show or set temperature, top_p, repetition_penalty, max_new_tokens, seed;
                  /settings greedy: the likeliest token each time
/save FILE        write the conversation as JSON
/load FILE        go on with a saved one
/exit             end (so does Ctrl-D)
A line that ends with \\ goes on in the next one; Alt+Enter begins a new line too.
Arrow keys bring back earlier messages. Ctrl-C stops a reply. //TEXT sends /TEXT."""


class Screen(Protocol):
    """Where messages come from and replies go."""

    def read(self) -> str:
        """The next message; EOFError when there are no more."""

    def reply(self, pieces: Iterator[str]) -> bool:
        """Show a reply as it comes; False when Ctrl-C stopped it."""

    def note(self, text: str) -> None:
        """A word to the person, which is no part of the conversation."""

    def tell(self, text: str) -> None:
        """What a command was asked for."""


def chat(engine: Engine, decoding: Decoding, system: str | None) -> None:
    """Talk until /exit or the end of the input."""
    at_terminal = sys.stdin.isatty() and sys.stdout.isatty()
    screen: Screen = Terminal() if at_terminal else Pipe()
    talk(Conversation(engine, decoding, system), screen, cut=at_terminal)


def talk(conversation: Conversation, screen: Screen, *, cut: bool = False) -> None:
    """The loop; `cut`: say when a reply was cut at the limit of new tokens."""
    while True:
        try:
            text = screen.read().strip()
        except EOFError:
            return
        if not text:
            continue
        if text.startswith("/") and not text.startswith("//"):
            if not _command(conversation, screen, text):
                return
            continue
        try:
            pieces = conversation.say(text.removeprefix("/"))
        except InputError as error:
            screen.note(str(error))
            continue
        if conversation.forgotten:
            turns = conversation.forgotten
            screen.note(f"the window is full: {turns} of the oldest turns forgotten")
        with closing(pieces):
            whole = screen.reply(pieces)
        if not whole:
            screen.note("stopped")
        if conversation.ended == "window":
            screen.note("the window is full, so the reply ends here")
        elif cut and conversation.ended == "length":
            most = conversation.decoding.max_new_tokens
            screen.note(f"cut at {most} new tokens; /settings max_new_tokens=… allows more")


def _command(conversation: Conversation, screen: Screen, text: str) -> bool:
    """Do what a line with / asks for; False ends the conversation."""
    name, _, rest = text[1:].partition(" ")
    rest = rest.strip()
    if name in ("exit", "quit"):
        return False
    actions: dict[str, Callable[[], None]] = {
        "help": lambda: screen.tell(HELP),
        "reset": lambda: _reset(conversation, screen),
        "system": lambda: _system(conversation, screen, rest),
        "settings": lambda: _settings(conversation, screen, rest),
        "save": lambda: _save(conversation, screen, rest),
        "load": lambda: _load(conversation, screen, rest),
    }
    if name not in actions:
        screen.note(f"there is no command /{name}; /help lists them, //{name} sends it as text")
        return True
    try:
        actions[name]()
    except InputError as error:
        screen.note(str(error))
    except OSError as error:
        screen.note(f"{error.filename}: {error.strerror}")
    return True


def _reset(conversation: Conversation, screen: Screen) -> None:
    conversation.reset()
    screen.note("forgotten; a new conversation")


def _system(conversation: Conversation, screen: Screen, text: str) -> None:
    if not text:
        screen.tell(conversation.shown_system or "(no system prompt)")
        return
    conversation.system = "" if text == "none" else text
    _reset(conversation, screen)


def _settings(conversation: Conversation, screen: Screen, text: str) -> None:
    kinds: dict[str, type[float] | type[int]] = {
        "temperature": float, "top_p": float, "repetition_penalty": float,
        "max_new_tokens": int, "seed": int,
    }  # fmt: skip
    decoding = conversation.decoding
    for word in text.split():
        name, equals, value = word.partition("=")
        if word == "greedy":
            seed = decoding.seed
            decoding = Decoding.greedy(decoding.max_new_tokens).changed(seed=seed)
            continue
        if name not in kinds or not equals:
            raise InputError(f"there is no setting {word!r}; there are {', '.join(kinds)}, greedy")
        try:
            decoding = decoding.changed(**{name: kinds[name](value)})
        except ValueError:
            raise InputError(f"{name}: {value!r} is not a number") from None
    conversation.decoding = decoding
    screen.tell("  ".join(f"{name}={value}" for name, value in asdict(decoding).items()))


def _save(conversation: Conversation, screen: Screen, name: str) -> None:
    file = _file(name, "/save FILE")
    conversation.save(file)
    screen.note(f"{len(conversation.messages)} messages saved to {file}")


def _load(conversation: Conversation, screen: Screen, name: str) -> None:
    file = _file(name, "/load FILE")
    conversation.load(file)
    screen.note(f"{len(conversation.messages)} messages from {file}")


def _file(name: str, usage: str) -> Path:
    if not name:
        raise InputError(f"a file is missing: {usage}")
    return Path(name).expanduser()


class Pipe:
    """Messages from standard input, replies on standard output, notes on standard error."""

    def read(self) -> str:
        lines = [input()]
        while lines[-1].endswith("\\"):
            lines[-1] = lines[-1][:-1]
            with suppress(EOFError):  # the input ends with a \\
                lines.append(input())
        return "\n".join(lines)

    def reply(self, pieces: Iterator[str]) -> bool:
        print("stentor: ", end="", flush=True)
        shown = False
        for piece in pieces:
            print(piece, end="", flush=True)
            shown = shown or bool(piece.strip())
        print("" if shown else NO_OUTPUT)
        return True

    def note(self, text: str) -> None:
        print(f"[{text}]", file=sys.stderr)

    def tell(self, text: str) -> None:
        print(text, flush=True)


class Terminal:
    """A person at a terminal: line editing with history, colours, words kept whole."""

    def __init__(self) -> None:
        from prompt_toolkit import PromptSession
        from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

        keys = KeyBindings()

        @keys.add("enter")
        def accept(event: KeyPressEvent) -> None:
            buffer = event.current_buffer
            if buffer.document.text_before_cursor.endswith("\\"):
                buffer.delete_before_cursor()
                buffer.insert_text("\n")
            else:
                buffer.validate_and_handle()

        @keys.add("escape", "enter")
        def new_line(event: KeyPressEvent) -> None:
            event.current_buffer.insert_text("\n")

        self._session: PromptSession[str] = PromptSession(
            multiline=True, key_bindings=keys, prompt_continuation="   … "
        )
        self._colour = "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"
        print(self._dim("/help lists the commands; Ctrl-C stops a reply, Ctrl-D ends"))

    def read(self) -> str:
        while True:
            try:
                return self._session.prompt("you: ")
            except KeyboardInterrupt:  # an emptied line, as in a shell
                continue

    def reply(self, pieces: Iterator[str]) -> bool:
        name = "stentor: "
        print(f"\x1b[1;36m{name}\x1b[0m" if self._colour else name, end="", flush=True)
        wrapped = Wrapped(shutil.get_terminal_size().columns, len(name))
        shown = False
        try:
            for piece in pieces:
                print(wrapped.add(piece), end="", flush=True)
                shown = shown or bool(piece.strip())
        except KeyboardInterrupt:
            print(wrapped.end())
            return False
        print(wrapped.end() if shown else self._dim(NO_OUTPUT))
        return True

    def note(self, text: str) -> None:
        self.tell(f"[{text}]")

    def tell(self, text: str) -> None:
        wrapped = Wrapped(shutil.get_terminal_size().columns, 0)
        print(self._dim(wrapped.add(text) + wrapped.end()))

    def _dim(self, text: str) -> str:
        return f"\x1b[2m{text}\x1b[0m" if self._colour else text


class Wrapped:
    """Breaks a text that comes in pieces between words; drops what would steer the terminal."""

    def __init__(self, width: int, column: int) -> None:
        self._width, self._column = max(width, 20), column
        self._word = ""

    def add(self, piece: str) -> str:
        """What can be shown now: all but the last word, which may go on."""
        shown = ""
        for character in piece:
            if character == "\n":
                shown += self.end() + "\n"
                self._column = 0
            elif character in " \t":
                shown += self.end()
                if self._column < self._width - 1:
                    shown += " "
                    self._column += 1
            elif character.isprintable():
                self._word += character
        return shown

    def end(self) -> str:
        """The last word, on a line of its own where it does not fit."""
        from rich.cells import cell_len

        word, self._word = self._word, ""
        size = cell_len(word)
        if self._column and word and self._column + size > self._width:
            self._column = size
            return "\n" + word
        self._column += size
        return word
