"""Running the cells of a sweep, one after the other; what is finished is never run again.

Each cell and seed is an ordinary run in `cells/CELL/seed-N`, resumed where it was killed. It is
locked while it runs, so that several processes may share one sweep with `--resume`.
"""

from __future__ import annotations

import contextlib
import gc
import shutil
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch

from stentor.data.files import lock, write_text
from stentor.errors import CheckpointError, InputError, RecipeError, StentorError, nearest
from stentor.recipe import PretrainRecipe, Recipe, parse
from stentor.sweep.plan import Cell, Plan
from stentor.train.curriculum import fine_tune
from stentor.train.display import Display
from stentor.train.pretrain import pretrain
from stentor.train.rundir import open_run
from stentor.yaml_file import read_mapping


@dataclass(frozen=True)
class Due:
    """One run of a sweep."""

    cell: Cell
    seed: int
    folder: Path

    @property
    def recipe(self) -> Recipe | PretrainRecipe:
        return self.cell.runs[self.seed]

    @property
    def finished(self) -> bool:
        return (self.folder / "report.json").is_file()

    def __str__(self) -> str:
        return f"{self.cell.name}, seed {self.seed}"


@dataclass
class Ended:
    """What became of a sweep's runs."""

    folder: Path
    failed: dict[tuple[str, int], str] = field(default_factory=dict)
    """(cell, seed) → what went wrong."""
    elsewhere: list[str] = field(default_factory=list)
    """Runs that another process is at."""


def all_runs(plan: Plan, folder: Path) -> list[Due]:
    """Every run, one seed after the other, so that early on each cell has a figure."""
    return [
        Due(cell, seed, folder / "cells" / cell.folder / f"seed-{seed}")
        for seed in plan.sweep.seeds
        for cell in plan.cells
    ]


def chosen_runs(runs: Sequence[Due], only: Sequence[str], seeds: Sequence[int]) -> list[Due]:
    """Those whose cell matches one of the patterns `only`, and of these `seeds` (empty: all)."""
    names = list(dict.fromkeys(run.cell.name for run in runs))
    known = list(dict.fromkeys(run.seed for run in runs))
    problems = [
        f"--only {pattern!r}: no cell is called so{nearest(pattern, names)}"
        for pattern in only
        if not any(fnmatchcase(name, pattern) for name in names)
    ]
    problems += [
        f"--seed {seed}: the sweep has {', '.join(map(str, known))}"
        for seed in seeds
        if seed not in known
    ]
    if problems:
        raise InputError("; ".join(problems))
    return [
        run for run in runs if is_chosen(run.cell.name, only) and (not seeds or run.seed in seeds)
    ]


def is_chosen(cell: str, only: Sequence[str]) -> bool:
    """Whether a cell's name matches one of the patterns; without any, all do."""
    return not only or any(fnmatchcase(cell, pattern) for pattern in only)


def run_all(
    plan: Plan,
    out: Path | None,
    display: Display,
    *,
    resume: bool = False,
    only: Sequence[str] = (),
    seeds: Sequence[int] = (),
    table: bool = False,
    stop_on_failure: bool = False,
    keep_checkpoints: bool = False,
) -> Ended:
    """Run what is due; a run that fails is reported and does not stop the others, unless asked.

    `table`: run nothing, so that the table of what is finished can be made.
    """
    chosen_runs(all_runs(plan, Path()), only, seeds)  # mistakes in them make no folder
    folder = open_run(
        plan.sweep.name, out, resume=resume, recipe_yaml=plan.text, file="sweep.yaml"
    ).path
    runs = all_runs(plan, folder)
    due = chosen_runs(runs, only, seeds)
    if other := _other_recipes(runs):  # the table takes those not chosen, too
        if not table:
            raise CheckpointError(other)
        display.say(f"warning: {other}")
    else:  # cells may have been added since the folder was made
        write_text(folder / "sweep.yaml", plan.text)
    ended = Ended(folder)
    waiting = [run for run in due if not run.finished]
    display.say(f"sweep {folder}: {len(due)} runs, {len(due) - len(waiting)} of them finished")
    if table:
        return ended
    spent: list[float] = []
    for number, run in enumerate(waiting, start=1):
        with _locked(run) as free:
            if not free:
                ended.elsewhere.append(str(run))
                continue
            if run.finished:  # by another process meanwhile
                continue
            left = _left(spent, len(waiting) - number + 1)
            display.say(f"\nrun {number} of {len(waiting)}: {run}{left}")
            started = time.monotonic()
            if problem := _attempt(run):
                ended.failed[run.cell.name, run.seed] = problem
                display.say(f"error: {run}: {problem}")
                if stop_on_failure:
                    break
                continue
            spent.append(time.monotonic() - started)
            if not keep_checkpoints:
                shutil.rmtree(run.folder / "checkpoints", ignore_errors=True)
        gc.collect()
    return ended


def _attempt(run: Due) -> str | None:
    """Run it or go on with it; returns what went wrong."""
    trace = run.folder.parent / f"seed-{run.seed}.error.txt"
    trace.unlink(missing_ok=True)
    begun = (run.folder / "recipe.yaml").is_file()
    threads = torch.get_num_threads()
    try:
        if isinstance(run.recipe, PretrainRecipe):
            pretrain(run.recipe, run.folder, resume=begun)
        else:
            # what a sweep compares are its results
            fine_tune(run.recipe, run.folder, resume=begun, whole_path=False)
    except StentorError as error:
        return str(error)
    except Exception as error:  # whatever it was, the other cells can go on
        write_text(trace, traceback.format_exc())
        return f"{type(error).__name__}: {error} (where: {trace})"
    finally:
        torch.set_num_threads(threads)  # the next cell may ask for none of its own
    return None


def _left(spent: Sequence[float], runs: int) -> str:
    if not spent:
        return ""
    return f" (about {sum(spent) / len(spent) * runs / 60:.0f} minutes left for all)"


@contextlib.contextmanager
def _locked(run: Due) -> Iterator[bool]:
    """Holds the lock of a run; False when another process has it."""
    run.folder.parent.mkdir(parents=True, exist_ok=True)
    with (run.folder.parent / f".seed-{run.seed}.lock").open("w") as file:
        yield lock(file, wait=False)


def _other_recipes(due: Sequence[Due]) -> str | None:
    """Which runs in the folder were made, or begun, by another recipe; None where none was."""
    problems = []
    for run in due:
        file = run.folder / "recipe.yaml"
        if file.is_file() and (changed := _changed(file, run.recipe)):
            problems.append(f"{run.folder}: {changed}")
    if not problems:
        return None
    return (
        "the recipe of these runs has changed since; delete their folders to run them again, "
        "undo the change, or give another --out\n  " + "\n  ".join(problems)
    )


def _changed(file: Path, recipe: Recipe | PretrainRecipe) -> str:
    """The fields in which a run's recipe differs, but for how it uses the machine."""
    try:
        kept: Any = parse(read_mapping(file), type(recipe), str(file))
    except RecipeError as error:
        return f"its recipe.yaml can't be read: {'; '.join(error.problems[:3])}"
    before, now = (_flat(r.model_dump(mode="json")) for r in (kept, recipe))
    free = ("train.", "about", "name")
    names = [name for name in before | now if not name.startswith(free)]
    differing = [n for n in names if before.get(n) != now.get(n)]
    shown = [f"{n} was {before.get(n)}, is {now.get(n)}" for n in differing[:3]]
    return "; ".join(shown) + (f"; and {len(differing) - 3} more" if len(differing) > 3 else "")


def _flat(node: Any, path: str = "") -> dict[str, Any]:
    children = node if isinstance(node, Mapping) else dict(enumerate(node))
    found: dict[str, Any] = {}
    for key, value in children.items():
        inside = isinstance(value, Mapping | list) and value
        found |= _flat(value, f"{path}{key}.") if inside else {f"{path}{key}": value}
    return found


def described(plan: Plan) -> str:
    """The cells of a plan with the command that repeats each, for `--dry-run`."""
    count = len(plan.cells) * len(plan.sweep.seeds)
    seeds = ", ".join(map(str, plan.sweep.seeds))
    lines = [f"{plan.sweep.name}: {len(plan.cells)} cells, seeds {seeds}: {count} runs"]
    for cell in plan.cells:
        about = f": {cell.about.strip()}" if cell.about else ""
        lines += [f"  {cell.name}{about}", f"    {cell.command} --set seed=N"]
    return "\n".join(lines)
