"""`--track`: every step's figures to a tracker that people use, through accelerate's classes.

`metrics.jsonl` is always written; a tracker gets the same figures besides.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import sys
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any

from stentor.errors import InputError, MissingExtra, nearest
from stentor.train.rundir import RunDir

TRACKERS = ("tensorboard", "trackio", "wandb")
PROJECT = "stentor"


def check(names: Sequence[str]) -> None:
    """InputError for a tracker that is not one of `TRACKERS` or not installed."""
    for name in names:
        if name not in TRACKERS:
            raise InputError(f"--track: there is no tracker {name!r}{nearest(name, TRACKERS)}")
        if importlib.util.find_spec(name) is None:
            raise MissingExtra(name, name, f"--track {name}")


class Tracking:
    """The trackers of a run; they follow `RunDir.log` while this is entered."""

    def __init__(self, names: Sequence[str], run: RunDir, recipe: Mapping[str, Any]) -> None:
        check(names)
        self._run = run
        # a resumed run may take no step of its own
        self._step = len(run.metrics()) if names else 0
        self._trackers = [_started(name, run) for name in dict.fromkeys(names)]
        for tracker in self._trackers:
            tracker.store_init_configuration(dict(_flat(recipe)))

    def __enter__(self) -> Tracking:
        if self._trackers:
            self._run.followers.append(self.step)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for tracker in self._trackers:
            with contextlib.redirect_stdout(sys.stderr):
                tracker.finish()
            if tracker.name == "trackio":  # else it finishes again at exit, on standard output
                importlib.import_module("trackio.context_vars").current_run.set(None)

    def step(self, number: int, facts: Mapping[str, Any]) -> None:
        """A line of `metrics.jsonl`; `number` counts from 1 through all phases."""
        self._step = number
        values = {f"train/{n}": facts[n] for n in ("loss", "rate", "gradient_norm")}
        values["train/phase"] = facts["phase"]
        values["train/tokens_per_second"] = facts["tokens"] / max(facts["seconds"], 1e-9)
        for kind, found in facts.get("evaluation", {}).items():
            values[f"held_out/{kind}"] = found["loss"]
            values |= {f"held_out/{kind}/{n}": loss for n, loss in found["sources"].items()}
        # null: not finite
        self._log({name: value for name, value in values.items() if value is not None})

    def report(self, report: Mapping[str, Any]) -> None:
        """The rates of the probe, once, at the end."""
        greedy = report.get("probe", {}).get("greedy", {})
        rates = {
            f"probe/{kind}/{name}": figures["rate"]
            for kind in ("harmful", "benign") for name, figures in greedy.get(kind, {}).items()
            if figures["n"]
        }  # fmt: skip
        if rates:
            self._log(rates)

    def _log(self, values: dict[str, Any]) -> None:
        for tracker in self._trackers:
            tracker.log(values, step=self._step)


def _started(name: str, run: RunDir) -> Any:
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    kind = LOGGER_TYPE_TO_CLASS[name]
    settings: dict[str, Any] = {"name": run.path.name}
    if name == "wandb":  # a resumed run goes on in its own line
        place = str(run.path.resolve())
        settings |= {"id": hashlib.sha256(place.encode()).hexdigest()[:12], "resume": "allow"}
        settings["dir"] = str(run.path)
    try:
        if kind.requires_logging_directory:
            tracker = kind("", str(run.path / name))
        else:
            tracker = kind(PROJECT, **settings)
        with contextlib.redirect_stdout(sys.stderr):  # the path of the run stands there alone
            tracker.start()
    except Exception as error:  # a login that is missing, a server that does not answer
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        hint = "; WANDB_MODE=offline keeps the run on this machine" if name == "wandb" else ""
        raise InputError(f"--track {name}: it can't be started: {first}{hint}") from error
    return tracker


def _flat(node: Any, path: str = "") -> Iterator[tuple[str, str | int | float | bool]]:
    """(path, value) of the leaves of a recipe, as trackers show settings."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield from _flat(value, f"{path}.{key}" if path else str(key))
    elif isinstance(node, list | tuple):
        for number, value in enumerate(node):
            yield from _flat(value, f"{path}.{number}")
    elif node is not None:
        yield path, node
