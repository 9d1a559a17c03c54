"""`report.json` of a fine-tuning run: every figure that its card, plots and page show."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import platform
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from stentor import __version__
from stentor.data import mix, sources
from stentor.data.files import sha256, write_json
from stentor.data.mix import Prepared
from stentor.evaluate import loss as losses
from stentor.model.licence import licence_of
from stentor.model.load import LoadedModel
from stentor.recipe import Recipe
from stentor.train.device import Machine

REPORT_SCHEMA = 2
LIBRARIES = ("torch", "transformers", "peft", "accelerate", "tokenizers", "safetensors", "numpy")
OPTIONAL = ("datasets", "codecarbon", "bitsandbytes")
"""Libraries that a result depends on where they are installed."""
MACHINES = "machines.json"
"""In a run's folder: the machines that it was started on."""


def report(
    recipe: Recipe, data: Prepared, base: LoadedModel, machine: Machine,
    parameters: Mapping[str, Tensor], phases: Sequence[Mapping[str, Any]], *,
    before: Mapping[str, Any], after: Mapping[str, Any], probed: Mapping[str, Any] | None,
    model: Path,
) -> dict[str, Any]:  # fmt: skip
    """Everything but the energy; `before` and `after` are measurements of base and model."""
    trained = sum(p.numel() for p in parameters.values())
    frozen = sum(p.numel() for p in base.model.parameters() if not p.requires_grad)
    config, parts = base.model.config, list(recipe.data.sources.values())
    hub_id = (
        base.origin
        if base.origin == recipe.model.base
        and not Path(base.origin).exists()
        and "/" in base.origin
        else None
    )
    weights = weight_files(base.origin)
    found: dict[str, Any] = {
        "schema": REPORT_SCHEMA,
        "kind": "fine-tune",
        "name": recipe.name,
        "recipe": recipe.model_dump(mode="json"),
        "seed": recipe.seed,
        # random weights are named with their seed
        "base": base.origin if base.origin.startswith("preset:") else recipe.model.base,
        "base_sha256": joint_hash(weights),
        "base_bytes": sum(file.stat().st_size for file in weights) or None,
        "base_hub_id": hub_id,
        "base_revision": revision(hub_id),
        "hub_datasets": sorted(filter(None, {sources.hub_id(part) for part in parts})),
        "language": "en" if all(map(sources.is_known, parts)) else None,
        "licences": {
            "base": licence_of(recipe.model.base),
            "data": {name: sources.licence(part) for name, part in recipe.data.sources.items()},
        },
        "parameters": {
            "trained": trained, "total": trained if recipe.adapter is None else trained + frozen,
            "merged": sum(p.numel() for p in base.model.parameters() if p.requires_grad)
            if recipe.adapter is None else frozen,
        },
        "shape": {
            "layers": config.num_hidden_layers, "hidden": config.hidden_size,
            "window": base.window, "vocabulary": config.vocab_size,
        },
        "bytes": sum(f.stat().st_size for f in model.glob("*.safetensors")),
        "data": data_tree(data),
        "machine": machine.describe(),
        "machines": machines(model.parent),
        "versions": versions(),
        "finished": time.strftime("%Y-%m-%d"),
        "seconds": sum(p["seconds"] for p in phases),
        "tokens": sum(p["tokens"] for p in phases),
        "phases": [_with_rates(p) for p in phases],
        "evaluation": after["evaluation"],
        "base_text_loss": {"before": before["text_loss"], "after": after["text_loss"]},
        "before": {k: v for k, v in before.items() if k != "text_loss"},
    }  # fmt: skip
    return found if probed is None else found | {"probe": probed}


def weight_files(origin: str) -> list[Path]:
    """The files of a base's weights, all shards; none for random weights."""
    place = Path(origin) if Path(origin).exists() else _snapshot(origin)
    if place is None:
        return []
    return sorted(place.glob("*.safetensors")) if place.is_dir() else [place]


def joint_hash(files: Sequence[Path]) -> str | None:
    """The SHA-256 of a file; of several that of their list, as `sha256sum FILES | sha256sum` does.

    None where there is no file.
    """
    hashes = {file.name: sha256(file) for file in files}
    if len(hashes) > 1:
        listed = "".join(f"{found}  {name}\n" for name, found in hashes.items())
        return hashlib.sha256(listed.encode()).hexdigest()
    return next(iter(hashes.values()), None)


def _snapshot(hub_id: str) -> Path | None:
    """The folder in which huggingface_hub keeps a model that was loaded from the hub."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    with contextlib.suppress(HFValidationError):  # a preset is no name of a repository
        config = try_to_load_from_cache(hub_id, "config.json")
        if isinstance(config, str):
            return Path(config).parent
    return None


def revision(hub_id: str | None) -> str | None:
    """The commit of a hub base: its snapshot's folder is named by it."""
    folder = _snapshot(hub_id) if hub_id else None
    return folder.name if folder else None


def note_start(run: Path, machine: Machine) -> None:
    """Remember the machine in the run's folder: one entry for each start, the first one first."""
    entry = machine.describe() | {"started": time.strftime("%Y-%m-%d")}
    write_json(run / MACHINES, [*machines(run), entry])


def spoken_start(run: Path, machine: Machine) -> str:
    """The first line of a run: where it computes, and how it did until now if otherwise."""
    place = machine.describe()
    said = f"run {run} on {place['name']}, {place['device']} {place['precision']}"
    earlier = machines(run)
    if earlier and earlier[-1]["precision"] != place["precision"]:
        said += f" (until now {earlier[-1]['precision']}; train.precision keeps it)"
    return said


def machines(run: Path) -> list[dict[str, Any]]:
    """The machines that a run was started on; older versions remembered none."""
    file = run / MACHINES
    if not file.is_file():
        return []
    found: list[dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))
    return found


def evaluation(held_out: Mapping[str, losses.Loss]) -> dict[str, Any]:
    """The losses of a model overall and by source."""
    return {
        "overall": losses.total(held_out.values()).figures(),
        "sources": {name: loss.figures() for name, loss in held_out.items()},
    }


def data_tree(data: Prepared) -> dict[str, Any]:
    """What became of the rows of every source, and a hash of what is trained on."""
    return {
        name: {
            "read": tally.read,
            "train": len(data.train[name]),
            "held_out": len(data.held_out[name]),
            "left_out": dict(tally.left_out),
            "changed": dict(tally.changed),
            "hash": mix.content_hash(data.train[name]),
        }
        for name, tally in data.tallies.items()
    }


def versions() -> dict[str, str]:
    """Of Python, stentor and the libraries that a result depends on."""
    found = {"stentor": __version__, "python": platform.python_version()}
    found |= {name: importlib.metadata.version(name) for name in LIBRARIES}
    for name in OPTIONAL:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def _with_rates(phase: Mapping[str, Any]) -> dict[str, Any]:
    seconds = phase["seconds"]
    rates = {
        "tokens_per_second": phase["tokens"] / seconds if seconds else None,
        "examples_per_second": phase["examples"] / seconds if seconds else None,
    }
    return dict(phase) | rates
