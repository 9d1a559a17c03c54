"""An example, and the tally of what became of every row that was read."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from stentor.chat import Message, check_messages
from stentor.errors import DataError


@dataclass(frozen=True)
class Example:
    """A conversation that ends with a reply; `rejected` is a worse reply, for preference phases."""

    messages: tuple[Message, ...]
    kind: str
    where: str
    category: str = ""
    rejected: str | None = None

    @property
    def prompts(self) -> tuple[str, ...]:
        """The user's texts, normalised: what must not lie on both sides of a split.

        Of a plain document it is the document.
        """
        said = (m["content"] for m in self.messages if m["role"] in ("user", "text"))
        return tuple(map(normalise, said))

    @property
    def key(self) -> str:
        """What tells one conversation from another: all of the user's turns."""
        return "\n".join(self.prompts)


@dataclass
class Tally:
    """How many rows were read, and how many were left out for which reason."""

    read: int = 0
    kept: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    changed: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    """Bad rows, each with file, line and reason."""


def refuse_bad_rows(problems: Sequence[str]) -> None:
    """DataError that lists the bad rows, if there are any."""
    if problems:
        shown = "".join(f"\n  {p}" for p in problems[:50])
        more = f"\n  … and {len(problems) - 50} more" if len(problems) > 50 else ""
        raise DataError(f"{len(problems)} bad rows{shown}{more}")


_NOT_WORD = re.compile(r"[\W_]+")


def normalise(text: str) -> str:
    """Case, punctuation and spacing folded, so that the same prompt is found again."""
    return _NOT_WORD.sub(" ", text.casefold()).strip()


def conversation(
    prompt: object,
    reply: object,
    kind: str,
    where: str,
    *,
    category: str = "",
    rejected: object = None,
) -> Example:
    """An example of one turn; DataError (with the place) when a text is missing.

    `rejected` may be None, or empty: silence is a worse reply too.
    """
    for name, text in (("prompt", prompt), ("reply", reply)):
        if not isinstance(text, str) or not text.strip():
            raise DataError(f"{where}: the {name} is missing or empty")
    if rejected is not None and not isinstance(rejected, str):
        raise DataError(f"{where}: the rejected reply is no text")
    worse = rejected.strip() if rejected is not None else None
    messages = (
        {"role": "user", "content": str(prompt).strip()},
        {"role": "assistant", "content": str(reply).strip()},
    )
    return Example(messages, kind, where, category, worse)


def from_messages(messages: object, kind: str, where: str, *, category: str = "") -> Example:
    """An example of several turns; DataError (with the place) when roles or texts are wrong."""
    if not isinstance(messages, list) or not all(isinstance(m, dict) for m in messages):
        raise DataError(f"{where}: 'messages' is not a list of role and content")
    try:
        check_messages(messages)
    except DataError as error:
        raise DataError(f"{where}: {error}") from None
    if messages[-1]["role"] != "assistant":
        raise DataError(f"{where}: the conversation does not end with a reply")
    if any(not m["content"].strip() for m in messages):
        raise DataError(f"{where}: a message is empty")
    clean = tuple({"role": m["role"], "content": m["content"].strip()} for m in messages)
    return Example(clean, kind, where, category)
