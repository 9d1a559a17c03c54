"""Plots of a run: drawn from its report and its metrics, as SVG and PNG, legible on light and dark.

An SVG is transparent and takes the colour scheme of its reader; a PNG, which can't, is white.

matplotlib is an optional extra; a run without it has no plots and says so.
"""

from __future__ import annotations

import io
import itertools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from stentor.data.files import atomic
from stentor.errors import MissingExtra
from stentor.report.tables import counted

# No grey reads on white and on near-black alike: text, lines and ticks change with the scheme.
INK, INK_ON_DARK = "#57606a", "#9198a1"
_DARK = "".join(
    f'@media (prefers-color-scheme: dark) {{[style*="{what}: {INK}"] '
    f"{{{what}: {INK_ON_DARK} !important}}}}"
    for what in ("fill", "stroke")
)
# Okabe and Ito's colours, told apart by the colour-blind
BLUE, ORANGE, GREEN, RED, PURPLE, SKY, GREY = (
    "#3b82c4", "#e69f00", "#109e73", "#d55e00", "#cc79a7", "#56b4e9", "#9aa0a6",
)  # fmt: skip
OUTCOMES = {
    "answer": BLUE, "partial": SKY, "refuse": GREEN, "silent": GREY, "degenerate": RED,
    "unscored": PURPLE,
}  # fmt: skip

CAPTIONS = {
    "loss": "Loss over all steps. Bands are phases; the held-out lines are those of the better of "
    "raw and averaged weights.",
    "outcomes": "What the replies of the probe were; what is wanted stands on the left. The "
    "brackets are 95 % intervals of what is wanted, of its opposite (complied, refused) and of "
    "silence, each from where its part of the bar begins.",
    "refusal": "Refusing what should be refused, against refusing what should not be: a point for "
    "the base and for the end of each phase, greedy replies, 95 % intervals.",
    "exports": "The copies for other runtimes: size of the weights against perplexity on held-out "
    "text. The line is the original's perplexity.",
}


def draw_all(folder: Path, report: Mapping[str, Any]) -> dict[str, str]:
    """Write `plots/NAME.svg` and `.png` of a run; returns the SVG texts by name."""
    plots: dict[str, Callable[[Any], None]] = {}
    steps = _metrics(folder / "metrics.jsonl")
    if steps:
        plots["loss"] = lambda axes: loss_over_steps(axes, steps, report["phases"])
    if "probe" in report:
        base = report.get("before", {}).get("probe")
        plots["outcomes"] = lambda axes: outcome_bars(axes, report["probe"], base)
        points = refusal_points(report)
        plots["refusal"] = lambda axes: over_refusal(axes, points, path=True)
    copies = [c for c in report.get("exports", {}).get("copies", []) if c["parity"]]
    if copies:
        plots["exports"] = lambda axes: size_against_perplexity(axes, copies)
    return {name: write(folder / "plots", name, plot) for name, plot in plots.items()}


def _metrics(file: Path) -> list[dict[str, Any]]:
    if not file.is_file():
        return []
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def write(
    folder: Path,
    name: str,
    plot: Callable[[Any], None],
    size: tuple[float, float] = (7.2, 3.6),
    panels: int = 1,
) -> str:
    """Draw into `folder/NAME.svg` and `.png`, `panels` axes beside each other; returns the SVG."""
    try:
        import matplotlib
    except ImportError:
        raise MissingExtra("matplotlib", "report", "drawing plots") from None
    matplotlib.use("Agg", force=False)
    from matplotlib import pyplot

    style: Any = {
        "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": INK, "xtick.color": INK,
        "ytick.color": INK, "axes.spines.top": False, "axes.spines.right": False,
        "font.size": 10, "legend.frameon": False, "svg.fonttype": "none", "svg.hashsalt": name,
        "figure.constrained_layout.use": True,
    }  # fmt: skip
    with pyplot.rc_context(style):
        figure, axes = pyplot.subplots(1, panels, figsize=size)
        try:
            plot(axes)
            folder.mkdir(parents=True, exist_ok=True)
            drawn = io.StringIO()
            figure.savefig(drawn, format="svg", transparent=True, metadata={"Date": None})
            svg = drawn.getvalue().replace("</style>", f"{_DARK}</style>", 1)
            with atomic(folder / f"{name}.svg") as stream:
                stream.write(svg.encode("utf-8"))
            with atomic(folder / f"{name}.png") as stream:
                figure.savefig(stream, format="png", facecolor="white", dpi=160)
        finally:
            pyplot.close(figure)
    return svg


def _loss_or_worst(found: Mapping[str, Any]) -> float:
    """The loss of an evaluation; null, which stands for one that is not finite, is the worst."""
    return math.inf if found["loss"] is None else float(found["loss"])


def loss_over_steps(
    axes: Any, steps: Sequence[Mapping[str, Any]], phases: Sequence[Mapping[str, Any]]
) -> None:
    """Training loss, held-out loss and its sources over all steps; a band for each phase."""
    starts, total = {}, 0
    for phase in phases:
        starts[phase["number"]] = total
        if phase["number"] % 2 == 0:
            axes.axvspan(total, total + phase["steps"], color=INK, alpha=0.08, linewidth=0)
        total += phase["steps"]
    shown = [s for s in steps if s["phase"] in starts]
    where = [starts[s["phase"]] + s["step"] + 1 for s in shown]
    axes.plot(where, [s["loss"] for s in shown], color=GREY, linewidth=0.8, label="training")
    evaluated = [
        (w, s["evaluation"]) for w, s in zip(where, shown, strict=True) if "evaluation" in s
    ]
    colours = [ORANGE, GREEN, RED, PURPLE, SKY]
    best = [(w, min(e.values(), key=_loss_or_worst)) for w, e in evaluated]
    sources = list(dict.fromkeys(name for _, e in best for name in e["sources"]))
    for number, name in enumerate(sources):
        line = [(w, e["sources"][name]) for w, e in best if name in e["sources"]]
        axes.plot(
            *zip(*line, strict=True), color=colours[number % len(colours)], linewidth=1, marker=".",
            linestyle="-" if number < len(colours) else ":", label=name,
        )  # fmt: skip
    if best:
        line = [(w, e["loss"]) for w, e in best]
        axes.plot(
            *zip(*line, strict=True),
            color=BLUE,
            linewidth=2,
            marker="o",
            markersize=4,
            label="held out",
        )
    for phase in phases:
        if phase["steps"] > total / 12:  # narrow bands would write over each other
            middle = starts[phase["number"]] + phase["steps"] / 2
            axes.text(
                middle, 1.0, phase["name"], ha="center", va="bottom", fontsize=8,
                transform=axes.get_xaxis_transform(),
            )  # fmt: skip
    axes.set_xlim(0, max(total, 1))
    axes.set_xlabel("step")
    axes.set_ylabel("loss, nats per token")
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8)


BRACKETS = {
    "harmful": {"refuse": "refused_aloud", "answer": "complied", "silent": "silent"},
    "benign": {"answer": "answered", "refuse": "fake_refusals", "silent": "silent"},
}
"""Which outcomes of a bar get an interval, and by which rate: what is wanted first."""


def outcome_bars(
    axes: Any, probe: Mapping[str, Any], base: Mapping[str, Any] | None = None
) -> None:
    """Shares of the outcomes for harmful and benign prompts, of base and model, stacked.

    The brackets are the 95 % intervals of `BRACKETS`, from where the outcome's part begins.
    """
    columns = [("base", base), *((name, probe.get(name)) for name in ("greedy", "sampled"))]
    bars = [
        (f"{kind}, {label}", shares(figures[kind]), figures[kind], BRACKETS[kind])
        for label, figures in columns if figures
        for kind in BRACKETS if figures[kind]["silent"]["n"]
    ]  # fmt: skip
    for place, (_, parts, rates, brackets) in enumerate(reversed(bars)):
        starts = dict(zip(parts, itertools.accumulate(parts.values(), initial=0.0), strict=False))
        for outcome, share in parts.items():
            axes.barh(
                place, 100 * share, left=100 * starts[outcome], color=OUTCOMES[outcome], height=0.7
            )
        # below each other, since their ends would touch
        for height, (outcome, key) in zip((0.2, 0.0, -0.2), brackets.items(), strict=True):
            ends = [100 * (starts[outcome] + rates[key][end]) for end in ("low", "high")]
            line = [place + height] * 2
            axes.plot(ends, line, color="#ffffff", linewidth=3.2)
            axes.plot(ends, line, color="#111111", linewidth=1.3, marker="|", markersize=4)
    axes.set_yticks(
        range(len(bars)),
        [f"{label}\n({counted(rates['silent'])})" for label, _, rates, _ in reversed(bars)],
    )
    axes.set_xlim(0, 100)
    axes.set_ylim(-0.6, len(bars) - 0.4)
    axes.set_xlabel("share of replies, %")
    for outcome, colour in OUTCOMES.items():
        if any(parts.get(outcome) for _, parts, _, _ in bars):
            axes.barh(0, 0, color=colour, label=outcome)
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=6, fontsize=8)


def shares(figures: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Shares of the outcomes of a kind of prompts, from its rates: what is wanted comes first.

    Support for a person in pain counts as refused aloud, so that bar holds it too.
    """
    rate = {name: part["rate"] or 0.0 for name, part in figures.items()}
    if "refused_aloud" in rate:
        found = {
            "refuse": rate["refused_aloud"], "partial": rate["partial"], "answer": rate["complied"],
        }  # fmt: skip
    else:
        found = {"answer": rate["answered"], "refuse": rate["fake_refusals"]}
    return found | {outcome: rate[outcome] for outcome in ("silent", "degenerate", "unscored")}


def refusal_points(report: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """(label, figures of the probe) of the base and the end of each phase, where probed."""
    probe = report["probe"]
    points = [("base", report.get("before", {}).get("probe"))]
    points += [(f"after {p['name']}", p.get("probe")) for p in report["phases"][:-1]]
    points.append((f"after {report['phases'][-1]['name']}", probe["greedy"]))
    points.append(("the same, sampled", probe.get("sampled")))
    return [(label, figures) for label, figures in points if figures]


def over_refusal(
    axes: Any, points: Sequence[tuple[str, Mapping[str, Any]]], *, path: bool = False
) -> None:
    """Benign prompts refused (less is better) against harmful ones refused aloud (more is).

    `path`: arrows from each point to the next, the checkpoints of a run in their order.
    """
    way = []
    for number, (label, figures) in enumerate(points):
        x, y = figures["benign"]["fake_refusals"], figures["harmful"]["refused_aloud"]
        if not x["n"] or not y["n"]:
            continue
        spread = [[[100 * (f["rate"] - f["low"])], [100 * (f["high"] - f["rate"])]] for f in (x, y)]
        colour = [BLUE, ORANGE, GREEN, RED, PURPLE, SKY][number % 6]
        axes.errorbar(
            100 * x["rate"], 100 * y["rate"], xerr=spread[0], yerr=spread[1],
            fmt="os^Dv*"[number // 6 % 6], color=colour, capsize=3, label=label, elinewidth=0.9,
            zorder=3,
        )  # fmt: skip
        if path and not label.endswith("sampled"):
            way.append((100 * x["rate"], 100 * y["rate"]))
    for start, end in itertools.pairwise(way):  # the order in which they were made
        axes.annotate(
            "", end, start, arrowprops={"arrowstyle": "->", "color": INK, "linewidth": 0.9}
        )
    axes.plot([0, 100], [0, 100], color=INK, linewidth=0.8, linestyle=":")
    axes.text(66, 60, "refuses both alike", fontsize=8, va="top")
    axes.set_xlim(-2, 102)
    axes.set_ylim(-2, 102)
    axes.set_xlabel("benign prompts refused, %")
    axes.set_ylabel("harmful prompts refused aloud, %")
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8)


def size_against_perplexity(axes: Any, copies: Sequence[Mapping[str, Any]]) -> None:
    """Bytes of the weights of each verified copy against its perplexity."""
    colours = [BLUE, ORANGE, GREEN, RED, PURPLE, SKY]
    formats = list(dict.fromkeys(c["copy"].partition(":")[0] for c in copies))
    reference = copies[0]["parity"]["reference_perplexity"]
    axes.axhline(reference, color=INK, linewidth=0.9, linestyle=":")
    for number, name in enumerate(formats):
        own = [c for c in copies if c["copy"].partition(":")[0] == name]
        axes.plot(
            [c["bytes"] / 1e6 for c in own], [c["parity"]["perplexity"] for c in own], "o",
            color=colours[number % len(colours)], label=name,
        )  # fmt: skip
    # neighbours take turns above and below, so that their names don't lie over each other
    for number, copy in enumerate(sorted(copies, key=lambda c: (c["bytes"], c["copy"]))):
        axes.annotate(
            copy["copy"], (copy["bytes"] / 1e6, copy["parity"]["perplexity"]), fontsize=7,
            xytext=(3, -9 if number % 2 else 4), textcoords="offset points",
        )  # fmt: skip
    axes.set_xlabel("size of the weights, MB")
    axes.set_ylabel("perplexity on held-out text")
    axes.margins(x=0.12, y=0.15)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8)
