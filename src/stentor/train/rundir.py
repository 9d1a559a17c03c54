"""A run's folder: made once, never reused silently, readable at any moment."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from stentor.data.files import write_text
from stentor.errors import CheckpointError, InputError, RecipeError
from stentor.recipe import AnyRecipe, dump, parse
from stentor.yaml_file import read_mapping

RUNS = Path("runs")


class RunDir:
    """The folder of a run: recipe.yaml, metrics.jsonl, checkpoints/, adapters/, model/, …"""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.model = path / "model"
        self._metrics = path / "metrics.jsonl"
        self.followers: list[Callable[[int, Mapping[str, Any]], None]] = []
        """Hear (number of the step from 1 through all phases, facts) of every line of metrics."""
        self._lines = 0

    def adapter(self, phase: int) -> Path:
        """Where the adapter after phase `phase` (from 1) is kept."""
        return self.path / "adapters" / f"phase-{phase}"

    @property
    def finished(self) -> bool:
        return (self.path / "report.json").exists()

    def refuse_other(
        self, recipe: AnyRecipe, fixed: Callable[[AnyRecipe], Mapping[str, Any]]
    ) -> None:
        """CheckpointError where the run was begun with another recipe, by its recipe.yaml.

        `fixed` gives the fields of a recipe that a run can't change. (Once there is a checkpoint,
        its fingerprint says the same of the data too.)
        """
        file = self.path / "recipe.yaml"
        kept, now = fixed(parse(read_mapping(file), type(recipe), str(file))), fixed(recipe)
        if differing := [name for name in {**kept, **now} if kept.get(name) != now.get(name)]:
            raise CheckpointError(
                f"{self.path}: the run in it was begun with another recipe (other "
                f"{', '.join(differing)}); resume with {file}, or give another --out"
            )

    def keep_recipe(self, recipe: AnyRecipe) -> None:
        """Write down the recipe that the run goes on with; its free fields may be others now."""
        write_text(self.path / "recipe.yaml", dump(recipe))

    def log(self, **facts: Any) -> None:
        """Add a line to metrics.jsonl."""
        with self._metrics.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(facts) + "\n")
        if self.followers:
            self._lines = self._lines + 1 if self._lines else len(self.metrics())
            for follow in self.followers:
                follow(self._lines, facts)

    def metrics(self) -> list[dict[str, Any]]:
        """The whole lines of metrics.jsonl."""
        if not self._metrics.exists():
            return []
        lines = self._metrics.read_text(encoding="utf-8").split("\n")
        return [json.loads(line) for line in lines[:-1]]

    def rewind(self, phase: int, step: int) -> None:
        """Drop the metrics of steps that will be taken again."""
        kept = [m for m in self.metrics() if (m["phase"], m["step"]) < (phase, step)]
        write_text(self._metrics, "".join(json.dumps(m) + "\n" for m in kept))


def open_run(
    name: str, out: Path | None, *, resume: bool, recipe_yaml: str, file: str = "recipe.yaml"
) -> RunDir:
    """A new folder for a run, or with `resume` the one to go on in.

    Without `out` it is runs/NAME, runs/NAME-2, … and `resume` takes the newest of them that is of
    this name. `file` holds the recipe, and tells a folder of this kind from others.
    """
    if resume:
        path = out or _newest(name, file)
        if not (path / file).exists():
            raise CheckpointError(f"{path}: there is no run to resume; leave out --resume to start")
        _sweep(path, ".*.tmp", "adapters/*/.*.tmp")
        return RunDir(path)
    if out is None:
        path = _make_next(name)
    else:
        path = out
        if path.exists() and not path.is_dir():
            raise InputError(f"{path}: it is a file; give another --out")
        path.mkdir(parents=True, exist_ok=True)
        _sweep(path, f".{file}.*.tmp")
        if any(path.iterdir()):
            raise InputError(
                f"{path}: the folder is not empty; --resume goes on with the run in it, "
                "or give another --out"
            )
    write_text(path / file, recipe_yaml)
    return RunDir(path)


def _sweep(path: Path, *patterns: str) -> None:
    """Remove what a killed run left half written."""
    for left_over in [found for pattern in patterns for found in path.glob(pattern)]:
        if left_over.is_dir():
            shutil.rmtree(left_over)
        else:
            left_over.unlink()


def _numbered(name: str) -> dict[int, Path]:
    """The folders runs/NAME (number 1), runs/NAME-2, … that exist, in their order."""
    found = {}
    for path in RUNS.iterdir() if RUNS.is_dir() else ():
        suffix = path.name.removeprefix(name)
        if path.name == name:
            found[1] = path
        elif suffix != path.name and suffix.startswith("-") and suffix[1:].isdigit():
            found[int(suffix[1:])] = path
    return dict(sorted(found.items()))


def _newest(name: str, file: str) -> Path:
    found = [
        path
        for path in _numbered(name).values()
        if (path / file).exists() and _name(path / file) in (name, None)
    ]
    if not found:
        raise CheckpointError(
            f"{RUNS}/{name}: there is no run to resume; leave out --resume to start"
        )
    return found[-1]


def _name(file: Path) -> str | None:
    """The name in a recipe, since runs/NAME-2 may also be the first run of NAME-2."""
    try:
        name: str | None = read_mapping(file).get("name")
    except RecipeError:
        return None
    return name


def _make_next(name: str) -> Path:
    """A folder of its own, also when two runs start at the same moment."""
    number = max(_numbered(name), default=0) + 1
    while True:
        path = RUNS / (name if number == 1 else f"{name}-{number}")
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            number += 1
        else:
            return path
