"""The prompts of `stentor data distill`, and the report of what became of each."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stentor.chat import Message, check_messages
from stentor.data.examples import normalise, refuse_bad_rows
from stentor.data.files import open_text, read_rows
from stentor.data.filters import Probes
from stentor.errors import DataError
from stentor.evaluate import suites


@dataclass(frozen=True)
class Question:
    """A conversation that waits for a reply, and what is known of a right one."""

    messages: tuple[Message, ...]
    source: str
    answers: tuple[str, ...] = ()
    reference: str = ""

    @property
    def prompt(self) -> str:
        return self.messages[-1]["content"]

    @property
    def key(self) -> str:
        """What a reply is found again by."""
        return json.dumps([m["content"] for m in self.messages], ensure_ascii=False)


@dataclass
class Report:
    """What became of the prompts; each reason for leaving one out with an example."""

    read: int = 0
    asked: int = 0
    cut: int = 0
    kept: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)

    def leave_out(self, reason: str, prompt: str, reply: str | None = None) -> None:
        self.left_out[reason] += 1
        shown = prompt if reply is None else f"{prompt} → {reply}"
        self.examples.setdefault(reason, " ".join(shown.split()))

    def table(self) -> str:
        """The report for a terminal."""
        total = self.kept.total()
        share = f" ({total / self.asked:.1%})" if self.asked else ""
        sources = ", ".join(f"{count:,} {name}" for name, count in self.kept.most_common())
        lines = [f"{self.read:,} prompts read, {self.asked:,} answered, {total:,} kept{share}"]
        lines += [f"  of these {self.cut:,} cut after a sentence; {sources}"] if total else []
        for reason, count in self.left_out.most_common():
            lines.append(f"{count:>7,}  {reason}")
            lines.append(f"{'':9}{self.examples[reason][:110]}")
        return "\n".join(lines)


def read_questions(files: Sequence[Path], report: Report) -> list[Question]:
    """The prompts of JSON lines (`prompt`, or `messages`) and text files (one in a line).

    Rows may bring `source` (else the name of their file), `answers` and `reference`. DataError
    lists every bad row.
    """
    problems: list[str] = []
    found = []
    for file in files:
        if not file.is_file():
            raise DataError(f"{file}: there is no such file")
        name = file.name.split(".")[0]
        for where, fields in _rows(file, problems):
            report.read += 1
            try:
                question = _question(fields, name)
            except DataError as error:
                problems.append(f"{where}: {error}")
                continue
            if fields.get("kind") in (None, "", "benign"):
                found.append(question)
            else:  # a small teacher knows no safe answer
                report.leave_out("the prompt: not benign", question.prompt)
    refuse_bad_rows(problems)
    return found


def _rows(file: Path, problems: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    if ".txt" not in file.suffixes:
        yield from ((row.where, row.fields) for row in read_rows(file, problems=problems))
        return
    try:
        with open_text(file) as stream:
            for number, line in enumerate(stream, start=1):
                if line.strip():
                    yield f"{file}:{number}", {"prompt": line}
    except (OSError, EOFError, ValueError) as error:
        raise DataError(f"{file}: it can't be read to its end: {error}") from error


def _question(fields: dict[str, Any], name: str) -> Question:
    messages = fields.get("messages")
    if messages is None:
        messages = [{"role": "user", "content": fields.get("prompt")}]
    if not isinstance(messages, list) or not all(isinstance(m, dict) for m in messages):
        raise DataError("'messages' is not a list of role and content")
    check_messages(messages)
    if messages[0]["role"] == "system":
        raise DataError("the prompt brings a system message; give it with --system")
    if messages[-1]["role"] == "assistant":
        messages = messages[:-1]
    if not messages or any(not m["content"].strip() for m in messages):
        raise DataError("the prompt is missing or empty")
    clean = tuple({"role": m["role"], "content": m["content"].strip()} for m in messages)
    answers, reference = fields.get("answers") or [], fields.get("reference") or ""
    if not isinstance(answers, list) or not isinstance(reference, str):
        raise DataError("'answers' must be a list of texts, 'reference' a text")
    source = str(fields.get("source") or name)
    return Question(clean, source, tuple(map(str, answers)), reference)


def worth_asking(questions: Sequence[Question], report: Report) -> list[Question]:
    """Without those that were asked before, and those of the probe's suites or near them."""
    probes = Probes(p.text for name in suites.names() for p in suites.load(name).prompts)
    seen: set[str] = set()
    found = []
    for question in questions:
        key = normalise(question.key)
        if key in seen:
            report.leave_out("the prompt: asked twice", question.prompt)
        elif any(probes.near(m["content"]) for m in question.messages if m["role"] == "user"):
            report.leave_out("the prompt: in a suite of the probe, or near it", question.prompt)
        else:
            found.append(question)
        seen.add(key)
    report.asked = len(found)
    return found
