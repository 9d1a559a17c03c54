"""`stentor data texts`: plain texts that a base model writes by itself.

Fine-tuning forgets what the base could say, and replaying text of the base's kind keeps it. What
the base itself writes at temperature 1 is drawn from the very distribution that is to be kept, so
it stands in for a corpus that is not at hand (Robins 1995, "Catastrophic forgetting, rehearsal and
pseudorehearsal").
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

from stentor.data.encode import sentence_ends
from stentor.data.files import check_rows_name, write_rows
from stentor.errors import InputError
from stentor.generate import Decoding, Engine
from stentor.generate.running import Request

DECODING = Decoding(temperature=1.0, top_p=1.0, repetition_penalty=1.0, max_new_tokens=160)
LEAST = 12
"""Words that a text has at least."""


def write_texts(
    engine: Engine,
    out: Path,
    count: int,
    decoding: Decoding,
    done: Callable[[int], None] = lambda count: None,
) -> Counter[str]:
    """Let the model write `count` texts, and keep what can be replayed; why others can't be.

    Each is cut after its last sentence. Raises InputError where none can be kept.
    """
    if out.exists():
        raise InputError(f"{out}: the file exists and nothing is overwritten; give another --out")
    check_rows_name(out)
    start = engine.text_ids("")
    if not start:
        raise InputError(
            "the model's tokenizer has no token that begins a text, so it can't write one from "
            "nothing; replay a corpus of yours instead (source text, with a path)"
        )
    seeds = [decoding.seed * 1_000_003 + number for number in range(count)]
    requests = [Request(start, decoding, seed) for seed in seeds]
    controls = engine.chat.template.controls - engine.chat.template.stop_ids
    left_out: Counter[str] = Counter()
    texts: dict[str, int] = {}
    for seed, reply in zip(seeds, engine.finish(requests, done), strict=True):
        ends = sentence_ends(reply.text)
        text = reply.text[: ends[-1]].strip() if ends else ""
        if controls.intersection(reply.ids):
            left_out["a conversation"] += 1
        elif len(text.split()) < LEAST:
            left_out[f"shorter than {LEAST} words"] += 1
        elif text in texts:
            left_out["the same as another"] += 1
        else:
            texts[text] = seed
    if not texts:
        why = ", ".join(f"{number} {reason}" for reason, number in left_out.items())
        raise InputError(
            f"none of {count} texts can be kept: {why}; take a base, which has learned from plain "
            "text, or raise --max-new-tokens"
        )
    write_rows(out, [{"text": text, "seed": seed} for text, seed in texts.items()])
    return left_out
