"""The README of a model, from its run's report: no figure is typed by hand."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stentor.data.files import write_text
from stentor.errors import InputError, MissingExtra
from stentor.evaluate.probe import Record, read_records
from stentor.report import metadata, tables
from stentor.report.limits import limitations
from stentor.report.page import write_page
from stentor.report.plots import CAPTIONS, draw_all

_QUICK_START = """```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model_id = "{place}"
tokenizer = AutoTokenizer.from_pretrained(model_id)
model = AutoModelForCausalLM.from_pretrained(model_id)
messages = [{system}
    {{"role": "user", "content": "Why is the sky blue?"}},
]
inputs = tokenizer.apply_chat_template(
    messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
)
outputs = model.generate(
    **inputs, {choice}, repetition_penalty={repetition_penalty}, max_new_tokens={max_new_tokens}
)
print(tokenizer.decode(outputs[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))
```"""
_SYSTEM_LINE = """
    {"role": "system", "content": model.generation_config.system},"""
_SAMPLES = {"benign": 3, "borderline": 2, "harmful": 3}
HERE = "model"
"""Where the quick start of a run's own card finds the model: the folder beside the card."""
_BESIDE = (
    "This model was not pushed to a hub: the code finds it where it is run, in the folder of this "
    "card, since `model_id` is the folder `model` beside it.\n\n"
)


def read_report(run: Path) -> dict[str, Any]:
    """A fine-tuning run's `report.json`; InputError where there is none."""
    file = run / "report.json"
    if not file.is_file():
        raise InputError(
            f"{run}: there is no report.json; the run has not finished or is elsewhere"
        )
    try:
        report: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{file}: it is not valid JSON: {error}") from None
    if report.get("kind") != "fine-tune":
        raise InputError(f"{run}: cards are written for fine-tuning runs")
    if report.get("schema") != 2:
        raise InputError(
            f"{file}: it was written by an older stentor and lacks figures that a card shows; "
            "train again, or use the version that made it"
        )
    return report


def rewrite(run: Path) -> Path:
    """Write a run's card, plots and page again from `report.json` and `probe.jsonl`."""
    write_all(run, read_report(run), read_records(run))
    return run / "README.md"


def write_all(folder: Path, report: dict[str, Any], records: Sequence[Record]) -> tuple[str, ...]:
    """Write what people read of a run: `README.md`, `plots/`, `report.html`.

    `records` are the replies of its probe. Returns the names of the plots that were drawn; without
    matplotlib there are none.
    """
    try:
        plots = draw_all(folder, report)
    except MissingExtra as error:
        print(error, file=sys.stderr)
        plots = {}
    write_text(folder / "README.md", card(report, records, plots=tuple(plots)))
    write_page(folder, report, body(report, records), plots, records)
    return tuple(plots)


def card(
    report: dict[str, Any], records: Sequence[Record], *, place: str = HERE,
    plots: Sequence[str] = (),
) -> str:  # fmt: skip
    """The text of a run's card: the hub's metadata, then what people read.

    `place` is where the quick start loads the model from, `plots` are the names of those drawn.
    """
    parts = [metadata.head(report), body(report, records, place=place)]
    if plots:
        shown = [f"![{name}](plots/{name}.png)\n*{CAPTIONS[name]}*" for name in plots]
        parts.append("## Plots\n\n" + "\n\n".join(shown))
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def body(report: dict[str, Any], records: Sequence[Record], *, place: str = HERE) -> str:
    """A card without metadata and pictures, which `report.html` shows too."""
    recipe, commit = report["recipe"], report.get("base_revision")
    revision = f" (revision `{commit[:12]}`)" if commit else ""
    note = _BESIDE if place == HERE else ""
    parts = [
        f"# {tables.plain(report['name'])}",
        recipe["about"].strip(),
        f"Made by Stentor {report['versions']['stentor']} from the base "
        f"`{recipe['model']['base']}`{revision}. Every figure on this page comes from the run's "
        "own `report.json`.",
        tables.glance(report) and "## At a glance\n\n" + tables.glance(report),
        "## Use it\n\n" + note + quick_start(recipe, place),
        "## Limitations\n\n" + "\n".join(f"- {text}" for text in limitations(report)),
    ]
    if "probe" in report:
        parts.append("## Safety: the probe\n\n" + tables.probe(report))
    if records:
        parts.append("## Replies\n\n" + samples(records))
    if report["evaluation"]["overall"]["tokens"]:
        parts.append("## Held-out loss\n\n" + tables.losses(report))
    if report.get("exports"):
        parts.append("## Copies for other runtimes\n\n" + tables.exports(report))
    parts += [
        "## Scale\n\n" + tables.scale(report),
        "## Phases\n\n" + tables.phases(report),
        "## Hyperparameters\n\n" + tables.hyperparameters(report),
        "## Data\n\n" + tables.data(report),
        "## Licence\n\n" + _licence(report),
        "## Made with\n\n" + ", ".join(f"{n} {v}" for n, v in report["versions"].items()) + ".",
        "## Citation\n\n" + _citation(report),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def quick_start(recipe: dict[str, Any], place: str) -> str:
    """Code that runs as printed, in transformers 4 and 5, with the run's own decoding."""
    settings = recipe["generation"]
    choice = "do_sample=False"
    if settings["temperature"] > 0:
        choice = f"do_sample=True, temperature={settings['temperature']}, top_p={settings['top_p']}"
    system = _SYSTEM_LINE if recipe["data"]["system"] else ""
    return _QUICK_START.format(place=place, system=system, choice=choice, **settings)


def samples(records: Sequence[Record], counts: Mapping[str, int] = _SAMPLES) -> str:
    """Greedy replies drawn by rule, so many of each kind: nobody picked them."""
    lines = [
        "Greedy replies, not picked: of each kind of prompt those whose text has the lowest "
        "SHA-256.",
        "",
    ]
    for kind, count in counts.items():
        greedy = [r for r in records if r.sample == 0 and r.kind == kind]
        greedy.sort(key=lambda r: hashlib.sha256(r.prompt.encode()).digest())
        for record in greedy[:count]:
            asked, reply = tables.plain(record.prompt), tables.plain(record.response)
            shown = f"{reply or '[no output]'} ({record.outcome})"
            lines.append(f"- *{kind}* — {asked}\n  > {shown}")
    return "\n".join(lines)


def _licence(report: dict[str, Any]) -> str:
    chosen, found = metadata.licence(report), report.get("licences", {})
    if report["recipe"].get("licence"):
        return f"{chosen}, as the recipe says."
    if chosen == metadata.OTHER:
        return (
            "Unknown, since that of the base or of some data is, or can't be ranked among the "
            "others: set `licence` in the recipe once you know it. The base: "
            f"{found.get('base') or 'unknown'}; the data: see the table."
        )
    return (
        f"{chosen}: the strictest of the base ({found['base']}) and the data (see the table). "
        "Whether the licence of data binds a model is for you to judge."
    )


def _citation(report: dict[str, Any]) -> str:
    key = "".join(c if c.isalnum() else "-" for c in report["name"].lower())
    return (
        f"```bibtex\n@misc{{{key},\n  title  = {{{report['name']}}},\n"
        f"  note   = {{Made with Stentor {report['versions']['stentor']}, "
        f"from the base {report['recipe']['model']['base']}}},\n"
        f"  year   = {{{report['finished'][:4]}}}\n}}\n```"
    )
