"""The recipe of the release runs from end to end, cut down to a few examples of each phase."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

from conftest import Command
from stentor import recipe as recipes
from stentor.recipe import Recipe


def test_every_phase_of_the_release_runs(stentor: Command) -> None:
    recipe = recipes.load("stentor-12m-instruct", Recipe)
    small = {phase.name: dict.fromkeys(phase.mix, 2) for phase in recipe.phases}
    changes = [f"phases.{name}.mix={json.dumps(mix)}" for name, mix in small.items()]
    changes += [f"phases.{name}.epochs=1" for name in small]
    changes += [f"phases.{name}.batch=1" for name in small]  # the first step warms up, at rate 0
    changes += ["model.base=preset:stentor-2m", "probe=null", "base_text_rows=2",
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
    drawn = Path("run/rejected/phase-2.jsonl").read_text(encoding="utf-8").splitlines()
    origins = Counter(json.loads(line)["origin"] for line in drawn)
    assert origins.pop(None) == 2  # plain text is no reply
    assert origins == {"opposite": 10}
