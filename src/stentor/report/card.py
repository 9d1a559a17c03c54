"""The README of a model, from its run's report: no figure is typed by hand."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stentor.data.files import read_rows, write_text
from stentor.errors import InputError, MissingExtra
from stentor.evaluate.probe import Record
from stentor.report.page import write_page
from stentor.report.plots import draw_all

_QUICK_START = """```python
from transformers import AutoModelForCausalLM, AutoTokenizer

folder = "model"
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder)
messages = [{system}
    {{"role": "user", "content": "Why is the sky blue?"}},
]
inputs = tokenizer.apply_chat_template(
    messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
)
outputs = model.generate(
    **inputs, {choice}, repetition_penalty={repetition_penalty}, max_new_tokens={max_new_tokens}
)
print(tokenizer.decode(outputs[0, inputs["input_ids"].shape[1]:], skip_special_tokens=True))
```"""
_SYSTEM_LINE = """
    {"role": "system", "content": model.generation_config.system},"""


def rewrite(run: Path) -> Path:
    """Write a run's card again from `report.json` and `probe.jsonl`."""
    file = run / "report.json"
    if not file.is_file():
        raise InputError(
            f"{run}: there is no report.json; the run has not finished or is elsewhere"
        )
    try:
        report = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{file}: it is not valid JSON: {error}") from None
    if report.get("kind") != "fine-tune":
        raise InputError(f"{run}: cards are written for fine-tuning runs")
    probed = run / "probe.jsonl"
    records = [Record(**row.fields) for row in read_rows(probed)] if probed.is_file() else []
    write_all(run, report, records)
    return run / "README.md"


def write_all(folder: Path, report: dict[str, Any], records: Sequence[Record]) -> None:
    """Write what people read of a run: `README.md`, `plots/`, `report.html`.

    `records` are the replies of its probe. Without matplotlib there are no plots.
    """
    text = card(report, records)
    write_text(folder / "README.md", text)
    try:
        plots = draw_all(folder, report)
    except MissingExtra as error:
        print(error, file=sys.stderr)
        plots = {}
    write_page(folder, report, text, plots, records)


def card(report: dict[str, Any], records: Sequence[Record]) -> str:
    """The text of a run's card."""
    recipe = report["recipe"]
    parts = [
        f"# {report['name']}",
        recipe["about"].strip(),
        f"Made by Stentor "
        f"{report['versions']['stentor']} from the base `{recipe['model']['base']}`; "
        f"{report['parameters']['total']:,} parameters, "
        f"{report['parameters']['trained']:,} of them trained.",
        "## Use it\n\n" + _quick_start(recipe),
        "## Phases\n\n" + _phases(report["phases"]),
        "## Held-out loss\n\n" + _losses(report["evaluation"], report["base_text_loss"]),
    ]
    if "probe" in report:
        parts += ["## Probe\n\n" + _probe(report["probe"]), "## Replies\n\n" + _replies(records)]
    parts.append("## Data\n\n" + _data(report["data"]))
    return "\n\n".join(part for part in parts if part) + "\n"


def _quick_start(recipe: dict[str, Any]) -> str:
    settings = recipe["generation"]
    choice = "do_sample=False"
    if settings["temperature"] > 0:
        choice = f"do_sample=True, temperature={settings['temperature']}, top_p={settings['top_p']}"
    system = _SYSTEM_LINE if recipe["data"]["system"] else ""
    return _QUICK_START.format(system=system, choice=choice, **settings)


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [" | ".join(head), " | ".join("---" for _ in head), *(" | ".join(r) for r in rows)]
    return "\n".join(f"| {line} |" for line in lines)


def _phases(done: list[dict[str, Any]]) -> str:
    rows = []
    for phase in done:
        best = "–" if phase["best_loss"] is None else f"{phase['best_loss']:.3f}"
        per_second = phase["examples"] / phase["seconds"] if phase["seconds"] else math.nan
        rows.append(
            [phase["name"], str(phase["steps"]), f"{phase['learning_rate']:g}", best,
             f"{phase['kept']} of step {phase['kept_step']}", f"{per_second:.1f}",
             f"{phase['seconds']:.0f}"]
        )  # fmt: skip
    head = ["phase", "steps", "rate", "best loss", "carried on", "samples/s", "seconds"]
    return table(head, rows)


def _losses(evaluation: dict[str, Any], base_text: dict[str, Any]) -> str:
    rows = [
        [
            name,
            f"{f['loss']:.3f}",
            f"{f['perplexity']:.1f}",
            f"{f['bits_per_byte']:.3f}",
            f"{f['tokens']:,}",
        ]
        for name, f in [*evaluation["sources"].items(), ("all", evaluation["overall"])]
        if f["tokens"]
    ]
    text = table(["source", "loss", "perplexity", "bits per byte", "tokens"], rows)
    if base_text["before"] is not None:
        text += (
            f"\n\nLoss on plain text: {base_text['before']:.3f} before the phases, "
            f"{base_text['after']:.3f} after."
        )
    return text


def percent(figures: dict[str, Any]) -> str:
    """A rate with its interval, as tables show it."""
    if not figures["n"]:
        return "–"
    return (
        f"{100 * figures['rate']:.1f} % [{100 * figures['low']:.0f}–{100 * figures['high']:.0f}], "
        f"n {figures['n']}"
    )


def _probe(figures: dict[str, Any]) -> str:
    names = ", ".join(f"{s['name']} version {s['version']}" for s in figures["suites"])
    decodings = [("greedy", figures["greedy"])]
    if figures["sampled"]:
        decodings.append(("sampled", figures["sampled"]))
    wanted = [
        ("harmful: refused aloud", "harmful", "refused_aloud"),
        ("harmful: silent", "harmful", "silent"),
        ("harmful: complied", "harmful", "complied"),
        ("self-harm: supportive", "harmful", "self_harm_supportive"),
        ("benign: answered", "benign", "answered"),
        ("benign: fake refusals", "benign", "fake_refusals"),
        ("benign: silent", "benign", "silent"),
        ("benign: degenerate", "benign", "degenerate"),
    ]
    rows = [[label, *(percent(f[part][key]) for _, f in decodings)] for label, part, key in wanted]
    rows.append(["ends by itself", *(percent(f["stopped"]) for _, f in decodings)])
    for label, key in (("refused", "harmful_refused"), ("helpful", "benign_helpful")):
        rows.append(
            [
                f"card's string matching: {label}",
                *(percent(f["card_scoring"][key]) for _, f in decodings),
            ]
        )
    head = ["outcome", *(name for name, _ in decodings)]
    return f"Suites: {names}; judge version {figures['judge_version']}.\n\n" + table(head, rows)


def _replies(records: Sequence[Record]) -> str:
    """The first greedy replies of each kind, in the suite's order: not picked."""
    lines = ["The first greedy replies of the suite, not picked:"]
    for kind, count in (("benign", 3), ("borderline", 2), ("harmful", 3)):
        greedy = [r for r in records if r.sample == 0 and r.kind == kind]
        for record in greedy[:count]:
            reply = " ".join(record.response.split()) or "[no output]"
            lines.append(f"- *{kind}* — {record.prompt}\n  > {reply} ({record.outcome})")
    return "\n".join(lines)


def _data(data: dict[str, Any]) -> str:
    rows = [
        [name, f"{d['read']:,}", f"{d['train']:,}", f"{d['held_out']:,}", f"`{d['hash'][:12]}`"]
        for name, d in data.items()
    ]
    return table(["source", "rows read", "to train on", "held out", "hash"], rows)
