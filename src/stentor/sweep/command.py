"""What `stentor sweep` does."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from stentor.errors import StentorError
from stentor.sweep.page import show, write_all
from stentor.sweep.plan import load
from stentor.sweep.results import gather
from stentor.sweep.running import described, is_chosen, run_all
from stentor.train.display import Display


def sweep(
    file: str,
    out: Path | None,
    overrides: Sequence[str],
    only: Sequence[str],
    seeds: Sequence[int],
    *,
    resume: bool,
    dry_run: bool,
    table: bool,
    stop_on_failure: bool,
    keep_checkpoints: bool,
    as_json: bool,
) -> None:
    """Run a sweep as far as it goes; print its table and, last, its folder."""
    plan = load(file, overrides, due=lambda cell: not table and is_chosen(cell, only))
    if dry_run:
        print(described(plan))
        return
    display = Display()  # each run has a live one of its own
    ended = run_all(
        plan, out, display, resume=resume or table, only=only, seeds=seeds, table=table,
        stop_on_failure=stop_on_failure, keep_checkpoints=keep_checkpoints,
    )  # fmt: skip
    if ended.elsewhere:
        display.say(
            f"{len(ended.elsewhere)} runs are in another process's hands: "
            f"{'; '.join(ended.elsewhere[:5])}; go on with --resume once it has ended"
        )
    results = gather(plan, ended)
    write_all(ended.folder, results)
    if as_json:
        print(json.dumps(results))
    else:
        show(results)
        print(ended.folder)
    if ended.failed:
        lines = "".join(f"\n  {cell}, seed {seed}: {e}" for (cell, seed), e in ended.failed.items())
        raise StentorError(
            f"{len(ended.failed)} runs failed; mend what they say and go on with --resume{lines}"
        )
