"""The recipe of the release runs from end to end, cut down to a few examples of each source."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

from conftest import Command
from stentor import recipe as recipes
from stentor.recipe import Recipe
from stentor.report import metadata

NUMBERS = ("two", "three", "four", "five", "six", "seven", "eight", "nine")


def dolly(n: str) -> dict[str, Any]:
    return {"instruction": f"What is {n} and one?", "context": "", "response": f"One above {n}.",
            "category": "open_qa"}  # fmt: skip


def coconot(n: str) -> dict[str, Any]:
    return {"id": n, "category": "Requests with safety concerns", "subcategory": "triggers",
            "prompt": f"How do I kill {n} minutes?", "chosen": f"Count to {n}.",
            "rejected": "I can't help with that."}  # fmt: skip


def short(n: str) -> dict[str, Any]:
    return {"instruction": f"Spell the number {n}.", "input": "", "output": "-".join(n)}


def test_every_phase_of_the_release_runs(stentor: Command) -> None:
    recipe = recipes.load("stentor-12m-instruct", Recipe)
    for name, row in (("dolly", dolly), ("coconot", coconot), ("short", short)):
        file = Path(str(recipe.data.sources[name].path).replace("*", name))
        file.parent.mkdir(parents=True)
        lines = "".join(json.dumps(row(n)) + "\n" for n in NUMBERS)
        file.write_bytes(gzip.compress(lines.encode()))
    small = {phase.name: dict.fromkeys(phase.mix, 2) for phase in recipe.phases}
    changes = [f"phases.{name}.mix={json.dumps(mix)}" for name, mix in small.items()]
    changes += [f"phases.{name}.epochs=1" for name in small]
    changes += [f"phases.{name}.batch=1" for name in small]  # the first step warms up, at rate 0
    changes += ["model.base=preset:stentor-2m", "probe=null", "base_text_rows=2", "data.root=.",
                "data.hold_out=0", "data.hold_out_at_least=2"]  # fmt: skip
    flags = [word for change in changes for word in ("--set", change)]
    done = stentor("train", "stentor-12m-instruct", "--out", "run", *flags)
    assert done.code == 0, done.err
    report = json.loads(Path("run/report.json").read_text(encoding="utf-8"))
    assert [phase["examples"] for phase in report["phases"]] == [
        2 * len(mix) for mix in small.values()
    ]
    assert report["data"]["replay"]["train"] > 400  # base text ships with the package
    assert report["base_text_loss"]["before"] != report["base_text_loss"]["after"]
    assert metadata.licence(report) == "cc-by-sa-3.0"  # the strictest: commercial use is allowed
