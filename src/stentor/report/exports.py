"""What `stentor export` found out about a run's model, kept in the run's own report."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stentor.data.files import sha256, write_json
from stentor.errors import InputError
from stentor.report.card import read_report, rewrite

_KEPT = ("copy", "verdict", "files", "bytes", "notes", "warnings", "parity", "speed")
_PARITY = ("runtime", "kl", "perplexity", "reference_perplexity", "rise", "rise_interval",
           "scored", "control", "control_obeyed", "greedy_equal", "prompts", "probe",
           "probe_changed")  # fmt: skip


def record(model: str, told: Mapping[str, Any]) -> Path | None:
    """Add the copies of an export (`export.json`) to the report of the run that `model` is.

    A copy made again takes the old one's place. Returns the run, its card and page written
    again; None where `model` is no finished run of fine-tuning, is another version's, or has other
    weights than those exported.
    """
    run = Path(model)
    run = run.parent if run.name == "model" else run
    weights = run / "model" / "model.safetensors"
    if not ((run / "report.json").is_file() and weights.is_file()):
        return None
    if sha256(weights) != told["source_sha256"]:
        return None
    try:
        report = read_report(run)
    except InputError:  # of pretraining, or another version's: it has no place for them
        return None
    earlier = report.get("exports", {})
    same = earlier.get("source_sha256") == told["source_sha256"]
    copies = {c["copy"]: c for c in earlier.get("copies", [])} if same else {}
    copies |= {c["copy"]: _short(c) for c in told["copies"]}
    report["exports"] = {
        "source_sha256": told["source_sha256"], "copies": list(copies.values()),
    }  # fmt: skip
    write_json(run / "report.json", report)
    rewrite(run)
    return run


def _short(copy: Mapping[str, Any]) -> dict[str, Any]:
    kept = {name: copy[name] for name in _KEPT}
    parity = copy["parity"]
    kept["parity"] = {name: parity[name] for name in _PARITY} if parity else None
    return kept
