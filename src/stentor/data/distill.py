"""`stentor data distill`: a bigger model answers prompts; what is good to learn from is kept.

Every reply is kept as it was given, a line a batch, in `NAME.replies.jsonl` beside the output.
A run killed at any moment goes on there and ends with the same file: which prompts share a batch
depends on the prompts and on the batches that are done, and each draws from a seed of its own.
The filters read that file, so a finished run can be filtered again without asking again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import IO, Any

from stentor.chat import Message
from stentor.data.files import check_rows_name, read_rows, write_rows
from stentor.data.filters import Candidate, fault, shortened, too_common
from stentor.data.questions import Question, Report, read_questions, worth_asking
from stentor.data.teacher import Kept, ask, seed_of
from stentor.errors import DataError, InputError
from stentor.generate import Decoding

SYSTEM = (
    "You talk with a friend. Reply kindly in plain words, in at most two short sentences. "
    "Give the answer at once."
)
DECODING = Decoding(temperature=0.0, top_p=1.0, repetition_penalty=1.05, max_new_tokens=48)
CERTAINTY = -0.8
"""Below this mean log-probability of a token the teacher mostly talks nonsense."""
OPENING_SHARE = 0.01
"""At most this share of the replies begin with the same four words."""


def distill(
    files: Sequence[Path],
    teacher: str,
    out: Path,
    decoding: Decoding,
    *,
    system: str,
    examples: Sequence[tuple[str, str]] = (),
    sentences: int = 2,
    min_certainty: float = CERTAINTY,
    batch: int,
    resume: bool,
) -> Report:
    """Ask `teacher` every prompt of `files`, filter its replies and write `out`."""
    kept_at = _replies_file(out)
    _check_place(out, kept_at, resume)
    report = Report()
    questions = worth_asking(read_questions(files, report), report)
    shown = turns(system, examples)
    settings = {
        "teacher": teacher, "turns": shown, "decoding": asdict(decoding), "sentences": sentences,
    }  # fmt: skip
    out.parent.mkdir(parents=True, exist_ok=True)
    with kept_at.open("a+b") as stream:
        known = _known_replies(stream, kept_at, settings)
        missing = [question for question in questions if question.key not in known]
        for replies in ask(missing, teacher, decoding, shown, sentences, batch) if missing else ():
            _append(stream, {"replies": list(replies.values())})
            known |= replies
    rows = sift([(q, known[q.key]) for q in questions], min_certainty, report)
    write_rows(out, rows)
    return report


def turns(system: str, examples: Sequence[tuple[str, str]]) -> list[Message]:
    """What stands before every prompt."""
    shown = [{"role": "system", "content": system}] if system else []
    for prompt, reply in examples:
        shown.append({"role": "user", "content": prompt})
        shown.append({"role": "assistant", "content": reply})
    return shown


def read_examples(file: Path) -> list[tuple[str, str]]:
    """Pairs of `prompt` and `response`."""
    pairs = [(row.fields.get("prompt"), row.fields.get("response")) for row in read_rows(file)]
    if not all(isinstance(text, str) and text.strip() for pair in pairs for text in pair):
        raise DataError(f"{file}: an example has no prompt or no response")
    return [(str(prompt), str(reply)) for prompt, reply in pairs]


def _check_place(out: Path, kept_at: Path, resume: bool) -> None:
    if resume and not kept_at.is_file():
        raise InputError(f"{kept_at}: there is no run to resume; leave out --resume")
    for path in () if resume else (out, kept_at):
        if path.exists():
            raise InputError(
                f"{path}: the file exists and nothing is overwritten; go on with that run "
                "(--resume), or give another --out"
            )


def _replies_file(out: Path) -> Path:
    check_rows_name(out)
    return out.with_name(f"{out.name.removesuffix('.gz').removesuffix('.jsonl')}.replies.jsonl")


# --- replies


def _append(stream: IO[bytes], line: dict[str, Any]) -> None:
    stream.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
    stream.flush()
    os.fsync(stream.fileno())


def _known_replies(stream: IO[bytes], path: Path, settings: dict[str, Any]) -> dict[str, Kept]:
    """The replies given so far; a line that a kill cut short is taken away."""
    stream.seek(0)
    whole, _, torn = stream.read().rpartition(b"\n")
    if torn:
        stream.truncate(len(whole) + bool(whole))
    try:
        lines = [json.loads(line) for line in whole.splitlines()]
        known = {kept["key"]: kept for line in lines[1:] for kept in line["replies"]}
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: it holds no replies that can be read: {error}") from None
    if not lines:
        _append(stream, settings)
    elif lines[0] != settings:
        raise InputError(
            f"{path}: these replies were given with other settings ({json.dumps(lines[0])}); "
            "give the same ones, or another --out"
        )
    return known


# --- what is kept


def sift(
    pairs: Sequence[tuple[Question, Kept]], min_certainty: float, report: Report
) -> list[dict[str, Any]]:
    """The rows of the replies that no filter faults, in the order of their prompts."""
    chosen: list[tuple[Question, str]] = []
    cut = set()
    for question, given in pairs:
        reply, ended = given["reply"], given["finish_reason"] == "stop"
        raw = Candidate(question.prompt, reply, question.answers, question.reference)
        text = shortened(reply, ended=ended, creative=raw.creative)
        if text is None:
            reason = "too long to keep" if ended else "did not end, and can't be cut"
        elif given["certainty"] < min_certainty:
            reason = "the teacher was not sure"
        else:
            reason = fault(replace(raw, reply=text))
        if reason or text is None:
            report.leave_out(reason, question.prompt, reply)
            continue
        if not ended or text != reply.strip():
            cut.add(question.key)
        chosen.append((question, text))
    by_chance = sorted(range(len(chosen)), key=lambda n: seed_of(0, chosen[n][0].key))
    common = too_common([text for _, text in chosen], by_chance, OPENING_SHARE)
    rows = []
    for number, (question, text) in enumerate(chosen):
        if number in common:
            report.leave_out("begins as too many others do", question.prompt, text)
            continue
        report.kept[question.source] += 1
        report.cut += question.key in cut
        rows.append(_row(question, text))
    return rows


def _row(question: Question, reply: str) -> dict[str, Any]:
    told = {"kind": "benign", "source": question.source}
    if len(question.messages) == 1:
        return {"prompt": question.prompt, "response": reply, **told}
    return {"messages": [*question.messages, {"role": "assistant", "content": reply}], **told}
