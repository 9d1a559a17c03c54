"""A run's folder: made once, never reused silently, readable at any moment."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from stentor.data.files import write_text
from stentor.errors import CheckpointError, InputError

RUNS = Path("runs")


class RunDir:
    """The folder of a run: recipe.yaml, metrics.jsonl, checkpoints/, adapters/, model/, …"""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.model = path / "model"
        self._metrics = path / "metrics.jsonl"

    def adapter(self, phase: int) -> Path:
        """Where the adapter after phase `phase` (from 1) is kept."""
        return self.path / "adapters" / f"phase-{phase}"

    @property
    def finished(self) -> bool:
        return (self.path / "report.json").exists()

    def log(self, **facts: Any) -> None:
        """Add a line to metrics.jsonl."""
        with self._metrics.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(facts) + "\n")

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


def open_run(name: str, out: Path | None, *, resume: bool, recipe_yaml: str) -> RunDir:
    """A new folder for a run, or with `resume` the one to go on in.

    Without `out` it is runs/NAME, runs/NAME-2, … and `resume` takes the newest of them.
    """
    if resume:
        path = out or _newest(name)
        run = RunDir(path)
        if not (path / "recipe.yaml").exists():
            raise CheckpointError(f"{path}: there is no run to resume; leave out --resume to start")
        return run
    path = out or _unused(name)
    if path.exists() and any(path.iterdir()):
        raise InputError(
            f"{path}: the folder is not empty; --resume goes on with the run in it, "
            "or give another --out"
        )
    path.mkdir(parents=True, exist_ok=True)
    write_text(path / "recipe.yaml", recipe_yaml)
    return RunDir(path)


def _numbered(name: str) -> list[Path]:
    found = []
    for path in RUNS.glob(f"{name}*"):
        suffix = path.name.removeprefix(name)
        if suffix == "" or (suffix.startswith("-") and suffix[1:].isdigit()):
            found.append(path)
    return sorted(found, key=lambda p: (len(p.name), p.name))


def _newest(name: str) -> Path:
    found = _numbered(name)
    if not found:
        raise CheckpointError(
            f"{RUNS}/{name}: there is no run to resume; leave out --resume to start"
        )
    return found[-1]


def _unused(name: str) -> Path:
    number = 1
    while True:
        path = RUNS / (name if number == 1 else f"{name}-{number}")
        if not path.exists():
            return path
        number += 1
