"""Two models side by side, as people read it: for a terminal and as Markdown.

The tables are those of a card, by their names and in their order, with B − A beside them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from stentor.data.files import write_json, write_text
from stentor.errors import InputError
from stentor.report.tables import (
    GLANCE_ROWS,
    HELD_OUT,
    PLAIN_TEXT,
    PROBE_ROWS,
    SPEECH_ROWS,
    STOPPED,
    Figures,
    number,
    plain,
    table,
)

Row = tuple[str, str, str, str, str]
"""A label, the figures of A and B, B − A with its interval, and what it rests on."""
_HEAD = ("A", "B", "B − A [95 %]", "")
_CUT = 160  # characters of a reply that a terminal shows


def check_name(out: Path) -> None:
    """InputError unless `write` can write a file of that name."""
    if out.suffix not in (".md", ".json"):
        raise InputError(
            f"{out}: a comparison is written as Markdown or JSON; name it .md or .json"
        )
    if out.exists():
        raise InputError(f"{out}: the file exists; nothing is overwritten, give another --out")


def write(out: Path, found: Figures, changed: int = 10) -> None:
    """Write a comparison in the form that the file's suffix asks for."""
    check_name(out)  # again: another may have written there during the work
    if out.suffix == ".json":
        write_json(out, found)
    else:
        write_text(out, compare_markdown(found, changed))


def compare_table(found: Figures, changed: int = 10) -> str:
    """A comparison for a terminal; of the replies that changed the first `changed`."""
    parts = [((title, *_HEAD), rows) for title, rows in _sections(found)]
    every = [row for head, rows in parts for row in (head, *rows)]
    label, a, b, less = (max(len(row[column]) for row in every) for column in range(4))
    lines = [f"{side.upper()}  {found['models'][side]['model']}" for side in ("a", "b")]
    for head, rows in parts:
        lines.append("")
        lines += [
            f"{r[0]:<{label}}  {r[1]:>{a}}  {r[2]:>{b}}   {r[3]:<{less}}   {r[4]}".rstrip()
            for r in (head, *rows)
        ]
    lines += ["", _legend(found), "", _headline(found, changed)]
    for change in _listed(found, changed):
        lines.append(f"  [{change['kind']}] {_one_line(change['prompt'])}")
        lines += [f"    {_said(change, side, _shortened)}" for side in ("a", "b")]
    return "\n".join(lines)


def compare_markdown(found: Figures, changed: int = 10) -> str:
    """A comparison as a Markdown page; of the replies that changed the first `changed`."""
    a, b = (found["models"][side]["model"] for side in ("a", "b"))
    parts = ["# Two models side by side", f"A: `{a}`  \nB: `{b}`", _legend(found)]
    for title, rows in _sections(found):
        escaped = [[plain(label), *cells] for label, *cells in rows]  # sources have any name
        parts.append(f"## {title}\n\n{table(['', *_HEAD], escaped)}")
    parts.append(f"## Replies that changed\n\n{_headline(found, changed)}")
    listed = [
        f"- *{change['kind']}* — {plain(change['prompt'])}\n"
        + "\n".join(f"  - {_said(change, side, plain)}" for side in ("a", "b"))
        for change in _listed(found, changed)
    ]
    return "\n\n".join([*parts, *(["\n".join(listed)] if listed else [])]) + "\n"


def _sections(found: Figures) -> list[tuple[str, list[Row]]]:
    parts = (
        ("At a glance", _glance(found)),
        ("Held-out loss", _losses(found)),
        ("Scale", _scale(found)),
        ("Safety: the probe", _probe(found)),
    )
    return [(title, rows) for title, rows in parts if rows]


def _glance(found: Figures) -> list[Row]:
    loss, text, replies = found["loss"]["overall"], found["plain_text"], found["replies"]
    rows: list[Row] = []
    if loss["a"] is not None:
        a, b = (f"{loss[s]:.4f} ({loss['perplexity'][s]:,.1f})" for s in ("a", "b"))
        rows.append((HELD_OUT, a, b, _less(loss, ".4f"), _over(loss)))
    if text["a"] is not None:
        rows.append(_row(PLAIN_TEXT, text, ".4f"))
    rows += _rates(found, [*(label for label, _, _ in GLANCE_ROWS), STOPPED])
    for label, _ in SPEECH_ROWS:
        if replies[label]["n"]:
            in_percent = label.startswith("repeated")
            name, scale = (f"{label}, %", 100) if in_percent else (label, 1)
            rows.append(_row(name, replies[label], ".1f", scale))
    return rows


def _losses(found: Figures) -> list[Row]:
    names = {name: "all" if name == "overall" else name for name in found["loss"]}
    scored = {names[name]: f for name, f in found["loss"].items() if f["a"] is not None}
    return [
        *(_row(f"loss: {name}", f, ".4f") for name, f in scored.items()),
        *(_row(f"perplexity: {name}", f["perplexity"] | {"n": f["n"]}, ",.1f")
          for name, f in scored.items()),
        *(_row(f"bits per byte: {name}", f["bits_per_byte"] | {"n": f["n"]}, ".4f")
          for name, f in scored.items()),
    ]  # fmt: skip


def _scale(found: Figures) -> list[Row]:
    a, b = found["models"]["a"], found["models"]["b"]

    def beside(label: str, name: str, form: str, scale: float = 1, over: str = "") -> Row:
        figures = {"a": a[name], "b": b[name], "low": None}
        if not over and None not in (a[name], b[name]):  # speeds are too rough to subtract
            figures["difference"] = b[name] - a[name]
        return (*_row(label, figures, form, scale)[:4], over)

    turns = "median of 3"
    return [
        beside("parameters", "parameters", ","),
        beside("weights, MB", "bytes", ".1f", 1e-6),
        beside("tokens/s, one stream", "tokens_per_second_alone", ".0f", over=turns),
        beside("tokens/s, 32 streams", "tokens_per_second_batch", ".0f", over=turns),
    ]


def _probe(found: Figures) -> list[Row]:
    """The card's rows, then those that it has elsewhere or not at all."""
    names = [label for label, _, _ in PROBE_ROWS]
    others = [n for n in (*found["probe"], *found["untested"]) if n not in names]
    return _rates(found, [*names, *others])


def _rates(found: Figures, names: Iterable[str]) -> list[Row]:
    """A row for each rate that has a prompt, in percent and points."""
    rates = found["probe"] | found["untested"]
    return [_row(f"{n}, %", rates[n], ".1f", 100) for n in names if rates[n]["n"]]


def _row(label: str, figures: Figures, form: str, scale: float = 1) -> Row:
    a, b = (None if figures[s] is None else scale * figures[s] for s in ("a", "b"))
    return label, number(a, form), number(b, form), _less(figures, form, scale), _over(figures)


def _less(figures: Figures, form: str, scale: float = 1) -> str:
    """B − A with its interval, as far as they are known."""
    points = [figures.get(name) for name in ("difference", "low", "high")]
    less, low, high = ("–" if p is None else format(scale * p, f"+{form}") for p in points)
    return less if points[1] is None else f"{less} [{low}, {high}]"


def _over(figures: Figures) -> str:
    """The number of prompts or rows; of a rate also how many moved and whether that is real."""
    if "only_a" not in figures:
        return f"(n {figures['n']})" if "n" in figures else ""
    moved = f"{figures['only_a']} only A, {figures['only_b']} only B"
    if "p_adjusted" in figures:
        moved += f", p = {figures['p_value']:.2g}, corrected {figures['p_adjusted']:.2g}"
    return f"{moved} (n {figures['n']})"


def _legend(found: Figures) -> str:
    tested = sum(figures["n"] > 0 for figures in found["probe"].values())
    return (
        "Intervals: of rates Bonett and Price's, of the rest a bootstrap over prompts, rows or "
        f"documents. p: McNemar's exact test, corrected by Holm's method for {tested} measures. "
        f"Held-out loss: on what the recipe {found['held_out_by']!r} holds out; a model trained by "
        "another recipe, or with another seed, may have learned from it."
    )


def _headline(found: Figures, changed: int) -> str:
    changes, listed = found["changes"], len(_listed(found, changed))
    if not changes["outcome"] and not changes["text"]:
        return f"None of {changes['n']} replies changed."
    end = f"; {listed} of them, other outcomes first:" if listed else "."
    return (
        f"Of {changes['n']} replies {changes['outcome']} changed their outcome and "
        f"{changes['text']} their text{end}"
    )


def _listed(found: Figures, changed: int) -> Sequence[Figures]:
    shown: list[Figures] = [*found["changed"], *found["reworded"]]
    return shown[:changed]


def _said(change: Figures, side: str, form: Callable[[str], str]) -> str:
    reply = form(change[side]["response"]) or "[no output]"
    return f"{side.upper()} {change[side]['outcome']}: {reply}"


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _shortened(text: str) -> str:
    return _one_line(text)[:_CUT]
