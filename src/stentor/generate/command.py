"""What `stentor generate` does."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from stentor.chat import Message, check_messages
from stentor.data.files import read_rows
from stentor.errors import DataError, InputError
from stentor.generate import Decoding, Engine

NO_OUTPUT = "[no output]"
"""How a silent reply is shown: as what it is, never as a blank."""


def one(engine: Engine, prompt: str, decoding: Decoding, system: str | None) -> None:
    """Stream the reply to one prompt to standard output."""
    shown = False
    for piece in engine.stream([{"role": "user", "content": prompt}], decoding, system=system):
        print(piece, end="", flush=True)
        shown = shown or bool(piece.strip())
    print("" if shown else NO_OUTPUT)


def lines(engine: Engine, file: str, decoding: Decoding, system: str | None) -> None:
    """JSON lines in, JSON lines out, in the same order."""
    problems: list[str] = []
    requests: list[tuple[dict[str, Any], list[Message]]] = []
    for where, fields in _read(file, problems):
        try:
            messages = _messages(fields)
            engine.prompt_ids(messages, system)  # refuses what is too long
        except InputError as error:
            problems.append(f"{where}: {error}")
        else:
            requests.append((fields, messages))
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


def _read(file: str, problems: list[str]) -> list[tuple[str, dict[str, Any]]]:
    if file != "-":
        path = Path(file)
        if not path.is_file():
            raise DataError(f"{file}: there is no such file")
        return [(row.where, row.fields) for row in read_rows(path, problems=problems)]
    found = []
    for number, line in enumerate(sys.stdin, start=1):
        if not line.strip():
            continue
        try:
            fields = json.loads(line)
        except json.JSONDecodeError as error:
            problems.append(f"standard input:{number}: not JSON: {error.msg}")
            continue
        if isinstance(fields, dict):
            found.append((f"standard input:{number}", fields))
        else:
            problems.append(f"standard input:{number}: not an object with fields")
    return found


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
