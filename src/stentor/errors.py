"""The errors a user can meet.

    StentorError            exit code 1: the work failed
    ├── TrainingError       the loss is not finite, a worker died, ...
    ├── ParityError         a copy of the model is not the same model
    └── InputError          exit code 2: what was given is wrong
        ├── RecipeError     a recipe has mistakes (all of them listed)
        ├── DataError       a data file is missing or has bad rows
        ├── ModelError      a model folder is missing, foreign or damaged
        ├── CheckpointError a checkpoint is damaged or belongs to another run
        └── MissingPart     something optional is needed and not there
            ├── MissingExtra    a package; says how to install it
            └── MissingProgram  a program that is no Python package, or what it installs

Every text says what is wrong, why, and what to do. `stentor.cli` prints it as one line
`error: …` and exits with `exit_code`; nothing derived from StentorError shows a traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class StentorError(Exception):
    """Base of all errors that are shown to a person as one message."""

    exit_code = 1


class TrainingError(StentorError):
    """Training can't go on; the last checkpoint is intact."""


class ParityError(StentorError):
    """Two copies of a model that should agree do not."""


class InputError(StentorError):
    """What the user gave can't be used."""

    exit_code = 2


class DataError(InputError):
    """A data file is missing, unreadable or has bad rows."""


class ModelError(InputError):
    """A model can't be found or loaded."""


class CheckpointError(InputError):
    """A checkpoint is damaged, or was written by a different run."""


class RecipeError(InputError):
    """A recipe has one or more mistakes; `problems` holds each of them."""

    def __init__(self, where: str, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        noun = "mistake" if len(self.problems) == 1 else "mistakes"
        lines = "".join(f"\n  {problem}" for problem in self.problems)
        super().__init__(f"{where}: {len(self.problems)} {noun}{lines}")


class MissingPart(InputError):
    """Something optional is needed and not there."""


class MissingProgram(MissingPart):
    """A program outside Python, or what one has to install, is missing."""


class MissingExtra(MissingPart):
    """An optional dependency is not installed."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs the package {package}, which is not installed; "
            f"run: pip install 'stentor[{extra}]'"
        )


def nearest(name: str, names: Iterable[str]) -> str:
    """'; did you mean 'x'?' for the nearest of `names`, or the list when none is near."""
    names = [str(n) for n in names]
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if near:
        return f"; did you mean {near[0]!r}?"
    return f"; there is {', '.join(sorted(names)[:12])}" if names else ""
