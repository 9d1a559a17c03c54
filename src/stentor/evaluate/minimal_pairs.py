"""Minimal pairs (`sentence_good`, `sentence_bad`): does the model prefer the good sentence?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stentor.data.files import read_rows
from stentor.errors import DataError
from stentor.evaluate.loss import sentence_scores
from stentor.train.device import Machine


def accuracy(model: Any, tokenizer: Any, folder: Path, machine: Machine) -> dict[str, Any]:
    """`{"overall": {"accuracy", "n"}, "sets": {file: …}}`; a tie counts as wrong."""
    names = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".json")
    files = sorted(p for p in folder.rglob("*") if p.name.endswith(names))
    if not files:
        raise DataError(f"{folder}: there are no JSON lines files of minimal pairs in it")
    sets, right, count = {}, 0, 0
    for file in files:
        good, bad = [], []
        for row in read_rows(file):
            pair = (row.fields.get("sentence_good"), row.fields.get("sentence_bad"))
            if not all(isinstance(s, str) and s for s in pair):
                raise DataError(f"{row.where}: sentence_good or sentence_bad is missing")
            good.append(str(pair[0]))
            bad.append(str(pair[1]))
        if not good:
            raise DataError(f"{file}: the file has no rows")
        # each sentence once: computed twice in other company, the rounding may break a tie
        each = list(dict.fromkeys(good + bad))
        scores = dict(zip(each, sentence_scores(model, tokenizer, each, machine), strict=True))
        won = sum(scores[g] > scores[b] for g, b in zip(good, bad, strict=True))
        name = file.relative_to(folder).as_posix().split(".json")[0]
        sets[name] = {"accuracy": won / len(good), "n": len(good)}
        right, count = right + won, count + len(good)
    return {"overall": {"accuracy": right / count, "n": count}, "sets": sets}
