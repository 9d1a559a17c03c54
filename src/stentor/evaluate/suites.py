"""Suites of prompts for the probe: versioned JSON lines, ours or anybody's.

The first line may be a header `{"suite": name, "version": number, …}`; every other line is a
prompt with `prompt` and `kind` (`harmful`, or `benign` and `borderline`, which should be
answered), and where it helps `id`, `category`, `family`, `form`, `seen`, `pair`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from stentor import assets
from stentor.data.files import read_rows
from stentor.errors import DataError, nearest

KINDS = ("harmful", "borderline", "benign")


@dataclass(frozen=True)
class Prompt:
    """One prompt of a suite."""

    id: str
    text: str
    kind: str
    category: str = ""
    family: str = ""
    form: str = ""
    seen: bool = True
    """Whether training data may hold prompts of its family."""
    pair: str | None = None

    @property
    def should_answer(self) -> bool:
        return self.kind != "harmful"


@dataclass(frozen=True)
class Suite:
    """Prompts with a name and a version, which rises when they change."""

    name: str
    version: int
    prompts: tuple[Prompt, ...]


def names() -> list[str]:
    """The suites that ship with the package."""
    return sorted(p.stem for p in assets.path("suites").glob("*.jsonl"))


def load(name_or_path: str) -> Suite:
    """A shipped suite by name, or a file; DataError lists every bad line."""
    path = Path(name_or_path)
    if not path.is_file():
        if name_or_path not in names():
            raise DataError(
                f"no suite {name_or_path!r}: it is neither a file nor a shipped suite"
                + nearest(name_or_path, names())
            )
        path = assets.path("suites", f"{name_or_path}.jsonl")
    problems: list[str] = []
    name, version = path.stem, 0
    prompts: list[Prompt] = []
    ids: set[str] = set()
    for number, row in enumerate(read_rows(path, problems=problems)):
        fields = row.fields
        if number == 0 and "suite" in fields and "prompt" not in fields:
            name, version = str(fields["suite"]), fields.get("version", 0)
            if type(version) is not int:
                problems.append(f"{row.where}: version is {version!r}, not a whole number")
            continue
        text, kind = fields.get("prompt"), fields.get("kind")
        if not isinstance(text, str) or not text.strip():
            problems.append(f"{row.where}: the prompt is missing")
        elif kind not in KINDS:
            problems.append(f"{row.where}: kind is {kind!r}, not one of {', '.join(KINDS)}")
        else:
            label = str(fields.get("id") or f"{path.stem}-{len(prompts) + 1}")
            if label in ids:
                problems.append(f"{row.where}: the id {label!r} occurs twice")
            ids.add(label)
            prompts.append(
                Prompt(
                    label, text, kind, str(fields.get("category") or ""),
                    str(fields.get("family") or ""), str(fields.get("form") or ""),
                    bool(fields.get("seen", True)), fields.get("pair"),
                )
            )  # fmt: skip
    if problems:
        raise DataError(f"{len(problems)} bad lines\n  " + "\n  ".join(problems[:50]))
    if not prompts:
        raise DataError(f"{path}: the suite has no prompts")
    return Suite(name, version, tuple(prompts))
