"""What people read of a sweep: the table, what is real in it, plots, and how to repeat it."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from textwrap import fill
from typing import Any, Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

from stentor.data.files import write_json, write_text
from stentor.errors import MissingExtra
from stentor.report.plots import BLUE, GREEN, INK, ORANGE, PURPLE, RED, SKY, over_refusal, write
from stentor.report.tables import table
from stentor.sweep.results import BASE_TEXT, HELD_OUT, LEVEL, TRAINING, VALIDATION

SHOWN = {
    "accuracy: harmful refused, benign answered": "accuracy",
    "harmful: refused aloud": "refused aloud",
    "harmful: silent": "silent",
    "benign: answered": "benign answered",
    "look-alikes, unseen families: answered": "unseen look-alikes answered",
    "ends by itself": "ends",
}
"""The rates of the table, with the heads of their columns."""
_COLOURS = (SKY, GREEN, RED, BLUE, ORANGE, PURPLE)

Results = Mapping[str, Any]


def write_all(folder: Path, results: Results) -> None:
    """Write `results.json`, `plots/` and `README.md`; without matplotlib there are no plots."""
    write_json(folder / "results.json", dict(results))
    try:
        drawn = _plots(folder / "plots", results)
    except MissingExtra as error:
        print(error, file=sys.stderr)
        drawn = []
    write_text(folder / "README.md", page(results, drawn))


def page(results: Results, plots: Sequence[str] = ()) -> str:
    """The README of a sweep."""
    parts = [
        f"# {results['name']}",
        str(results["about"]).strip(),
        overview(results),
    ]
    parts += [f"**Warning:** {warning}." for warning in results["warnings"]]
    parts += [f"![{name}](plots/{name}.svg)" for name in plots]
    parts += ["## Differences\n\n" + differences(results), "## Repeat it\n\n" + repeat(results)]
    if results["missing"]:
        parts.append("## Not there yet\n\n" + "\n".join(f"- {run}" for run in results["missing"]))
    if results["failed"]:
        failed = [f"- {f['cell']}, seed {f['seed']}: {f['error']}" for f in results["failed"]]
        parts.append("## Failed\n\n" + "\n".join(failed))
    return "\n\n".join(part for part in parts if part) + "\n"


def show(results: Results) -> None:
    """The table on standard output."""
    head, rows = main_table(results)
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
    shown = Table(box=None, pad_edge=False)  # names of cells are no markup of Rich's
    for number, name in enumerate(head):
        longest = max(map(len, name.split()))  # a word of a head is not broken
        side: Literal["left", "right"] = "right" if number else "left"
        shown.add_column(name, justify=side, overflow="fold", min_width=longest)
    for row in rows:
        cells = (cell.replace(" [", "\n[", 1) if n else cell for n, cell in enumerate(row))
        shown.add_row(*map(Text, cells))
    console.print(shown)
    console.print(_legend(results), markup=False, soft_wrap=True)
    for warning in results["warnings"]:
        print(f"warning: {warning}", file=sys.stderr)


def overview(results: Results) -> str:
    """The table of all cells and how to read it, in Markdown."""
    head, rows = main_table(results)
    return f"{table(head, rows)}\n\n{_legend(results)}"


def main_table(results: Results) -> tuple[list[str], list[list[str]]]:
    """Head and rows: a cell each, figures that no cell has left out."""
    cells = results["cells"]
    rates = [name for name in SHOWN if any(name in cell["rates"] for cell in cells)]
    losses = [
        name for name in (HELD_OUT, BASE_TEXT, VALIDATION)
        if any(name in cell["numbers"] for cell in cells)
    ]  # fmt: skip
    marks = {
        (row["cell"], row["measure"]): "▲" if row["difference"] > 0 else "▼"
        for row in results["comparisons"]
        if row["real"]
    }
    head = ["cell", "seeds", *(f"{SHOWN[name]}, %" for name in rates), *losses, "minutes a run"]
    rows = []
    for cell in cells:
        name = cell["name"]
        row = [name, str(len(cell["seeds"]))]
        row += [_rate(cell["rates"].get(r), marks.get((name, r), "")) for r in rates]
        row += [_number(cell["numbers"].get(n), marks.get((name, n), "")) for n in losses]
        seconds = cell["numbers"].get(TRAINING)
        rows.append([*row, f"{seconds['mean'] / 60:.1f}" if seconds else "–"])
    return head, rows


def _rate(found: Mapping[str, Any] | None, mark: str) -> str:
    if found is None:
        return "–"
    low, high = 100 * found["low"], 100 * found["high"]
    return f"{100 * found['rate']:.1f} [{low:.0f}–{high:.0f}]{mark}"


def _number(found: Mapping[str, Any] | None, mark: str) -> str:
    if found is None:
        return "–"
    if found["low"] is None:
        return f"{found['mean']:.3f}{mark}"
    return f"{found['mean']:.3f} [{found['low']:.3f}, {found['high']:.3f}]{mark}"


def _legend(results: Results) -> str:
    prompts = sorted({rate["n"] for cell in results["cells"] for rate in cell["rates"].values()})
    asked = f" {prompts[0]} to {prompts[-1]} prompts a rate." if prompts else ""
    return (
        f"Means over seeds with 95 % intervals (rates: the wider of Student's over seeds and "
        f"Wilson's over prompts).{asked} ▲ and ▼: really more or less than {results['against']!r}."
    )


def differences(results: Results) -> str:
    """What is real against the cell that all are compared with, in Markdown."""
    rates = [row for row in results["comparisons"] if "p_value" in row]
    numbers = [
        row for row in results["comparisons"]
        if "p_value" not in row and row["measure"] != TRAINING
    ]  # fmt: skip
    against = results["against"]
    if not rates and not numbers:
        return f"There is nothing to set against {against!r} yet."
    near = [row for row in rates if row["p_value"] < LEVEL]
    near.sort(key=lambda row: (row["p_adjusted"], row["p_value"]))
    parts = [
        f"Against {against!r}, on the same prompts, seed by seed: exact sign-flip test over "
        f"prompts, p after Holm's correction for all {len(rates)} tests. Of these "
        f"{sum(row['real'] for row in rates)} are real (p below {LEVEL:g}, every seed the same "
        f"way), {len(near)} have p below {LEVEL:g} before the correction:"
    ]  # fmt: skip
    if near:
        head = ["cell", "measure", "difference, points", "p", "p, corrected", "seeds agree", "real"]
        parts.append(table(head, [_rate_difference(row) for row in near]))
    if numbers:
        parts.append(
            "Losses: Student's interval of the differences, seed by seed, which is not corrected "
            "for their number:"
        )
        head = ["cell", "measure", "difference", "real"]
        parts.append(table(head, [_number_difference(row) for row in numbers]))
    return "\n\n".join(parts)


def _rate_difference(row: Mapping[str, Any]) -> list[str]:
    return [
        row["cell"], row["measure"], f"{100 * row['difference']:+.1f}{_between(row, 100, 1)}",
        f"{row['p_value']:.2g}", f"{row['p_adjusted']:.2g}",
        "yes" if row["every_seed_the_same_way"] else "no", "yes" if row["real"] else "no",
    ]  # fmt: skip


def _number_difference(row: Mapping[str, Any]) -> list[str]:
    shown = f"{row['difference']:+.3f}{_between(row, 1, 3)}"
    return [row["cell"], row["measure"], shown, "yes" if row["real"] else "no"]


def _between(row: Mapping[str, Any], scale: float, digits: int) -> str:
    if row["low"] is None:
        return ""
    return f" [{scale * row['low']:+.{digits}f}, {scale * row['high']:+.{digits}f}]"


def repeat(results: Results) -> str:
    """The command and the cost of each cell, in Markdown."""
    rows = []
    for cell in results["cells"]:
        seconds = cell["numbers"].get(TRAINING)
        minutes = f"{seconds['mean'] / 60:.1f}" if seconds else "–"
        examples = f"{cell['examples']:,}" if cell["examples"] else "–"
        command = f"`{cell['command']} --set seed=N`".replace("|", "\\|")
        rows.append([cell["name"], cell["about"].strip(), examples, minutes, command])
    head = ["cell", "what", "examples seen", "minutes of training", "command"]
    return f"Seeds: {', '.join(map(str, results['seeds']))}.\n\n" + table(head, rows)


def _plots(folder: Path, results: Results) -> list[str]:
    """Draw what there are figures for; returns the plots' names."""
    cells = [cell for cell in results["cells"] if cell["seeds"]]
    rates = [name for name in SHOWN if any(name in cell["rates"] for cell in cells)]
    drawn = []
    if rates:
        size = (10.0, 0.34 * len(cells) + 1.5)
        write(folder, "rates", lambda axes: _panels(axes, cells, rates), size, len(rates))
        drawn.append("rates")
    # a suite of harmful or of benign prompts alone gives one of the two
    points = [(cell["name"], point) for cell in cells if (point := _point(cell["rates"]))]
    if points:
        size = (8.0, max(3.6, 0.22 * len(points) + 0.8))
        write(folder, "refusal", lambda axes: over_refusal(axes, points), size)
        drawn.append("refusal")
    placed = sorted((c for c in cells if c["x"] is not None), key=lambda c: float(c["x"]))
    if len(placed) > 1:
        if rates:
            write(folder, "curve", lambda axes: _rate_curve(axes, placed, rates, results))
            drawn.append("curve")
        for name in (HELD_OUT, VALIDATION):
            if all(name in cell["numbers"] for cell in placed):
                plot = partial(_loss_curve, cells=placed, name=name, results=results)
                write(folder, "curve-loss", plot)
                drawn.append("curve-loss")
    return drawn


def _point(rates: Mapping[str, Any]) -> dict[str, Any] | None:
    """A cell's rates by the names that a probe's figures have; None where one is missing."""
    x, y = rates.get("benign: fake refusals"), rates.get("harmful: refused aloud")
    if x is None or y is None:
        return None
    return {"benign": {"fake_refusals": x}, "harmful": {"refused_aloud": y}}


def _panels(axes: Any, cells: Sequence[Any], rates: Sequence[str]) -> None:
    """One panel a rate, one line a cell, with its interval and the seeds as faint dots."""
    panels = list(axes) if len(rates) > 1 else [axes]
    for panel, name, colour in zip(panels, rates, _COLOURS[: len(rates)], strict=True):
        for place, cell in enumerate(reversed(cells)):
            found = cell["rates"].get(name)
            if found is None:
                continue
            seeds = [100 * value for value in found["by_seed"].values()]
            panel.plot(seeds, [place] * len(seeds), ".", color=INK, alpha=0.6, markersize=4)
            low, high = 100 * found["low"], 100 * found["high"]
            panel.plot([low, high], [place, place], color=colour, linewidth=1.6)
            panel.plot(100 * found["rate"], place, "o", color=colour, markersize=5)
        panel.set_xlim(-3, 103)
        panel.set_ylim(-0.6, len(cells) - 0.4)
        panel.set_yticks(range(len(cells)), ["" for _ in cells])
        panel.set_title(fill(f"{SHOWN[name]}, %", 20), fontsize=9, color=INK)
        panel.grid(axis="y", color=INK, alpha=0.15)
    panels[0].set_yticks(range(len(cells)), [cell["name"] for cell in reversed(cells)])


def _rate_curve(axes: Any, cells: Sequence[Any], rates: Sequence[str], results: Results) -> None:
    for number, (name, colour) in enumerate(zip(rates, _COLOURS[: len(rates)], strict=True)):
        beside = number - (len(rates) - 1) / 2  # else intervals hide each other
        there = [
            (_moved(cell["x"], beside, cells, results), cell["rates"][name])
            for cell in cells
            if name in cell["rates"]
        ]
        _line(axes, there, SHOWN[name], colour, "rate", 100)
    axes.set_ylim(-3, 103)
    axes.set_ylabel("share of replies, %")
    _axis(axes, cells, results)


def _moved(x: float, steps: float, cells: Sequence[Any], results: Results) -> float:
    """x moved to the right by so many hundredths of the axis."""
    low, high = (pick(cell["x"] for cell in cells) for pick in (min, max))
    if results["log_curve"]:
        return float(x * (high / low) ** (0.01 * steps))
    return float(x + 0.01 * steps * (high - low))


def _loss_curve(axes: Any, cells: Sequence[Any], name: str, results: Results) -> None:
    _line(axes, [(c["x"], c["numbers"][name]) for c in cells], name, BLUE, "mean", 1)
    axes.set_ylabel(f"{name}, nats per token")
    _axis(axes, cells, results)


def _line(
    axes: Any, points: Sequence[tuple[float, Any]], label: str, colour: str, key: str, scale: int
) -> None:
    at = [x for x, _ in points]
    values = [scale * f[key] for _, f in points]
    below = [
        v - scale * f["low"] if f["low"] is not None else 0
        for v, (_, f) in zip(values, points, strict=True)
    ]
    above = [
        scale * f["high"] - v if f["high"] is not None else 0
        for v, (_, f) in zip(values, points, strict=True)
    ]
    axes.errorbar(
        at, values, yerr=[below, above], fmt="o-", color=colour, capsize=3, markersize=4,
        linewidth=1.4, label=label,
    )  # fmt: skip


def _axis(axes: Any, cells: Sequence[Any], results: Results) -> None:
    if results["log_curve"]:
        axes.set_xscale("log")
    at = sorted({cell["x"] for cell in cells})
    axes.set_xticks(at, labels=[f"{x:.3g}" for x in at])
    axes.minorticks_off()
    axes.set_xlabel(results["curve"])
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8)
