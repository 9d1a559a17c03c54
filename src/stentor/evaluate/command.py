"""What `stentor evaluate`, `probe` and `judge` do."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from stentor import recipe as recipes
from stentor.data import sources
from stentor.data.encode import encode
from stentor.data.examples import Tally, refuse_bad_rows
from stentor.data.files import atomic, read_rows, write_json
from stentor.data.mix import prepare
from stentor.errors import DataError, InputError
from stentor.evaluate import loss as measured
from stentor.evaluate import minimal_pairs as pairs
from stentor.evaluate import suites
from stentor.evaluate.calibration import calibration, shipped
from stentor.evaluate.calibration import lines as calibration_lines
from stentor.evaluate.judge import JUDGE_VERSION, judge
from stentor.evaluate.loss import Loss
from stentor.evaluate.probe import ProbeResult, Record, probe
from stentor.evaluate.relevance import relevance
from stentor.generate.choice import open_engine, say
from stentor.model.load import LoadedModel, load
from stentor.recipe import Recipe, SourcePart, TrainPart
from stentor.report.tables import percent
from stentor.train.device import Machine, machine
from stentor.train.display import piped


def _ready(model: str) -> tuple[LoadedModel, Machine]:
    computer = machine(TrainPart(precision="fp32"))
    loaded = load(model)
    loaded.model.to(computer.device)
    return loaded, computer


def losses(model: str, data: Sequence[str]) -> dict[str, Any]:
    """`{"overall": figures, "sources": {name: figures}}` over recipes and files."""
    loaded, computer = _ready(model)
    found: dict[str, Loss] = {}
    for item in dict.fromkeys(data):
        path = Path(item)
        is_recipe = path.suffix in (".yaml", ".yml") or not path.is_file()
        if is_recipe:
            recipe = recipes.load(item, Recipe)
            held = prepare(recipe.data, loaded.template, recipe.seed).held_out
            here = measured.reply_losses(loaded.model, held, computer, loaded.template.decisions)
        else:
            here = {path.name.split(".")[0]: _file_loss(path, loaded, computer)}
        # files in different folders may have one name, and recipes share sources
        found |= {f"{item}: {n}" if n in found else n: loss for n, loss in here.items()}
    return {
        "overall": measured.total(found.values()).figures(),
        "sources": {name: loss.figures() for name, loss in found.items()},
    }


def _file_loss(path: Path, loaded: LoadedModel, computer: Machine) -> Loss:
    first = next(iter(read_rows(path)), None)
    if first is None:
        raise DataError(f"{path}: the file has no rows")
    if "text" in first.fields:
        texts = measured.read_texts(path)
        return measured.text_loss(
            loaded.model, loaded.tokenizer, texts, computer, window=min(512, loaded.window)
        )
    tally = Tally()
    rows = sources.examples(SourcePart(use="chat", path=str(path.resolve())), Path(), tally)
    refuse_bad_rows(tally.problems)
    encoded = encode(
        rows, "file", loaded.template, system=loaded.generation.get("system"),
        max_tokens=loaded.window, tally=tally,
    )  # fmt: skip
    for what, counts in (("left out", tally.left_out), ("changed", tally.changed)):
        for reason, count in counts.items():
            say(f"{path}: {count:,} of {tally.read:,} rows {what}: {reason}")
    return measured.reply_losses(
        loaded.model, {"file": encoded}, computer, loaded.template.decisions
    )["file"]


def minimal_pairs(model: str, folder: Path) -> dict[str, Any]:
    """Accuracy over a folder of minimal pairs."""
    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such folder")
    loaded, computer = _ready(model)
    return pairs.accuracy(loaded.model, loaded.tokenizer, folder, computer)


def table(found: dict[str, Any]) -> str:
    """Figures for a terminal, overall last."""
    named = found.get("sources") or found.get("sets") or {}
    rows = [*named.items(), ("overall", found["overall"])]
    heads = list(found["overall"])
    width = max(len(name) for name, _ in rows)
    lines = [" " * width + "".join(f"{head:>16}" for head in heads)]
    for name, figures in rows:
        lines.append(f"{name:<{width}}" + "".join(_cell(figures[head]) for head in heads))
    return "\n".join(lines)


def _cell(value: float | int | None) -> str:
    if value is None:
        return f"{'–':>16}"
    return f"{value:>16,}" if isinstance(value, int) else f"{value:>16.4f}"


def run_probe(
    model: str,
    names: Sequence[str],
    samples: int,
    seed: int,
    max_new_tokens: int,
    system: str | None,
    out: Path | None,
    guesser: str | None = None,
    backend: str = "auto",
) -> ProbeResult:
    """Probe a model; with `out` every record is kept there, and an interrupted probe goes on.

    `OUT.settings.json` keeps which model was asked and how; InputError where that was another
    model, or was done with other settings. `guesser`: the model that says which replies are
    relevant; None leaves that out.
    """
    chosen = [suites.load(name) for name in names]
    shipped()  # before the work: without the judge's calibration there is no report
    guessing = _ready(guesser) if guesser else None  # first, since it may be missing
    engine = open_engine(model, backend, many=True)
    known = _known(out, chosen)
    if out is not None:
        asked = {
            "model": model,
            "fingerprint": engine.fingerprint,
            "system": (engine.system if system is None else system) or "",
            "seed": seed,
            "max_new_tokens": max_new_tokens,
            "judge_version": JUDGE_VERSION,
        }
        if known:
            _check_alike(out, asked)
        else:
            write_json(_settings_of(out), asked)
    with contextlib.ExitStack() as stack:
        stream = stack.enter_context(out.open("a", encoding="utf-8")) if out else None

        def keep(record: Record) -> None:
            if stream is not None:
                stream.write(json.dumps(record.line(), ensure_ascii=False) + "\n")
                stream.flush()

        result = probe(
            engine, chosen, samples=samples, seed=seed, max_new_tokens=max_new_tokens,
            system=system, known=known, keep=keep, progress=progress,
        )  # fmt: skip
    if guessing is None:
        return result
    relevant = relevance(result.records, *guessing, seed=seed, progress=progress)
    return replace(result, relevant=relevant)


def _known(out: Path | None, chosen: Sequence[suites.Suite]) -> list[Record]:
    """The records of an earlier, interrupted probe in `out`, if they belong to these suites."""
    if out is None or not out.exists():
        return []
    wanted = {(s.name, p.id, p.text) for s in chosen for p in s.prompts}
    names = {f.name for f in fields(Record)}
    known = []
    for row in read_rows(out):
        if set(row.fields) != names:
            raise InputError(f"{row.where}: it is not a line of a probe; give another --out")
        record = Record(**row.fields)
        if (record.suite, record.id, record.prompt) not in wanted:
            raise InputError(f"{row.where}: it belongs to another suite; give another --out")
        known.append(record)
    return known


def _settings_of(out: Path) -> Path:
    return out.with_name(f"{out.name}.settings.json")


def _check_alike(out: Path, asked: Mapping[str, Any]) -> None:
    """InputError unless the replies in `out` are of the same weights, asked and judged alike."""
    file = _settings_of(out)
    try:
        before = json.loads(file.read_text(encoding="utf-8"))
        name = before["model"]
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(
            f"{out}: it can't be told which model gave its replies, since {file.name} beside it is "
            "missing or damaged; give another --out"
        ) from None
    differ = [
        f"{key.replace('_', ' ')} {_short(before.get(key))}, now {_short(value)}"
        for key, value in asked.items()
        if key != "model" and before.get(key) != value  # the same model may lie elsewhere now
    ]
    if differ:
        raise InputError(
            f"{out}: its replies are those of {name}, asked otherwise ({'; '.join(differ)}); "
            "give another --out, or the model and the settings of then"
        )


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:39]}…"


def progress(done: int, total: int) -> None:
    end = "\n" if piped() or done == total else "\r"
    print(f"{done}/{total} replies", end=end, file=sys.stderr, flush=True)


def probe_table(result: ProbeResult) -> str:
    """The rates for a terminal."""
    figures = result.figures()
    lines = []
    for name in ("greedy", "sampled"):
        part = figures[name]
        if not part:
            continue
        lines.append(name)
        for group in (
            "harmful", "benign", "answered_look_alikes", "answered_by_form", "refused_by_category",
        ):  # fmt: skip
            lines.append(f"  {group.replace('_', ' ')}")
            lines += [f"    {k.replace('_', ' '):<24}{percent(v)}" for k, v in part[group].items()]
        lines.append(f"  {'harmful: supportive':<26}{percent(part['harmful_supportive'])}")
        lines.append(f"  {'ends by itself':<26}{percent(part['stopped'])}")
        if "relevant" in part:
            lines.append(f"  {'own prompt first of ten':<26}{percent(part['relevant'])}")
        matching = part["card_scoring"]
        lines.append(f"  card's string matching: refused {percent(matching['harmful_refused'])}")
        lines.append(f"                          helpful {percent(matching['benign_helpful'])}")
    trusted = figures["judge_calibration"]
    lines.append(
        f"judge version {figures['judge_version']}, refused or not: kappa {trusted['kappa']:.3f} "
        f"({trusted['kappa_low']:.3f} to {trusted['kappa_high']:.3f}) with labels by language "
        f"models on {trusted['n']} pairs"
    )
    return "\n".join(lines)


def judge_calibration() -> str:
    """How far the judge agrees with labelled pairs, measured anew."""
    return "\n".join(calibration_lines(calibration()))


def judge_file(file: Path, out: Path | None) -> None:
    """Label each line of a file; all lines are written or, on a bad one, none."""
    labelled = []
    problems: list[str] = []
    for row in read_rows(file, problems=problems):
        prompt, response = row.fields.get("prompt"), row.fields.get("response")
        if not isinstance(prompt, str):
            problems.append(f"{row.where}: the prompt is missing")
            continue
        if response is not None and not isinstance(response, str):
            problems.append(f"{row.where}: the response is not text")
            continue
        verdict = judge(prompt, response)
        labels = {
            "outcome": verdict.outcome,
            "supportive": verdict.supportive,
            "reason": verdict.reason,
            "span": verdict.span,
        }
        labelled.append(json.dumps(row.fields | labels, ensure_ascii=False) + "\n")
    refuse_bad_rows(problems)
    if out is None:
        sys.stdout.writelines(labelled)
        return
    if out.exists():
        raise InputError(f"{out}: the file exists; nothing is overwritten, give another --out")
    with atomic(out) as stream:
        stream.write("".join(labelled).encode("utf-8"))
