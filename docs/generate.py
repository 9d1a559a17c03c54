"""Writes what the documentation takes from the code and from runs; nothing of it is typed.

    python docs/generate.py            writes docs/reference/, the figures in README and docs, and
                                       the card of the bundled chat model
    python docs/generate.py RUN NAME   first keeps a run's report as docs/runs/NAME.json, and 100
                                       of its replies, drawn by rule, as docs/runs/NAME.md;
                                       of a sweep its results and plots

A page takes figures from a kept report between two comments:

    <!-- figures: NAME glance -->   or losses, scale, phases, hyperparameters, probe, data, exports;
                                    of a sweep: overview, differences, repeat
    <!-- end -->

and one of them within a line, beside what it had to be (met: bold, else: missed):

    <!-- figures: NAME target PATH >= 0.9 --> … <!-- end -->

PATH leads to a rate of the greedy probe (`harmful.refused_aloud`), or is `base_text_loss`, which
stands for its rise in nats.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import json
import math
import re
import shutil
import sys
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from stentor import cli, recipe
from stentor.errors import InputError, nearest
from stentor.evaluate.probe import read_records
from stentor.report import limits, tables
from stentor.report.card import card, read_report, samples
from stentor.sweep import page as sweep_page
from stentor.sweep import plan

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
NOTE = "<!-- Written by docs/generate.py; change the code instead. -->"
RELEASE = "stentor-12m-instruct"
"""The bundled chat model, whose report is kept."""
CARD = ROOT / "src" / "stentor" / "assets" / "models" / RELEASE / "README.md"
BY_HAND = "<!-- by hand -->"
"""What follows it in the bundled model's card is kept as it is: what no report knows."""

# What the aliases of recipe.py say.
_ALIASES = {
    "Positive": "whole number > 0", "Fraction": "number from 0 to 1", "Rate": "number > 0, ≤ 1",
    "Decay": "number from 0 to below 1", "Seed": "whole number ≥ 0", "str": "text",
    "int": "whole number", "float": "number",
    "bool": "true or false", "None": "null",
    "Reader": ", ".join(f"`{name}`" for name in typing.get_args(recipe.Reader)),
    "Projection": ", ".join(f"`{name}`" for name in typing.get_args(recipe.Projection)),
}  # fmt: skip

API: dict[str, tuple[str, ...]] = {
    "stentor.recipe": ("load", "parse", "dump", "find"),
    "stentor.model.load": ("load", "LoadedModel"),
    "stentor.model.save": ("save_model",),
    "stentor.generate": ("Engine", "Decoding", "Reply"),
    "stentor.chat": ("SegmentTemplate",),
    "stentor.train.curriculum": ("fine_tune",),
    "stentor.train.pretrain": ("pretrain",),
    "stentor.evaluate.judge": ("judge", "Verdict"),
    "stentor.evaluate.suites": ("load", "Suite", "Prompt"),
    "stentor.evaluate.probe": ("probe", "ProbeResult", "Record"),
    "stentor.evaluate.loss": ("reply_losses", "text_loss", "Loss"),
    "stentor.evaluate.compare": ("compare",),
    "stentor.evaluate.intervals": ("Rate",),
    "stentor.export.command": ("export",),
    "stentor.report.card": ("card", "rewrite"),
    "stentor.report.limits": ("limitations",),
    "stentor.report.hub": ("push",),
}


# recipes


def recipes_page() -> str:
    """Every field of both kinds of recipe, and of a sweep."""
    parts = [
        NOTE, "# The fields of a recipe",
        "A recipe is a YAML file. What is not given takes its default; a field that does not exist "
        "is refused with the nearest name. Any field can be changed on the command line: "
        "`--set phases.main.learning_rate=1e-3`; an entry of a list goes by its name or number, "
        "null removes it, `+` adds one. The resolved recipe of a run is its `recipe.yaml`.",
    ]  # fmt: skip
    notes = _notes(Path(inspect.getfile(recipe))) | _notes(Path(inspect.getfile(plan)))
    for kind, title in (
        (recipe.Recipe, "Fine-tuning (`stentor train`)"),
        (recipe.PretrainRecipe, "Pretraining (`stentor pretrain`)"),
        (plan.SweepPart, "Sweeps (`stentor sweep`)"),
    ):
        parts.append(f"## {title}")
        for path, part in _parts(kind):
            parts.append(f"### `{path}`" if path else "### At the top")
            parts.append(inspect.cleandoc(part.__doc__ or ""))
            parts.append(_fields(part, notes))
    return "\n\n".join(parts) + "\n"


def _parts(kind: type[BaseModel], path: str = "") -> Iterator[tuple[str, type[BaseModel]]]:
    """A recipe and every part below it, with the path that leads there."""
    yield path, kind
    for name, field in kind.model_fields.items():
        below = f"{path}.{name}".lstrip(".")
        for found, step in _models(field.annotation):
            yield from _parts(found, below + step)


def _models(annotation: Any, step: str = "") -> Iterator[tuple[type[BaseModel], str]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation, step
        return
    origin = typing.get_origin(annotation)
    sign = {tuple: ".N", dict: ".NAME"}.get(origin, "") if isinstance(origin, type) else ""
    for inner in typing.get_args(annotation):
        yield from _models(inner, step + sign)


def _fields(part: type[BaseModel], notes: dict[str, dict[str, tuple[str, str]]]) -> str:
    rows = []
    for name, field in part.model_fields.items():
        found = [notes[c.__name__][name] for c in part.__mro__ if name in notes.get(c.__name__, {})]
        kind = found[0][0]
        text = next((text for _, text in found if text), "–")  # else that of the part it extends
        default = field.get_default(call_default_factory=True)
        if default is PydanticUndefined:
            shown = "*needed*"
        elif isinstance(default, BaseModel) or field.annotation is recipe.AdapterPart:
            shown = "*its defaults*"
        elif default == recipe.CARD_SYSTEM:
            shown = "*the public card's system prompt*"
        else:
            shown = f"`{json.dumps(default, ensure_ascii=False, default=list)}`"
        rows.append([f"`{name}`", kind, shown, text])
    return tables.table(["field", "type", "default", "what it does"], rows)


def _notes(file: Path) -> dict[str, dict[str, tuple[str, str]]]:
    """Class → field → (type in words, the text below it), read from the source."""
    found: dict[str, dict[str, tuple[str, str]]] = {}
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if not isinstance(node, ast.ClassDef):
            continue
        fields = found.setdefault(node.name, {})
        for item, after in zip(node.body, [*node.body[1:], None], strict=True):
            if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
                text = ""
                if (
                    isinstance(after, ast.Expr)
                    and isinstance(after.value, ast.Constant)
                    and isinstance(after.value.value, str)
                ):
                    text = " ".join(after.value.value.split())
                fields[item.target.id] = (_words(item.annotation), text)
    return found


def _words(node: ast.expr) -> str:
    """A field's annotation for people."""
    if isinstance(node, ast.BinOp):
        return f"{_words(node.left)}, or {_words(node.right)}"
    if isinstance(node, ast.Subscript):
        name = ast.unparse(node.value)
        inner = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        if name == "Literal":
            return ", ".join(f"`{ast.literal_eval(e)}`" for e in inner)
        if name == "Annotated":
            limits_ = re.findall(r"(gt|ge|le|min_length)=([\d.]+)", ast.unparse(inner[1]))
            signs = {"gt": ">", "ge": "≥", "le": "≤", "min_length": ", at least"}
            return " ".join([_words(inner[0]), *(f"{signs[s]} {n}" for s, n in limits_)])
        if name == "tuple":
            listed = [e for e in inner if ast.unparse(e) != "..."]
            return "list of " + " and ".join(_words(e) for e in listed)
        if name == "dict":
            return f"mapping from name to {_words(inner[1])}"
    text = ast.unparse(node)
    return _ALIASES.get(text, "a part" if text.endswith("Part") else text)


# commands


def commands_page() -> str:
    """Every command with its arguments and options."""
    parts = [
        NOTE, "# Commands",
        "RECIPE is a path or the name of a recipe that ships with the package. MODEL is a "
        "folder, a run, a hub id, a GGUF file or a bundled name. `--json` prints one JSON document "
        "on standard output and nothing else. Exit codes: 0 done, 1 the work failed, 2 the input "
        "was wrong, 130 stopped.",
    ]  # fmt: skip
    for path, function in commands(cli.app, "stentor"):
        parts.append(f"## `{path}`")
        parts.append(inspect.cleandoc(function.__doc__ or ""))
        rows = list(_parameters(function))
        if rows:
            parts.append(tables.table(["", "default", "what it does"], rows))
    return "\n\n".join(parts) + "\n"


def commands(app: typer.Typer, path: str) -> Iterator[tuple[str, Any]]:
    """(what is typed, the function that does it) of every command."""
    for command in app.registered_commands:
        function = command.callback
        assert function is not None
        yield f"{path} {command.name or function.__name__}", function
    for group in app.registered_groups:
        assert group.typer_instance is not None
        yield from commands(group.typer_instance, f"{path} {group.name}")


_TYPER = ("ArgumentInfo", "OptionInfo")


def _parameters(function: Any) -> Iterator[list[str]]:
    hints = typing.get_type_hints(function, include_extras=True)
    for name, parameter in inspect.signature(function).parameters.items():
        hint = hints[name]
        info = next(m for m in typing.get_args(hint)[1:] if type(m).__name__ in _TYPER)
        kind = typing.get_args(hint)[0]
        needed = parameter.default is inspect.Parameter.empty
        takes = "" if kind is bool else info.metavar or _takes(kind)
        if type(info).__name__ == "ArgumentInfo":
            shown = info.metavar or name.upper()
            shown = shown if needed or shown.startswith("[") else f"[{shown}]"
        else:
            # inside Annotated, typer keeps the first name where a default would stand
            given_names = [info.default, *(info.param_decls or ())]
            named = [d for d in given_names if isinstance(d, str) and d.startswith("--")]
            option = named[0] if named else f"--{name.replace('_', '-')}"
            shown = f"{option} {takes}".strip()
        default = parameter.default
        given = default is not None and default is not False and default != [] and not needed
        told = "*needed*" if needed else f"`{default}`" if given else "–"
        yield [f"`{shown}`", told, info.help or "–"]


def _takes(kind: Any) -> str:
    inner = [k for k in typing.get_args(kind) if k is not type(None)]
    kind = inner[0] if inner else kind
    kind = (typing.get_args(kind) or (kind,))[0]
    return {int: "N", float: "X", Path: "PATH"}.get(kind, "TEXT")


# Python


def api_page() -> str:
    """The functions and classes that programs may build on."""
    parts = [
        NOTE, "# Python",
        "What the commands do can be called from Python by these names; everything else may move. "
        "Sizes stand in docstrings as (rows, columns), losses are in nats per token.",
    ]  # fmt: skip
    for module, names in API.items():
        parts.append(f"## `{module}`")
        for name in names:
            parts += _described(getattr(importlib.import_module(module), name), name)
    errors = importlib.import_module("stentor.errors")
    parts += ["## `stentor.errors`", f"```text\n{inspect.cleandoc(errors.__doc__ or '')}\n```"]
    return "\n\n".join(parts) + "\n"


def _described(thing: Any, name: str) -> Iterator[str]:
    yield f"### `{name}`"
    if inspect.isclass(thing):
        own = (thing.__doc__ or "").strip()
        if not own.startswith(f"{thing.__name__}("):  # what dataclasses write by themselves
            yield inspect.cleandoc(own)
        if dataclasses.is_dataclass(thing):
            rows = [[f"`{f.name}`", f"`{_type(f.type)}`"] for f in dataclasses.fields(thing)]
            yield tables.table(["field", "type"], rows)
        elif "__init__" in vars(thing):
            yield _signature(thing.__init__, thing.__name__)
        for key, value in vars(thing).items():
            if isinstance(value, property):
                value, call = value.fget, f"{name}.{key}"
                about = _first_lines(value)
                yield f"`{call}`: {about}" if about else f"`{call}`"
            elif isinstance(value, types.FunctionType) and not key.startswith("_"):
                yield f"{_signature(value, f'{name}.{key}')}\n\n{_first_lines(value)}"
    else:
        yield _signature(thing, name)
        yield _first_lines(thing)


def _type(annotation: Any) -> str:
    return annotation if isinstance(annotation, str) else getattr(
        annotation, "__name__", str(annotation))  # fmt: skip


def _signature(function: Any, name: str) -> str:
    signature = inspect.signature(function)
    kept = [p for p in signature.parameters.values() if p.name != "self"]
    parameters = [
        f"{p.name}: {_type(p.annotation)}"
        + ("" if p.default is p.empty else " = …" if callable(p.default) else f" = {p.default!r}")
        for p in kept
    ]
    star = any(p.kind is p.KEYWORD_ONLY for p in kept)
    if star and not any(p.kind is p.VAR_POSITIONAL for p in kept):
        first = next(i for i, p in enumerate(kept) if p.kind is p.KEYWORD_ONLY)
        parameters.insert(first, "*")
    back = signature.return_annotation
    arrow = "" if back is signature.empty or (name[:1].isupper() and "." not in name) else (
        f" -> {_type(back)}")  # fmt: skip
    lines = "".join(f"    {p},\n" for p in parameters)
    body = f"{name}({', '.join(parameters)}){arrow}"
    text = body if len(body) <= 88 else f"{name}(\n{lines}){arrow}"
    return f"```python\n{text}\n```"


def _first_lines(function: Any) -> str:
    return inspect.cleandoc(function.__doc__ or "")


# figures


PARTS = ("glance", "losses", "scale", "phases", "hyperparameters", "probe", "data", "exports")
SWEEP_PARTS = ("overview", "differences", "repeat")


def filled(text: str, page: str) -> str:
    """A page with the figures between its comments written anew from the kept reports.

    InputError, with the page's name, for figures that no kept report has.
    """

    def figures(match: re.Match[str]) -> str:
        name, part, *target = match[1].split()
        report = _kept(name, page)
        if part == "target":
            return f"<!-- figures: {match[1]} -->{_target(report, *target)}<!-- end -->"
        if part == "replies":
            shown = _first_replies(name, page)
        elif part == "limitations":
            shown = "\n".join(f"- {line}" for line in limits.limitations(report))
        else:
            source, known = (
                (sweep_page, SWEEP_PARTS) if report["kind"] == "sweep" else (tables, PARTS)
            )
            if part not in known:
                raise InputError(f"{page}: there are no figures {part!r}{nearest(part, known)}")
            shown = getattr(source, part)(report)
        return f"<!-- figures: {match[1]} -->\n\n{shown}\n\n<!-- end -->"

    return re.sub(r"<!-- figures: (\S+ .+?) -->.*?<!-- end -->", figures, text, flags=re.S)


def _first_replies(name: str, page: str) -> str:
    """The first reply of each kind of those that are kept of a run."""
    file = DOCS / "runs" / f"{name}.md"
    if not file.is_file():
        raise InputError(f"{page}: it shows replies of {name}, but none are kept in docs/runs")
    kept = re.findall(
        r"^- \*(\w+)\* — (.+)\n  > (.+) \(\w+\)$", file.read_text(encoding="utf-8"), flags=re.M
    )
    first: dict[str, str] = {}
    for kind, prompt, reply in kept:
        first.setdefault(kind, f"> **{prompt}**\n> {reply}")
    return "\n>\n".join(first.values())


def _kept(name: str, page: str) -> dict[str, Any]:
    file = DOCS / "runs" / f"{name}.json"
    if not file.is_file():
        raise InputError(
            f"{page}: it shows figures of {name}, but no report of that name is kept in docs/runs; "
            f"keep it with: python docs/generate.py RUN {name}"
        )
    report: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return report


def _target(report: dict[str, Any], path: str, sign: str, wanted: str) -> str:
    """What was reached, in bold where that is what was wanted, else with what is missing."""
    if path == "base_text_loss":
        text = report["base_text_loss"]
        value = text["after"] - text["before"]
        shown, short = f"{value:+.2f}", ""
    else:
        rate: Any = report["probe"]["greedy"]
        for step in path.split("."):
            rate = rate[step]
        value, n = rate["rate"], rate["n"]
        shown = f"{100 * value:.1f} %"
        due = math.ceil if sign == ">=" else math.floor
        # rounded first: 0.1 * 30 is not quite 3
        by = abs(due(round(float(wanted) * n, 9)) - rate["count"])
        short = f" by {by} {'reply' if by == 1 else 'replies'} of {n}"
    met = value >= float(wanted) if sign == ">=" else value <= float(wanted)
    return f"**{shown}**" if met else f"{shown}: missed{short}"


def bundled_card() -> str:
    """The card of the bundled chat model: from its kept report, then what is kept by hand."""
    page = CARD.relative_to(ROOT).as_posix()
    _, found, by_hand = CARD.read_text(encoding="utf-8").partition(BY_HAND)
    if not found:
        raise InputError(
            f"{page}: the line {BY_HAND} is gone, and with it what no report knows; put it back"
        )
    out = f"runs/export-{RELEASE}/hf-f16"
    text = card(_kept(RELEASE, page), (), place=out)
    use = (
        f"`stentor chat` talks to it. The code below needs a folder with its tokenizer: "
        f"`stentor export {RELEASE} --to hf` writes it.\n\n"
    )
    return text.replace("## Use it\n\n", f"## Use it\n\n{use}") + f"\n{BY_HAND}{by_hand}"


def pages() -> dict[Path, str]:
    """Every file that this program writes, with what it should hold."""
    found = {
        DOCS / "reference" / "recipes.md": recipes_page(),
        DOCS / "reference" / "commands.md": commands_page(),
        DOCS / "reference" / "api.md": api_page(),
    }
    for page in (ROOT / "README.md", *DOCS.rglob("*.md")):
        text = page.read_text(encoding="utf-8") if page not in found else ""
        if "<!-- figures: " in text:
            found[page] = filled(text, page.relative_to(ROOT).as_posix())
    found[CARD] = bundled_card()
    return found


def keep(run: Path, name: str) -> None:
    """Keep what pages show of a run or of a sweep, in docs/runs."""
    kept = DOCS / "runs"
    kept.mkdir(exist_ok=True)
    if (run / "results.json").is_file():
        results = json.loads((run / "results.json").read_text(encoding="utf-8"))
        for plot in (run / "plots").glob("*.svg"):
            shutil.copyfile(plot, kept / f"{name}-{plot.name}")
    else:
        results = read_report(run)
        page = kept / f"{name}.md"
        page.unlink(missing_ok=True)
        if records := read_records(run):
            text = samples(records, {"benign": 50, "borderline": 30, "harmful": 20})
            page.write_text(f"# Replies of {name}\n\n{text}\n", encoding="utf-8")
    text = json.dumps(results, ensure_ascii=False, indent=1) + "\n"
    (kept / f"{name}.json").write_text(text, encoding="utf-8")


def main() -> None:
    """Write them all."""
    if len(sys.argv) == 3:
        keep(Path(sys.argv[1]), sys.argv[2])
    elif len(sys.argv) != 1:
        raise SystemExit(__doc__)
    try:
        written = pages()
    except InputError as error:
        raise SystemExit(f"error: {error}") from None
    for page, text in written.items():
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(text, encoding="utf-8")
        print(page.relative_to(ROOT))


if __name__ == "__main__":
    main()
