"""A conversation that stays within the window: the oldest turns are dropped whole."""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

from stentor.chat import Message, check_messages
from stentor.data.files import write_text
from stentor.errors import DataError, InputError
from stentor.generate import Decoding, Engine


def latest(
    engine: Engine, messages: Sequence[Message], system: str | None, decoding: Decoding
) -> tuple[list[Message], int]:
    """The messages without the oldest turns that leave no room for a reply; how many turns went.

    Room is a quarter of the window, or the new tokens that may be drawn, if they are fewer. A
    system message in front stays, and so does the last message, whatever its size.
    """
    first = list(messages[:1]) if messages[0]["role"] == "system" else []
    turns = messages[len(first) :]
    most: int = engine.window - min(decoding.max_new_tokens, engine.window // 4)

    def fits(dropped: int) -> bool:
        return engine.count([*first, *turns[2 * dropped :]], system) <= most

    dropped = bisect_left(range((len(turns) - 1) // 2), True, key=fits)
    return [*first, *turns[2 * dropped :]], dropped


class Conversation:
    """Messages, the system prompt and the decoding, as `stentor chat` keeps them."""

    def __init__(self, engine: Engine, decoding: Decoding, system: str | None) -> None:
        """`system`: None is the model's own prompt, "" none."""
        self._engine = engine
        self.decoding, self.system = decoding, system
        self.messages: list[Message] = []
        self.forgotten = 0
        """How many turns were dropped to make room for the last message."""
        self.ended = ""
        """Why the last reply ended: `stop`, `length`, `window` or `interrupted`."""
        self._turn = 0
        self._file: Path | None = None

    def say(self, text: str) -> Generator[str, None, None]:
        """The reply to a message, piece by piece; InputError when the message can't fit.

        Closing it early keeps what was said until then.
        """
        self.messages.append({"role": "user", "content": text})
        try:
            check_messages(self.messages)
            self._make_room()
        except InputError:
            self.messages.pop()
            raise
        return self._reply()

    @property
    def shown_system(self) -> str | None:
        """The system prompt that holds."""
        return self._engine.system if self.system is None else self.system

    def reset(self) -> None:
        """Forget what was said; the file it was saved to is another conversation's from now on."""
        self.messages.clear()
        self._file = None

    def _reply(self) -> Generator[str, None, None]:
        self.ended, reply, tokens = "interrupted", "", 0
        try:  # from the first line on: each message is to have its reply, however it ends
            size = self._engine.count(self.messages, self.system)
            decoding = self.decoding.changed(seed=self.decoding.seed + self._turn)
            self._turn += 1
            request = self._engine.request(self.messages, decoding, system=self.system)
            spelling = self._engine.spelling()
            for drawn in self._engine.tokens([request]):
                tokens += 1
                piece = spelling.add(drawn.token) + (spelling.end() if drawn.end else "")
                reply += piece
                if drawn.end:
                    full = size + tokens >= self._engine.window
                    self.ended = "window" if drawn.end == "length" and full else drawn.end
                if piece:
                    yield piece
        finally:
            self.messages.append({"role": "assistant", "content": reply})

    def _make_room(self) -> None:
        """Drop the oldest turns until a reply fits."""
        engine, system = self._engine, self.system
        size = engine.count(self.messages[-1:], system)
        if size >= engine.window:
            raise InputError(
                f"the message is too long: {size} tokens with the system prompt, "
                f"and the window holds {engine.window}; it was not sent"
            )
        self.messages, self.forgotten = latest(engine, self.messages, system, self.decoding)

    def save(self, file: Path) -> None:
        """Write it as JSON, in the form that training reads: `messages` with the system prompt.

        InputError when there is such a file and it is not this conversation's own.
        """
        if file.exists() and file.resolve() != self._file:
            raise InputError(f"{file}: there is such a file already; choose another name")
        system = self.shown_system
        first: list[Message] = [{"role": "system", "content": system}] if system else []
        text = json.dumps({"messages": [*first, *self.messages]}, ensure_ascii=False, indent=1)
        write_text(file, text + "\n")
        self._file = file.resolve()

    def load(self, file: Path) -> None:
        """Go on with a saved conversation; what is wrong with the file is a DataError."""
        try:
            found: Any = json.loads(file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise DataError(f"{file}: there is no such file") from None
        except OSError as error:
            raise DataError(f"{file}: it can't be read: {error.strerror}") from None
        except ValueError:
            raise DataError(f"{file}: it is not a saved conversation (not JSON)") from None
        messages = found.get("messages") if isinstance(found, dict) else None
        if not isinstance(messages, list) or not all(isinstance(m, dict) for m in messages):
            raise DataError(f"{file}: it is not a saved conversation (no messages)")
        system = ""
        if messages and messages[0].get("role") == "system":
            system = messages[0].get("content")
            if not isinstance(system, str):
                raise DataError(f"{file}: its system message has no text in 'content'")
            messages = messages[1:]
        if messages:
            check_messages(messages)
            if messages[-1]["role"] == "user":
                messages = messages[:-1]
        self.messages, self.system, self._file = messages, system, file.resolve()
