"""What `stentor generate` does."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stentor.chat import Message, check_messages
from stentor.data.files import Row, read_lines, read_rows
from stentor.errors import DataError, InputError
from stentor.generate import Decoding, Engine

NO_OUTPUT = "[no output]"
"""How a silent reply is shown: as what it is, never as a blank."""


def one(engine: Engine, prompt: str, decoding: Decoding, system: str | None) -> None:
    """Stream the reply to one prompt to standard output; a person is told where it was cut."""
    shown = False
    reasons: list[str] = []
    asked: list[Message] = [{"role": "user", "content": prompt}]
    for piece in engine.stream(asked, decoding, system=system, ended=reasons.append):
        print(piece, end="", flush=True)
        shown = shown or bool(piece.strip())
    print("" if shown else NO_OUTPUT)
    if reasons == ["length"] and sys.stderr.isatty():
        full = engine.window - engine.count(asked, system) < decoding.max_new_tokens
        limit = f"cut at {decoding.max_new_tokens} new tokens; --max-new-tokens allows more"
        note = "the window is full, so the reply ends here" if full else limit
        print(f"({note})", file=sys.stderr)


def lines(engine: Engine, file: str, decoding: Decoding, system: str | None) -> None:
    """JSON lines in, JSON lines out, in the same order."""
    problems: list[str] = []
    requests: list[tuple[dict[str, Any], list[Message]]] = []
    for row in _read(file, problems):
        try:
            messages = _messages(row.fields)
            engine.prompt_ids(messages, system)  # refuses what is too long
        except InputError as error:
            problems.append(f"{row.where}: {error}")
        else:
            requests.append((row.fields, messages))
    if problems:
        raise DataError(f"{len(problems)} bad lines\n  " + "\n  ".join(problems[:50]))
    replies = engine.replies([m for _, m in requests], decoding, system=system)
    for (fields, messages), reply in zip(requests, replies, strict=True):
        answer = {
            **fields,
            "prompt": messages[-1]["content"],
            "response": reply.text,
            "finish_reason": reply.finish_reason,
        }
        print(json.dumps(answer, ensure_ascii=False))


def _read(file: str, problems: list[str]) -> Iterator[Row]:
    if file == "-":
        return read_lines(sys.stdin, "standard input", problems=problems)
    if not Path(file).is_file():
        raise DataError(f"{file}: there is no such file")
    return read_rows(Path(file), problems=problems)


def _messages(fields: dict[str, Any]) -> list[Message]:
    if isinstance(fields.get("messages"), list):
        messages: list[Message] = fields["messages"]
        if not all(isinstance(message, dict) for message in messages):
            raise DataError("'messages' is not a list of role and content")
        check_messages(messages)
        if messages[-1]["role"] != "user":
            raise DataError("the last message is not the user's; there is nothing to reply to")
        return messages
    prompt = fields.get("prompt")
    if not isinstance(prompt, str):
        raise DataError("there is neither prompt nor messages")
    return [{"role": "user", "content": prompt}]
