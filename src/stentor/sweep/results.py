"""What the runs of a sweep came to: means and intervals over seeds, and which differences are real.

A rate's interval is, on each side, the wider of two: Student's over the seeds, which knows how far
training scatters, and Wilson's over the prompts, which knows how few were asked. A difference from
the cell that all are compared with is called real when the exact paired test over prompts says so
after Holm's correction for all tests of the sweep, and every seed moved the same way; a loss, when
Student's interval of the paired differences leaves out zero, which is not corrected.

Runs whose replies another version of the judge has read are judged anew here, so that all outcomes
of a table are those of one judge.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from stentor.errors import InputError
from stentor.evaluate.intervals import mean_interval, wilson
from stentor.evaluate.judge import JUDGE_VERSION
from stentor.evaluate.paired import MEASURES, holm, over_seeds
from stentor.evaluate.probe import Record, judged, read_records
from stentor.sweep.plan import Cell, Plan
from stentor.sweep.running import Due, Ended, all_runs

SCHEMA = 1
LEVEL = 0.05
HELD_OUT, BASE_TEXT, VALIDATION, TRAINING = (
    "held-out loss", "loss on base text, rise", "validation loss", "seconds of training",
)  # fmt: skip


@dataclass(frozen=True)
class Run:
    """A finished run: its report and the records of its probe."""

    report: Mapping[str, Any]
    records: Sequence[Record]


Runs = Mapping[str, Mapping[int, Run]]
"""Finished runs by cell and seed."""


def gather(plan: Plan, ended: Ended) -> dict[str, Any]:
    """All figures of a sweep as far as its runs are finished, for results.json."""
    runs = all_runs(plan, ended.folder)
    found: dict[str, dict[int, Run]] = {cell.name: {} for cell in plan.cells}
    for run in runs:
        if run.finished:
            found[run.cell.name][run.seed] = _read(run)
    shared = _shared_sources(found)
    numbers = {
        cell: {seed: _numbers(run.report, shared) for seed, run in by_seed.items()}
        for cell, by_seed in found.items()
    }
    return {
        "schema": SCHEMA,
        "kind": "sweep",
        "name": plan.sweep.name,
        "about": plan.sweep.about,
        "seeds": list(plan.sweep.seeds),
        "against": plan.against,
        "curve": plan.sweep.curve,
        "log_curve": plan.sweep.log_curve,
        "held_out_sources": sorted(shared),
        "cells": [_cell(cell, found[cell.name], numbers[cell.name]) for cell in plan.cells],
        "comparisons": compare(found, numbers, plan.against),
        "warnings": _unlike(found),
        "missing": [str(run) for run in runs if not run.finished],
        "failed": [
            {"cell": cell, "seed": seed, "error": error}
            for (cell, seed), error in ended.failed.items()
        ],
    }


def _read(run: Due) -> Run:
    file = run.folder / "report.json"
    try:
        report = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(
            f"{file}: it is not valid JSON ({error}); delete the folder of this run and go on "
            "with --resume"
        ) from None
    records = read_records(run.folder)
    if report.get("probe", {}).get("judge_version", JUDGE_VERSION) != JUDGE_VERSION:
        records = [judged(record, report["recipe"]["data"].get("system")) for record in records]
    return Run(report, records)


def _shared_sources(found: Runs) -> set[str]:
    """The held-out sources that every run has: losses over others can't be set side by side."""
    sources = [
        {name for name, f in run.report["evaluation"]["sources"].items() if f["tokens"]}
        for by_seed in found.values()
        for run in by_seed.values()
        if "evaluation" in run.report
    ]
    return set.intersection(*sources) if sources else set()


def _unlike(found: Runs) -> list[str]:
    """Where data, base or probe changed while the sweep was under way."""
    seen: dict[tuple[str, ...], dict[Any, list[str]]] = {}
    for cell, by_seed in found.items():
        for seed, run in by_seed.items():
            asked = frozenset((r.suite, r.id, r.prompt) for r in run.records)
            agreeing = _should_agree(run.report, seed) | {("the prompts of the probe",): asked}
            for key, value in agreeing.items():
                seen.setdefault(key, {}).setdefault(value, []).append(f"{cell}, seed {seed}")
    found_out: list[str] = []
    for (what, *_), versions in seen.items():
        if len(versions) > 1:
            groups = " | ".join("; ".join(runs[:4]) for runs in versions.values())
            found_out.append(f"{what} changed between these runs; don't compare them: {groups}")
    return list(dict.fromkeys(found_out))


def _should_agree(report: Mapping[str, Any], seed: int) -> dict[tuple[str, ...], Any]:
    """What is equal in runs that read the same data, or start from the same base."""
    if report["kind"] == "pretrain":
        asked = json.dumps(report["recipe"]["data"]["corpora"], sort_keys=True)
        return {("the corpus", asked): report["corpus_tokens"]}
    recipe = report["recipe"]
    data = recipe["data"]
    # not the whole part: a newer version may know more fields, which changes no row
    fields = (
        "system",
        "max_tokens",
        "hold_out",
        "hold_out_at_least",
        "hold_out_seed",
        "kept_apart",
    )
    common = [str(seed), *(str(data.get(name)) for name in fields), *sorted(report["data"])]
    kept: dict[tuple[str, ...], Any] = {}
    for name, source in report["data"].items():
        part = data["sources"][name]
        own = [str(part.get(f)) for f in ("use", "path", "hub", "config", "split", "kinds", "cap")]
        kept[f"the rows of source {name!r}", *common, *own] = source["hash"]
    kept["the base", str(recipe["model"]["base"])] = report.get("base_sha256")
    return kept


def _numbers(report: Mapping[str, Any], shared: set[str]) -> dict[str, float]:
    """The figures of a run that are no rates."""
    if report["kind"] == "pretrain":
        outcome = report["outcome"]
        found = {TRAINING: outcome["seconds"]}
        last = outcome["evaluations"][-1]["raw"]["loss"] if outcome["evaluations"] else None
        if last is not None:  # null: not finite
            found[VALIDATION] = last
        return found
    found = {TRAINING: sum(phase["seconds"] for phase in report["phases"])}
    parts = [report["evaluation"]["sources"][name] for name in sorted(shared)]
    if tokens := sum(part["tokens"] for part in parts):
        found[HELD_OUT] = sum(part["loss"] * part["tokens"] for part in parts) / tokens
    text = report["base_text_loss"]
    if text["before"] is not None and text["after"] is not None:
        found[BASE_TEXT] = text["after"] - text["before"]
    return found


def _cell(
    cell: Cell, runs: Mapping[int, Run], numbers: Mapping[int, Mapping[str, float]]
) -> dict[str, Any]:
    first = next(iter(runs.values()), None)
    return {
        "name": cell.name,
        "about": cell.about,
        "x": cell.x,
        "command": cell.command,
        "folder": f"cells/{cell.folder}",
        "seeds": sorted(runs),
        "parameters": _parameters(first.report) if first else None,
        "examples": _examples(first.report) if first else None,
        "rates": {name: r for name in MEASURES if (r := _rate(name, runs))},
        "numbers": {
            name: _mean({seed: n[name] for seed, n in numbers.items() if name in n})
            for name in dict.fromkeys(name for n in numbers.values() for name in n)
        },
    }


def _parameters(report: Mapping[str, Any]) -> int:
    """Those of the model that comes out; an adapter is merged into it."""
    counted = report["parameters"]
    return int(counted if report["kind"] == "pretrain" else counted["merged"])


def _examples(report: Mapping[str, Any]) -> int:
    phases = [report["outcome"]] if report["kind"] == "pretrain" else report["phases"]
    return sum(phase["examples"] for phase in phases)


def _rate(name: str, runs: Mapping[int, Run]) -> dict[str, Any] | None:
    measure = MEASURES[name]
    values: dict[int, float] = {}
    prompts = 0
    for seed, run in sorted(runs.items()):
        held = [measure.holds(r) for r in run.records if r.sample == 0 and measure.over(r)]
        if held:
            values[seed], prompts = sum(held) / len(held), len(held)
    if not values:
        return None
    mean = statistics.fmean(values.values())
    low, high = wilson(mean, prompts)
    _, over_low, over_high = mean_interval([*values.values()])
    return {
        "rate": mean,
        "low": low if over_low is None else max(0.0, min(low, over_low)),
        "high": high if over_high is None else min(1.0, max(high, over_high)),
        "n": prompts,
        "by_seed": values,
    }


def _mean(values: Mapping[int, float]) -> dict[str, Any]:
    mean, low, high = mean_interval([*values.values()])
    return {"mean": mean, "low": low, "high": high, "by_seed": dict(sorted(values.items()))}


def compare(
    found: Runs, numbers: Mapping[str, Mapping[int, Mapping[str, float]]], against: str
) -> list[dict[str, Any]]:
    """Every cell with the one that all are compared with, measure by measure.

    Cells that were asked other prompts are not compared by rates; a warning of the sweep says so.
    """
    rates, others = [], []
    for cell, runs in found.items():
        if cell == against:
            continue
        a, b = ({s: run.records for s, run in r.items()} for r in (found[against], runs))
        with suppress(InputError):  # a suite was changed between the runs
            for name, measure in MEASURES.items():
                if moved := over_seeds(a, b, measure):
                    rates.append({"cell": cell, "measure": name} | moved.figures())
        others += _numbers_compared(cell, numbers[against], numbers[cell])
    for row, adjusted in zip(rates, holm([row["p_value"] for row in rates]), strict=True):
        row["p_adjusted"] = adjusted
        row["real"] = adjusted < LEVEL and row["every_seed_the_same_way"]
    return rates + others


def _numbers_compared(
    cell: str, a: Mapping[int, Mapping[str, float]], b: Mapping[int, Mapping[str, float]]
) -> list[dict[str, Any]]:
    rows = []
    seeds = sorted(a.keys() & b.keys())
    for name in (HELD_OUT, BASE_TEXT, VALIDATION, TRAINING):
        differences = [b[s][name] - a[s][name] for s in seeds if name in a[s] and name in b[s]]
        if not differences:
            continue
        mean, low, high = mean_interval(differences)
        rows.append(
            {
                "cell": cell, "measure": name, "difference": mean, "low": low, "high": high,
                "seeds": len(differences),
                "real": low is not None and high is not None and (low > 0 or high < 0),
            }
        )  # fmt: skip
    return rows
