"""Rejected replies for rows that have none: the model's own mistakes, the opposite, silence."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from stentor.data.encode import EncodedExample
from stentor.data.examples import Example
from stentor.data.files import read_rows, write_rows
from stentor.evaluate.judge import judge
from stentor.evaluate.probe import SAMPLED
from stentor.generate import Engine


class Drawn:
    """The rejected replies of a phase, kept in a file: a resumed run must see the same ones.

    A line of the file: the prompt, the reply (null: none was found), and its origin.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def fits(self, examples: Sequence[EncodedExample]) -> bool:
        """Whether the file is there and is about these examples."""
        if not self.path.is_file():
            return False
        kept = [row.fields.get("prompt") for row in read_rows(self.path)]
        return kept == [_prompt(e.example) for e in examples]

    def draw(
        self,
        examples: Sequence[EncodedExample],
        ways: Sequence[str],
        engine: Engine,
        *,
        seed: int,
    ) -> None:
        """Find a reply for each example without one by the first of `ways` that has one."""
        replies: dict[int, str] = {}
        origins: dict[int, str] = {}
        due = [
            n for n, e in enumerate(examples)
            if e.example.rejected is None and e.example.kind != "text"
        ]  # fmt: skip
        for way in ways:
            left = [n for n in due if n not in replies]
            if not left:
                break
            if way == "own":
                found = _own(examples, left, engine, seed)
            elif way == "opposite":
                found = _opposites(examples, left, seed)
            else:
                found = dict.fromkeys(left, "")
            replies |= found
            origins |= dict.fromkeys(found, way)
        lines = [
            {"prompt": _prompt(e.example), "rejected": replies.get(n), "origin": origins.get(n)}
            for n, e in enumerate(examples)
        ]
        write_rows(self.path, lines)

    def put(self, examples: Sequence[EncodedExample]) -> list[EncodedExample]:
        """The examples with the replies of the file."""
        found = []
        for e, row in zip(examples, read_rows(self.path), strict=True):
            reply = row.fields["rejected"]
            found.append(
                e if reply is None else replace(e, example=replace(e.example, rejected=reply))
            )
        return found


def _prompt(example: Example) -> str:
    """The last text that the reply answers; of a plain document there is none."""
    return example.messages[-2]["content"] if len(example.messages) > 1 else ""


def _own(
    examples: Sequence[EncodedExample], numbers: Sequence[int], engine: Engine, seed: int
) -> dict[int, str]:
    """What the model says to each prompt, where the judge finds that wrong."""
    asked = [examples[n].example for n in numbers]
    replies = engine.replies(
        [list(example.messages[:-1]) for example in asked],
        SAMPLED,
        seeds=[seed * 1_000_003 + n for n in numbers],
    )
    return {
        n: reply.text
        for n, example, reply in zip(numbers, asked, replies, strict=True)
        if _wrong(example.kind, _prompt(example), reply.text)
        and reply.text.strip() != example.messages[-1]["content"]
    }


def refuses(prompt: str, reply: str) -> bool | None:
    """Whether a reply declines, as the judge reads it; None where it neither does nor answers."""
    verdict = judge(prompt, reply)
    return verdict.refused if verdict.refused or verdict.outcome == "answer" else None


def _wrong(kind: str, prompt: str, reply: str) -> bool:
    verdict = judge(prompt, reply)
    if verdict.outcome == "unscored":
        return False
    if kind != "harmful":
        return verdict.outcome != "answer"
    return verdict.outcome != "refuse" and not (verdict.outcome == "answer" and verdict.supportive)


def _opposites(
    examples: Sequence[EncodedExample], numbers: Sequence[int], seed: int
) -> dict[int, str]:
    """For each prompt to be answered the refusal of a harmful one, and for each to be refused the
    answer to a look-alike: of its category if there is."""
    choices: dict[tuple[bool, str], list[str]] = {}
    for e in examples:
        if e.example.kind in ("harmful", "borderline"):
            refused, reply = e.example.kind == "harmful", e.example.messages[-1]["content"]
            for category in ("", e.example.category):
                choices.setdefault((refused, category), []).append(reply)
    found = {}
    for n in numbers:
        example = examples[n].example
        answered = example.kind != "harmful"
        there = choices.get((answered, example.category)) or choices.get((answered, ""))
        if there:
            found[n] = random.Random(f"{seed} {n}").choice(there)
    return found
