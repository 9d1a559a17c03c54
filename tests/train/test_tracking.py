"""`--track`: the figures of metrics.jsonl in a tracker."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from conftest import Command
from stentor.errors import InputError, MissingExtra
from stentor.train import tracking
from stentor.train.rundir import RunDir
from stentor.train.tracking import check


def test_every_step_of_a_run_reaches_tensorboard_and_its_energy_the_report(
    stentor: Command, tiny_recipe: Path
) -> None:
    pytest.importorskip("codecarbon")
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    done = stentor(
        "train", tiny_recipe, "--out", "run", "--track", "tensorboard", "--set",
        "train.energy=true", "--set", "train.cpu_watts=40", "--set", "train.region=DEU",
    )  # fmt: skip
    assert done.code == 0 and done.out == "run\n", done.err
    assert "codecarbon" not in done.err and "Warning" not in done.err
    lines = [json.loads(x) for x in Path("run/metrics.jsonl").read_text("utf-8").splitlines()]
    found = events.EventAccumulator("run/tensorboard").Reload()
    shown = [(e.step, e.value) for e in found.Scalars("train/loss")]
    assert shown == [(n, pytest.approx(m["loss"])) for n, m in enumerate(lines, start=1)]
    held_out = [e.value for e in found.Scalars("held_out/raw/seed")]
    assert held_out == [
        pytest.approx(m["evaluation"]["raw"]["sources"]["seed"])
        for m in lines if "evaluation" in m
    ]  # fmt: skip
    assert "probe/benign/answered" in found.Tags()["scalars"]
    energy = json.loads(Path("run/report.json").read_text("utf-8"))["energy"]
    assert energy["kwh"] > 0 and energy["region"] == "DEU"


class Listener:
    """A tracker that keeps what it is told."""

    name = "listener"

    def __init__(self) -> None:
        self.seen: list[dict[str, Any]] = []

    def store_init_configuration(self, values: dict[str, Any]) -> None: ...

    def log(self, values: dict[str, Any], step: int) -> None:
        self.seen.append(values)

    def finish(self) -> None: ...


def test_what_is_not_finite_is_not_told_to_a_tracker(monkeypatch: pytest.MonkeyPatch) -> None:
    listener = Listener()
    monkeypatch.setattr(tracking, "check", lambda names: None)
    monkeypatch.setattr(tracking, "_started", lambda name, run: listener)
    run = RunDir(Path())
    with tracking.Tracking(["listener"], run, {}):
        run.log(
            phase=1, step=0, loss=2.0, rate=0.1, gradient_norm=None, tokens=8, seconds=2.0,
            evaluation={"raw": {"loss": None, "sources": {"a": None, "b": 1.0}}},
        )  # fmt: skip
    assert listener.seen == [
        {"train/loss": 2.0, "train/rate": 0.1, "train/phase": 1, "train/tokens_per_second": 4.0,
         "held_out/raw/b": 1.0}
    ]  # fmt: skip


def test_a_run_without_track_writes_no_tracker_files(tiny_run: object) -> None:
    assert not list(Path(getattr(tiny_run, "path")).glob("tensorboard*"))  # noqa: B009


def test_a_tracker_that_is_not_there_is_one_line(
    stentor: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = stentor("train", "ci-tiny", "--out", "run", "--track", "tensorbord")
    assert (done.code, done.out) == (2, "") and not Path("run").exists()
    assert done.err == (
        "error: --track: there is no tracker 'tensorbord'; did you mean 'tensorboard'?\n"
    )
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"pip install 'stentor\[wandb\]'"):
        check(["wandb"])
    with pytest.raises(InputError):
        check(["mlflow"])
