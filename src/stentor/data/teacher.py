"""Asking a teacher: prompts in batches, replies that end after a few sentences."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from statistics import mean
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from stentor.chat import Message
from stentor.data.encode import sentence_ends
from stentor.data.questions import Question
from stentor.errors import DataError, InputError
from stentor.generate import Decoding, Engine
from stentor.generate.running import Drawn
from stentor.generate.text import Spelling

Kept = dict[str, Any]
"""A reply as it stands in the file: `key`, `reply`, `finish_reason`, `certainty`."""


def ask(
    questions: Sequence[Question],
    teacher: str,
    decoding: Decoding,
    shown: Sequence[Message],
    sentences: int,
    batch: int,
) -> Iterator[dict[str, Kept]]:
    """The replies, a batch at a time, to prompts of like length together."""
    from stentor.model.load import load
    from stentor.recipe import TrainPart
    from stentor.train.device import machine

    loaded = load(teacher)
    loaded.model.to(machine(TrainPart(precision="fp32")).device)
    engine = Engine(loaded, batch=batch)
    sizes: dict[str, int] = {}
    problems = []
    for question in questions:
        try:
            sizes[question.key] = len(engine.prompt_ids([*shown, *question.messages], ""))
        except InputError as error:
            problems.append(f"{question.prompt[:60]!r}: {error}")
    if problems:
        raise DataError(f"{len(problems)} bad prompts\n  " + "\n  ".join(problems[:50]))
    order = sorted(questions, key=lambda q: (sizes[q.key], q.key))
    with _progress(len(order)) as advance:
        for start in range(0, len(order), batch):
            part = order[start : start + batch]
            yield _replies(engine, part, decoding, shown, sentences)
            advance(len(part))


class _Reply:
    """A reply while its tokens come."""

    def __init__(self, spelling: Spelling) -> None:
        self._spelling = spelling
        self._text = ""
        self._logs: list[float] = []
        self._end = ""

    def add(self, drawn: Drawn, sentences: int) -> bool:
        """Take a token in; True when so many sentences are said and the next one has begun."""
        assert drawn.chances is not None  # they were asked for
        self._text += self._spelling.add(drawn.token)
        ends = sentence_ends(self._text)
        if len(ends) >= sentences and ends[sentences - 1] < len(self._text):
            self._text, self._end = self._text[: ends[sentences - 1]], "sentences"
            return True
        self._logs.append(drawn.chances.drawn)
        if drawn.end:
            self._text, self._end = self._text + self._spelling.end(), drawn.end
        return False

    def kept(self, key: str) -> Kept:
        certainty = round(mean(self._logs), 4)
        return {
            "key": key, "reply": self._text, "finish_reason": self._end, "certainty": certainty,
        }  # fmt: skip


def _replies(
    engine: Engine,
    questions: Sequence[Question],
    decoding: Decoding,
    shown: Sequence[Message],
    sentences: int,
) -> dict[str, Kept]:
    """The replies of one batch, each with the mean log-probability of its tokens."""
    requests = [
        engine.request(
            [*shown, *q.messages], decoding.changed(seed=seed_of(decoding.seed, q.key)),
            system="", likeliest=0,
        )
        for q in questions
    ]  # fmt: skip
    replies = {request: _Reply(engine.spelling()) for request in requests}
    running = engine.running()
    step = running.join(requests)
    while step:
        for drawn in step:
            if replies[drawn.request].add(drawn, sentences):
                running.leave(drawn.request)
        step = running.step() if running else []
    pairs = zip(questions, replies.values(), strict=True)
    return {question.key: reply.kept(question.key) for question, reply in pairs}


def seed_of(seed: int, key: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed} {key}".encode()).digest()[:4])


@contextmanager
def _progress(total: int) -> Iterator[Callable[[int], None]]:
    """A bar in a terminal; a line a batch where standard error goes elsewhere."""
    console = Console(stderr=True, highlight=False)
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("replies"), TimeRemainingColumn())
    live = console.is_terminal and not console.is_dumb_terminal
    with Progress(*columns, console=console, transient=True, disable=not live) as bar:
        task = bar.add_task("", total=total)

        def advance(count: int) -> None:
            bar.advance(task, count)
            if not live:
                done = bar.tasks[task].completed
                console.print(f"{done:.0f}/{total} replies", markup=False)

        yield advance
