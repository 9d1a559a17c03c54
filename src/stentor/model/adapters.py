"""LoRA adapters through PEFT, and merging them."""

from __future__ import annotations

import contextlib
import copy
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from stentor.data.files import write_json
from stentor.errors import ModelError
from stentor.recipe import AdapterPart

TEMPLATE_NOTE = "template.txt"
"""In an adapter's folder: which template its base was loaded with."""


def attach(model: Any, part: AdapterPart, base_name: str, *, seed: int) -> Any:
    """`model` inside a PEFT model with a fresh adapter (B is zero: it changes nothing yet)."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    config = LoraConfig(
        r=part.rank,
        lora_alpha=part.alpha,
        use_rslora=part.rslora,
        target_modules=list(part.targets),
        lora_dropout=0.0,
        bias="none",
        task_type="CAUSAL_LM",
        base_model_name_or_path=base_name,
    )
    model.name_or_path = base_name  # what PEFT writes into the adapter's configuration
    with _quiet_rename():
        return get_peft_model(model, config)


@contextlib.contextmanager
def _quiet_rename() -> Iterator[None]:
    """PEFT asks a transformers model for a property that was renamed; nobody can help that."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*")
        yield


def set_dropout(model: Any, rate: float) -> None:
    """The adapter's dropout; phases of one curriculum may differ in it."""
    for module in model.modules():
        for name, layer in getattr(module, "lora_dropout", {}).items():
            if isinstance(layer, torch.nn.Dropout):
                layer.p = rate
            elif rate:  # PEFT made an Identity because the configuration said 0
                module.lora_dropout[name] = torch.nn.Dropout(rate).train(layer.training)


def save(adapted: Any, folder: Path, template: str, generation: Mapping[str, Any]) -> None:
    """Write the adapter alone, in PEFT's format.

    Beside it: which template its base was loaded with, and its generation settings, so that
    `stentor merge` gives the same model as the run.
    """
    # the vocabulary never changes under an adapter, so PEFT need not look the base up
    adapted.save_pretrained(str(folder), save_embedding_layers=False)
    (folder / TEMPLATE_NOTE).write_text(template + "\n", encoding="utf-8")
    write_json(folder / "generation_config.json", dict(generation))


def merged_copy(adapted: Any) -> Any:
    """The base with the adapter merged into it, in fp32; `adapted` stays as it is."""
    duplicate = copy.deepcopy(adapted)
    duplicate.float()
    # safe_merge refuses to write a weight that is not finite
    return duplicate.merge_and_unload(safe_merge=True)


def merge_adapter(base: Any, folder: Path) -> Any:
    """Merge the adapter in `folder` into `base`, in fp32."""
    from peft import PeftModel

    try:
        with _quiet_rename():
            adapted = PeftModel.from_pretrained(base.float(), folder)
        return adapted.merge_and_unload(safe_merge=True)
    except Exception as error:  # PEFT and safetensors raise many kinds for a damaged folder
        raise ModelError(f"{folder}: the adapter can't be merged: {error}") from error
