"""Checkpoints: everything a run needs to go on, in safetensors and JSON, never pickle.

A checkpoint is a folder `NUMBER-PHASE-STEP` with `state.safetensors` (weights, optimiser,
moving average, best weights so far) and `state.json` (where the run stands, the recipe's
fingerprint, the hash of the tensors). It is written under another name, synced and renamed, so a
kill at any moment leaves either a whole checkpoint or none. Random numbers and the sampler need
no saving: both are functions of seed, phase and step.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from stentor.data.files import sha256
from stentor.errors import CheckpointError, TrainingError

_FORMAT = 1


@dataclass(frozen=True)
class Checkpoint:
    """`phase` and `step`: the next step to take; `facts`: anything else that JSON can hold."""

    phase: int
    step: int
    tensors: dict[str, Tensor]
    facts: dict[str, Any]


def write(folder: Path, checkpoint: Checkpoint, fingerprint: str, *, keep: int) -> Path:
    """Write a checkpoint into `folder`, then delete all but the newest `keep`."""
    final = folder / f"{checkpoint.phase:02d}-{checkpoint.step:07d}"
    folder.mkdir(parents=True, exist_ok=True)
    for left_over in folder.glob(".writing-*"):
        shutil.rmtree(left_over)
    if final.exists():
        return final
    temporary = folder / f".writing-{final.name}"
    temporary.mkdir()
    tensors = {name: t.detach().contiguous().cpu() for name, t in checkpoint.tensors.items()}
    try:
        save_file(tensors, temporary / "state.safetensors")
    except SafetensorError as error:
        raise TrainingError(
            f"{final}: the checkpoint can't be written: {error}; make room on the disk and go on "
            "with --resume"
        ) from None
    facts = {
        "format": _FORMAT,
        "fingerprint": fingerprint,
        "phase": checkpoint.phase,
        "step": checkpoint.step,
        "sha256": sha256(temporary / "state.safetensors"),
        "facts": checkpoint.facts,
    }
    (temporary / "state.json").write_text(json.dumps(facts), encoding="utf-8")
    for name in ("state.safetensors", "state.json"):
        _sync(temporary / name)
    temporary.rename(final)
    _sync(folder)
    for old in existing(folder)[:-keep]:
        gone = folder / f".writing-{old.name}"  # else a kill could leave it without its tensors
        old.rename(gone)
        shutil.rmtree(gone)
    return final


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def existing(folder: Path) -> list[Path]:
    """The checkpoints in a folder, oldest first."""
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def newest(folder: Path, fingerprint: str) -> Checkpoint | None:
    """The last checkpoint, or None where there is none yet."""
    found = existing(folder)
    return read(found[-1], fingerprint) if found else None


def read(path: Path, fingerprint: str | None) -> Checkpoint:
    """Read a checkpoint; CheckpointError when it is damaged or of another run."""
    remedy = f"delete {path} to go on from the one before it, or start a new run"
    try:
        facts = json.loads((path / "state.json").read_text(encoding="utf-8"))
        whole = sha256(path / "state.safetensors") == facts["sha256"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: the checkpoint is damaged ({error}); {remedy}") from None
    if not whole:
        raise CheckpointError(
            f"{path}: the checkpoint is damaged (its tensors don't match their hash); {remedy}"
        )
    if facts.get("format") != _FORMAT:
        raise CheckpointError(
            f"{path}: the checkpoint has format {facts.get('format')!r}, this version of stentor "
            f"reads {_FORMAT}; resume with the version that wrote it, or start a new run"
        )
    if fingerprint is not None and facts["fingerprint"] != fingerprint:
        raise CheckpointError(
            f"{path}: the checkpoint belongs to a run with another recipe, base or data; resume "
            "with the recipe.yaml in the run's folder and unchanged data, or start a new run"
        )
    try:
        tensors = load_file(path / "state.safetensors")
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: the checkpoint is damaged ({error}); {remedy}") from None
    return Checkpoint(facts["phase"], facts["step"], tensors, facts["facts"])


def optimiser_tensors(
    optimisers: list[torch.optim.Optimizer], names: Mapping[Tensor, str]
) -> dict[str, Tensor]:
    """The tensors in the state of optimisers, by name."""
    return {
        f"optimiser/{name}": value
        for name, value in _state(optimisers, names)
        if isinstance(value, Tensor)
    }


def optimiser_facts(
    optimisers: list[torch.optim.Optimizer], names: Mapping[Tensor, str]
) -> dict[str, Any]:
    """The rest of their state, for JSON: which optimisers they are, and the plain numbers.

    bitsandbytes counts its steps in a Python number, and takes no tensor for it.
    """
    numbers = {n: v for n, v in _state(optimisers, names) if not isinstance(v, Tensor)}
    return {"kinds": _kinds(optimisers), "numbers": numbers}


def _state(
    optimisers: list[torch.optim.Optimizer], names: Mapping[Tensor, str]
) -> Iterator[tuple[str, Any]]:
    for optimiser in optimisers:
        for parameter, state in optimiser.state.items():
            for key, value in state.items():
                yield f"{names[parameter]}/{key}", value


def _kinds(optimisers: list[torch.optim.Optimizer]) -> list[str]:
    return [type(optimiser).__name__ for optimiser in optimisers]


def restore_optimisers(
    optimisers: list[torch.optim.Optimizer],
    parameters: Mapping[str, Tensor],
    tensors: Mapping[str, Tensor],
    facts: Mapping[str, Any],
) -> None:
    """Put named tensors, and what `optimiser_facts` gave, into freshly built optimisers.

    Checkpoints from before there were such facts have none ({}); CheckpointError where the state
    is that of other optimisers.
    """
    here = _kinds(optimisers)
    if (there := facts.get("kinds", here)) != here:
        raise CheckpointError(
            f"the checkpoint holds the state of {', '.join(there)}, and here there is "
            f"{', '.join(here)}; resume where the run was begun (paged AdamW needs a CUDA GPU and "
            "the package bitsandbytes), or start a new run"
        )
    held: dict[str, Any] = {
        name.removeprefix("optimiser/"): tensor
        for name, tensor in tensors.items()
        if name.startswith("optimiser/")
    }
    found: dict[str, dict[str, Any]] = {}
    for name, value in (held | facts.get("numbers", {})).items():
        parameter, key = name.rsplit("/", 1)
        found.setdefault(parameter, {})[key] = value
    for optimiser in optimisers:
        for group in optimiser.param_groups:
            for parameter in group["params"]:
                name = next(n for n, p in parameters.items() if p is parameter)
                for key, value in found.get(name, {}).items():
                    if not isinstance(value, Tensor):
                        optimiser.state[parameter][key] = value
                        continue
                    # step counters stay where AdamW makes them, on the CPU
                    stays = key == "step" and not group.get("fused")
                    place = value.device if stays else parameter.device
                    optimiser.state[parameter][key] = value.to(place).clone()
