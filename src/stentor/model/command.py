"""What `stentor merge` and `stentor info` do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from stentor.errors import ModelError
from stentor.model.find import resolve
from stentor.model.load import load
from stentor.model.save import save_model


def merge(source: str, out: Path, *, fp32: bool) -> Path:
    """Merge the adapter in a folder, or of a run's last phase, and save the model to `out`."""
    folder = Path(source)
    if (folder / "adapters").is_dir():
        phases = sorted((folder / "adapters").glob("phase-*"), key=lambda p: int(p.name[6:]))
        if not phases:
            raise ModelError(f"{source}: the run has no adapter yet")
        folder = phases[-1]
    elif (folder / "report.json").is_file() and (folder / "model").is_dir():
        raise ModelError(
            f"{source}: this run trained all weights, there is no adapter to merge; its model is "
            f"whole already, in {folder / 'model'}"
        )
    if not (folder / "adapter_config.json").is_file():
        raise ModelError(f"{source}: there is no adapter in it (no adapter_config.json)")
    loaded = load(str(folder))
    dtype = torch.float32 if fp32 else torch.float16
    generation = {k: v for k, v in loaded.generation.items() if not k.endswith("token_id")}
    save_model(loaded.model, loaded.tokenizer, out, dtype=dtype, generation=generation)
    return out


def info(name: str) -> dict[str, Any]:
    """What a model is, read from its folder; the weights are counted, not computed with."""
    place = resolve(name)
    loaded = load(name)
    config = loaded.model.config
    facts: dict[str, Any] = {
        "model": str(place),
        "parameters": sum(p.numel() for p in loaded.model.parameters()),
        "layers": config.num_hidden_layers,
        "hidden": config.hidden_size,
        "intermediate": config.intermediate_size,
        "heads": config.num_attention_heads,
        "window": config.max_position_embeddings,
        "vocabulary": config.vocab_size,
        "tied embeddings": config.tie_word_embeddings,
        "template": type(loaded.template).__name__,
        "stop tokens": sorted(loaded.template.stop_ids),
        "system prompt": loaded.generation.get("system"),
    }
    if isinstance(place, Path):
        files = [place] if place.is_file() else place.rglob("*")
        facts["size on disk"] = sum(f.stat().st_size for f in files if f.is_file())
        if (place / "adapter_config.json").is_file():
            adapter = json.loads((place / "adapter_config.json").read_text(encoding="utf-8"))
            facts["adapter"] = f"rank {adapter['r']} on {adapter['base_model_name_or_path']}"
        report = place.parent / "report.json"
        if report.is_file():
            facts["made by"] = json.loads(report.read_text(encoding="utf-8")).get(
                "name", "pretraining"
            )
    return facts
