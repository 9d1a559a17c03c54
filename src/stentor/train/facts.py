"""`report.json` of a fine-tuning run: every figure that its card, plots and page show."""

from __future__ import annotations

import importlib.metadata
import platform
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from stentor import __version__
from stentor.data import mix, sources
from stentor.data.files import sha256
from stentor.data.mix import Prepared
from stentor.evaluate import loss as losses
from stentor.model.licence import licence_of
from stentor.model.load import LoadedModel
from stentor.recipe import Recipe
from stentor.train.device import Machine

REPORT_SCHEMA = 2
LIBRARIES = ("torch", "transformers", "peft", "accelerate", "tokenizers", "safetensors", "numpy")


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
    found: dict[str, Any] = {
        "schema": REPORT_SCHEMA,
        "kind": "fine-tune",
        "name": recipe.name,
        "recipe": recipe.model_dump(mode="json"),
        "seed": recipe.seed,
        # random weights are named with their seed
        "base": base.origin if base.origin.startswith("preset:") else recipe.model.base,
        "base_sha256": base_hash(base.origin),
        "base_hub_id": base.origin if base.origin == recipe.model.base
        and not Path(base.origin).exists() and "/" in base.origin else None,
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


def base_hash(origin: str) -> str | None:
    """The SHA-256 of a base's weights on this machine; None for what comes from elsewhere."""
    place = Path(origin)
    files = sorted(place.glob("*.safetensors")) if place.is_dir() else [place]
    return sha256(files[0]) if len(files) == 1 and files[0].is_file() else None


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
    return found | {name: importlib.metadata.version(name) for name in LIBRARIES}


def _with_rates(phase: Mapping[str, Any]) -> dict[str, Any]:
    seconds = phase["seconds"]
    rates = {
        "tokens_per_second": phase["tokens"] / seconds if seconds else None,
        "examples_per_second": phase["examples"] / seconds if seconds else None,
    }
    return dict(phase) | rates
