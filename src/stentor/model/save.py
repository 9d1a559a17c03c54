"""Writing a model folder that `transformers` 4 and 5 load."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch

from stentor.errors import InputError
from stentor.model.quiet import quiet


def save_model(
    model: Any,
    tokenizer: Any,
    folder: Path,
    *,
    dtype: torch.dtype,
    generation: dict[str, Any] | None = None,
) -> None:
    """Write weights in `dtype`, configuration and tokenizer; the folder appears whole or not."""
    if folder.exists():
        raise InputError(f"{folder}: it exists already; give another folder or remove it")
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        with quiet():
            model.save_pretrained(
                temporary, state_dict=_converted(model, dtype), safe_serialization=True
            )
        for file in temporary.glob("*.safetensors"):  # which safetensors lets nobody else read
            shutil.copymode(temporary / "config.json", file)
        tokenizer.save_pretrained(temporary, save_jinja_files=False)
        _mend_configs(temporary, tokenizer, dtype, generation or {})
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _converted(model: Any, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """The weights in `dtype`; what shares memory still does, or a tied head is stored twice."""
    copies: dict[tuple[int, torch.Size], torch.Tensor] = {}
    converted = {}
    for name, tensor in model.state_dict().items():
        place = (tensor.data_ptr(), tensor.shape)
        if place not in copies:
            copies[place] = tensor.to(dtype).contiguous()
        converted[name] = copies[place]
    return converted


def _mend_configs(
    folder: Path, tokenizer: Any, dtype: torch.dtype, generation: dict[str, Any]
) -> None:
    config_file = folder / "config.json"
    config = json.loads(config_file.read_text(encoding="utf-8"))
    name = str(dtype).removeprefix("torch.")
    config["dtype"] = config["torch_dtype"] = name  # the names of versions 5 and 4
    if "rope_parameters" in config and "rope_theta" not in config:
        config["rope_theta"] = config["rope_parameters"].get("rope_theta", 10_000.0)
    config_file.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    settings_file = folder / "tokenizer_config.json"
    settings = json.loads(settings_file.read_text(encoding="utf-8"))
    if settings.get("tokenizer_class") == "TokenizersBackend":  # known to version 5 alone
        settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    # version 4 adds token_type_ids where this is not said, and Llama's generate refuses them
    settings["model_input_names"] = ["input_ids", "attention_mask"]
    for where_it_was_loaded_from in ("is_local", "local_files_only"):
        settings.pop(where_it_was_loaded_from, None)
    settings_file.write_text(
        json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    origin = Path(str(getattr(tokenizer, "name_or_path", "")))
    if (origin / "tokenizer.model").is_file():
        # llama.cpp's converter reads scores and types of pieces from it
        shutil.copyfile(origin / "tokenizer.model", folder / "tokenizer.model")
    decoding_file = folder / "generation_config.json"
    decoding = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": _stops(decoding_file, tokenizer.eos_token_id),
        "pad_token_id": tokenizer.pad_token_id,
        **generation,
    }
    decoding_file.write_text(
        json.dumps(decoding, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
    )


def _stops(decoding_file: Path, own: int | None) -> int | list[int] | None:
    """The tokenizer's stop token and the model's others: a chat template may end on either."""
    found: Any = None
    if decoding_file.is_file():
        found = json.loads(decoding_file.read_text(encoding="utf-8")).get("eos_token_id")
    stops = {own, *(found if isinstance(found, list) else [found])} - {None}
    return sorted(stops) if len(stops) > 1 else next(iter(stops), None)
