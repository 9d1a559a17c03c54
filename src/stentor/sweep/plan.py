"""A sweep's file: one recipe, and cells that each change some of its fields.

Everything is checked before anything runs, and every mistake of the sweep, of its recipe and of
its cells is reported at once.
"""

from __future__ import annotations

import copy
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field, ValidationError, model_validator

from stentor.data.files import expand
from stentor.errors import InputError, RecipeError, nearest
from stentor.evaluate import suites
from stentor.model.find import resolve
from stentor.model.presets import preset
from stentor.overrides import apply, drop_removed, read
from stentor.recipe import (
    Part,
    PretrainRecipe,
    Recipe,
    Seed,
    bundled_recipes,
    data_root,
    explain,
    find,
    parse,
)
from stentor.yaml_file import read_mapping


class CellPart(Part):
    """One way to do it: the sweep's recipe with some fields changed."""

    name: Annotated[str, Field(min_length=1)]
    """Its row in the table, and its folder in the sweep's."""
    about: str = ""
    """A sentence for the page."""
    recipe: str | None = None
    """Another recipe than the sweep's."""
    set: dict[str, Any] = Field(default_factory=dict)
    """Field → value, as after `--set`: `phases.main.mix: {…}`; null removes a phase."""
    x: float | None = None
    """Where the cell stands on the axis of the sweep's curve."""


class SweepPart(Part):
    """A sweep: `stentor sweep`."""

    name: str
    """Its title, and its folder in `runs/`; not given: the name of the file."""
    about: str = ""
    """A sentence or two for the page."""
    recipe: str
    """A file beside the sweep's, or what `stentor train` takes (or `stentor pretrain`)."""
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] = (1, 2, 3)
    """Every cell is run with each of them."""
    set: dict[str, Any] = Field(default_factory=dict)
    """Changes to the recipe of every cell."""
    against: str | None = None
    """The cell that the others are compared with; None: the first."""
    curve: str | None = None
    """What `x` of the cells is, for the axis of a plot."""
    log_curve: bool = False
    """Whether that axis is logarithmic."""
    cells: Annotated[tuple[CellPart, ...], Field(min_length=1)]
    """What is set against each other."""

    @model_validator(mode="after")
    def _consistent(self) -> SweepPart:
        names = [cell.name for cell in self.cells]
        problems = [f"cells: the name {n!r} occurs twice" for n in _twice(names)]
        if not problems:
            folders = [folder_name(name) for name in names]
            problems += [f"cells: two names give the folder {f!r}" for f in _twice(folders)]
        problems += [f"seeds: {seed} occurs twice" for seed in _twice(self.seeds)]
        if self.against is not None and self.against not in names:
            hint = nearest(self.against, names)
            problems.append(f"against: no cell is called {self.against!r}{hint}")
        if any(cell.x is not None for cell in self.cells) != (self.curve is not None):
            problems.append("curve: it names what x of the cells is; give both or neither")
        if self.log_curve and any(cell.x is not None and cell.x <= 0 for cell in self.cells):
            problems.append("log_curve: x of a cell is not above 0")
        if problems:
            raise ValueError("\n".join(problems))
        return self


def _twice(values: Sequence[Any]) -> list[Any]:
    return list(dict.fromkeys(v for v in values if values.count(v) > 1))


def folder_name(cell: str) -> str:
    """A cell's name as a folder: letters, digits, dots and hyphens."""
    return re.sub(r"[^a-z0-9.]+", "-", cell.casefold()).strip("-.") or "cell"


@dataclass(frozen=True)
class Cell:
    """A cell with its recipe for each seed, checked."""

    name: str
    about: str
    x: float | None
    runs: Mapping[int, Recipe | PretrainRecipe]
    command: str
    """Repeats it by hand, but for `--set seed=N`."""

    @property
    def folder(self) -> str:
        return folder_name(self.name)


@dataclass(frozen=True)
class Plan:
    """A sweep, ready to run."""

    sweep: SweepPart
    cells: tuple[Cell, ...]
    text: str
    """The file, for the sweep's folder."""

    @property
    def against(self) -> str:
        return self.sweep.against or self.sweep.cells[0].name

    @property
    def pretraining(self) -> bool:
        return isinstance(next(iter(self.cells[0].runs.values())), PretrainRecipe)


def load(
    name_or_path: str,
    overrides: Sequence[str] = (),
    *,
    due: Callable[[str], bool] = lambda name: True,
) -> Plan:
    """Read and check a sweep; `overrides` change the recipe of every cell.

    `due`: of which cells, by name, the base has to be there; others may be run later.
    """
    path = find(name_or_path)
    raw = read_mapping(path)
    if "cells" not in raw:
        raise RecipeError(
            str(path), ["it is a recipe, not a sweep: it has no cells; run it with stentor train"]
        )
    raw.setdefault("name", path.stem)
    try:
        sweep = SweepPart.model_validate(raw)
    except ValidationError as error:
        problems = [line for item in error.errors() for line in explain(SweepPart, item)]
        raise RecipeError(str(path), problems) from None
    problems = []
    changes = _both(overrides, sweep.set, problems)
    cells = [_cell(sweep, part, changes, path.parent, problems, due) for part in sweep.cells]
    kinds = {type(recipe) for cell in cells if cell for recipe in cell.runs.values()}
    if len(kinds) > 1:
        problems.append("cells: some train a base and some fine-tune; give each kind its own sweep")
    problems += _other_prompts([cell for cell in cells if cell])
    if problems:
        raise RecipeError(str(path), list(dict.fromkeys(problems)))
    return Plan(sweep, tuple(cell for cell in cells if cell), path.read_text(encoding="utf-8"))


def _both(
    overrides: Sequence[str], own: Mapping[str, Any], problems: list[str]
) -> list[tuple[str, Any]]:
    """The sweep's changes, then those of the command line."""
    given = list(own.items())
    for text in overrides:
        try:
            given.append(read(text))
        except ValueError as problem:
            problems.append(f"--set {text!r}{problem}")
    return given


def _cell(
    sweep: SweepPart,
    part: CellPart,
    changes: Sequence[tuple[str, Any]],
    folder: Path,
    problems: list[str],
    due: Callable[[str], bool],
) -> Cell | None:
    """A cell with its recipes; None, and its mistakes in `problems`, when there are any."""
    where = f"cell {part.name!r}"
    name = part.recipe or sweep.recipe
    beside = folder / name
    try:
        path = beside if beside.is_file() else find(name)
        base = read_mapping(path)
    except InputError as error:
        problems.append(f"{where if part.recipe else 'recipe'}: {error}")
        return None
    kind: type[Recipe] | type[PretrainRecipe] = Recipe if "phases" in base else PretrainRecipe
    base.setdefault("name", path.stem)
    if mistakes := _mistakes(lambda: parse(copy.deepcopy(base), kind, name)):
        problems += [f"recipe {name}: {mistake}" for mistake in mistakes]
        return None
    changed = [*changes, *part.set.items()]
    raw = copy.deepcopy(base)
    wrong = []
    for field, value in changed:
        if field == "seed":
            wrong.append(f"{where}: 'seed' is set by the sweep's `seeds`")
        try:
            apply(raw, field, value)
        except ValueError as problem:
            wrong.append(f"{where}: {field!r}{problem}")
    drop_removed(raw)
    raw["name"] = f"{sweep.name}: {part.name}"
    if not wrong:
        mistakes = _mistakes(lambda: parse(raw, kind, name))
        wrong += [f"{where}: {mistake}" for mistake in mistakes]
    if wrong:
        problems += wrong
        return None
    runs = {seed: parse(raw | {"seed": seed}, kind, name) for seed in sweep.seeds}
    missing = _missing(next(iter(runs.values())), due=due(part.name))
    problems += [f"{where}: {thing}" for thing in missing]
    shipped = {file: name for name, file in bundled_recipes().items()}
    given = shipped.get(path, str(path) if path == beside else name)
    return Cell(part.name, part.about, part.x, runs, _command(kind, given, changed))


def _mistakes(check: Callable[[], Any]) -> tuple[str, ...]:
    try:
        check()
    except RecipeError as error:
        return error.problems
    return ()


def _missing(recipe: Recipe | PretrainRecipe, *, due: bool) -> list[str]:
    """What the recipe names and is not there: better known now than after hours.

    `due`: it is going to run, so its base and its files are needed.
    """
    checks: list[Callable[[], Any]]
    if isinstance(recipe, Recipe):
        suite_names = recipe.probe.suites if recipe.probe else ()
        checks = []
        if due:
            root, given = data_root(recipe.data.root), recipe.data.sources.values()
            paths = [root / Path(part.path).expanduser() for part in given if part.path is not None]
            checks += [partial(resolve, recipe.model.base)]
            checks += [partial(expand, path) for path in paths]
        checks += [partial(suites.load, name) for name in (*suite_names, *recipe.data.kept_apart)]
    else:
        checks = [partial(preset, recipe.preset)]
    found = []
    for check in checks:
        try:
            check()
        except InputError as error:
            found.append(str(error))
    return found


def _other_prompts(cells: Sequence[Cell]) -> list[str]:
    """That cells ask different prompts, which can't be compared one by one; empty where none do."""
    asking: dict[tuple[str, ...], list[str]] = {}
    for cell in cells:
        recipe = next(iter(cell.runs.values()))
        if isinstance(recipe, Recipe):
            names = sorted({*recipe.probe.suites}) if recipe.probe else []
            asking.setdefault(tuple(names), []).append(repr(cell.name))
    if len(asking) < 2:
        return []
    said = [f"{', '.join(names)}: {', '.join(s) or 'no probe'}" for s, names in asking.items()]
    return [
        "probe.suites: the cells of a sweep are compared prompt by prompt, and these ask others "
        f"({'; '.join(said)}); give all the same"
    ]


def _command(kind: type[Any], recipe: str, changes: Sequence[tuple[str, Any]]) -> str:
    verb = "train" if kind is Recipe else "pretrain"
    words = ["stentor", verb, recipe]
    for field, value in changes:
        text = yaml.safe_dump(value, default_flow_style=True, width=10**9, sort_keys=False)
        shown = text.removesuffix("...\n").strip()  # what ends a document of one plain value
        words += ["--set", f"{field}={shown}"]
    return shlex.join(words)
