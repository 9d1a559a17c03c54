"""What an export found out stands in the report, card and plots of the run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from conftest import Run
from stentor.data.files import sha256
from stentor.report.exports import record


@pytest.fixture
def run(tiny_run: Run) -> Path:
    shutil.copytree(tiny_run.path, "run", ignore=shutil.ignore_patterns("checkpoints", "adapters"))
    return Path("run")


def told(run: Path, *copies: tuple[str, int, float]) -> dict[str, Any]:
    """An `export.json` with copies of (name, bytes, perplexity)."""
    return {
        "source_sha256": sha256(run / "model" / "model.safetensors"),
        "copies": [
            {
                "copy": name, "verdict": "passed", "folder": name, "files": {"a": size},
                "bytes": size, "notes": (), "warnings": (), "failures": (), "unverified": None,
                "seconds": 1.0,
                "parity": {
                    "runtime": "r", "kl": 1e-4, "perplexity": perplexity, "scored": 10,
                    "reference_perplexity": 20.0, "rise": 5 * (perplexity - 20.0),
                    "rise_interval": [0, 1], "greedy_equal": 7, "prompts": 8, "probe": 3,
                    "probe_changed": [], "partings": [], "control": 8, "control_obeyed": ["a", "b"],
                },
                "speed": {"load_seconds": 0.1, "memory_bytes": 1e6, "tokens_per_second": 512.4},
            }
            for name, size, perplexity in copies
        ],
    }  # fmt: skip


def test_copies_stand_in_report_card_and_plot(run: Path) -> None:
    assert record(str(run), told(run, ("gguf:q8_0", 13_600_000, 20.1))) == run
    found = json.loads((run / "report.json").read_text(encoding="utf-8"))["exports"]["copies"]
    assert [c["copy"] for c in found] == ["gguf:q8_0"]
    card = (run / "README.md").read_text(encoding="utf-8")
    assert "| gguf:q8_0 | 13.6 | 1.0e-04 | 20.1 (+0.50 %) | 7/8 | 512 | passed |" in card
    assert "| passed | 2/8 |" in card and "| spelled control pieces obeyed |" in card
    assert "gguf:q8_0" in (run / "plots" / "exports.svg").read_text(encoding="utf-8")
    assert "## Copies" not in card.split("## Plots")[1] and "plots/exports.png" in card
    assert "gguf:q8_0" in (run / "report.html").read_text(encoding="utf-8")


def test_a_copy_made_again_takes_the_place_of_the_old_one(run: Path) -> None:
    record(str(run / "model"), told(run, ("onnx", 48_000_000, 20.0), ("gguf:q4_0", 7_500_000, 22)))
    record(str(run), told(run, ("gguf:q4_0", 7_600_000, 21)))
    found = json.loads((run / "report.json").read_text(encoding="utf-8"))["exports"]["copies"]
    assert [(c["copy"], c["bytes"]) for c in found] == [
        ("onnx", 48_000_000), ("gguf:q4_0", 7_600_000),
    ]  # fmt: skip


def test_copies_of_other_weights_or_of_no_run_are_not_recorded(run: Path) -> None:
    before = (run / "report.json").read_bytes()
    other = told(run, ("onnx", 1, 20.0)) | {"source_sha256": "0" * 64}
    assert record(str(run), other) is None
    assert record("stentor-12m", told(run, ("onnx", 1, 20.0))) is None
    assert (run / "report.json").read_bytes() == before


@pytest.mark.parametrize("other", [{"kind": "pretrain"}, {"schema": 1}])
def test_a_report_that_has_no_place_for_copies_stays_as_it_is(
    run: Path, other: dict[str, Any]
) -> None:
    file = run / "report.json"
    file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | other))
    before = file.read_bytes()
    assert record(str(run), told(run, ("onnx", 1, 20.0))) is None
    assert file.read_bytes() == before
