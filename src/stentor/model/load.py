"""Finding and loading a model: a folder, a run, an adapter, a hub id, a GGUF file, a name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from stentor.chat import JINJA, OwnTemplate, SegmentTemplate, Template, template_for
from stentor.errors import ModelError
from stentor.model import tokenizer as tokenizers
from stentor.model.find import check_hash, generation_of, read_json, resolve
from stentor.model.presets import preset
from stentor.model.quiet import quiet


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to use, with its tokenizer, template and generation settings."""

    model: Any
    tokenizer: Any
    template: Template
    origin: str
    """Where it was loaded from."""
    generation: dict[str, Any]
    """Decoding defaults saved with it; `system` is the model's system prompt."""

    @property
    def window(self) -> int:
        return int(self.model.config.max_position_embeddings)


def load(
    name: str, *, template: str = "auto", dtype: torch.dtype = torch.float32, seed: int = 0
) -> LoadedModel:
    """Load a model for training or generation, in evaluation mode, on the CPU."""
    place = resolve(name)
    if isinstance(place, str) and place.startswith("preset:"):
        return _fresh(place, seed)
    if isinstance(place, Path) and place.is_dir():
        if (place / "adapter_config.json").is_file():
            return _with_adapter(place, template, dtype)
        check_hash(place)
    model, tokenizer, generation = _transformers(place, dtype)
    return LoadedModel(
        model.eval(), tokenizer, _template(tokenizer, template, model), str(place), generation
    )


def _fresh(name: str, seed: int) -> LoadedModel:
    """Random weights; `preset:NAME@SEED` names them once and for all, as an adapter must."""
    from transformers import LlamaForCausalLM

    shape, _, own_seed = name.removeprefix("preset:").partition("@")
    if own_seed and not own_seed.isdecimal():
        raise ModelError(f"{name}: the seed after @ must be a whole number")
    seed = int(own_seed or seed)
    torch.manual_seed(seed)
    model = LlamaForCausalLM(preset(shape).config()).eval()
    tokenizer = tokenizers.bundled()
    origin = f"preset:{shape}@{seed}"
    return LoadedModel(model, tokenizer, SegmentTemplate(tokenizer), origin, {})


def _with_adapter(folder: Path, template: str, dtype: torch.dtype) -> LoadedModel:
    """The base that an adapter names, with the adapter merged in fp32."""
    from stentor.model.adapters import TEMPLATE_NOTE, merge_adapter

    config = read_json(folder / "adapter_config.json")
    base_name = config.get("base_model_name_or_path")
    if not base_name:
        raise ModelError(f"{folder}: the adapter does not say which base it belongs to")
    noted = folder / TEMPLATE_NOTE
    if noted.is_file():
        template = noted.read_text(encoding="utf-8").strip()
    base = load(base_name, template=template, dtype=torch.float32)
    merged = merge_adapter(base.model, folder)
    for parameter in merged.parameters():  # not the rotary frequencies, which stay in fp32
        parameter.data = parameter.data.to(dtype)
    generation = base.generation | generation_of(folder)
    return LoadedModel(merged.eval(), base.tokenizer, base.template, str(folder), generation)


def _transformers(place: Path | str, dtype: torch.dtype) -> tuple[Any, Any, dict[str, Any]]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    gguf_file = None
    source: Path | str = place
    if isinstance(place, Path) and place.suffix == ".gguf":
        source, gguf_file = place.parent, place.name
    options: dict[str, Any] = {"gguf_file": gguf_file} if gguf_file else {}
    try:
        with quiet():
            model = AutoModelForCausalLM.from_pretrained(
                source, dtype=dtype, use_safetensors=None if gguf_file else True,
                trust_remote_code=False, **options,
            )  # fmt: skip
        if isinstance(place, Path) and place.is_dir():
            tokenizer = tokenizers.load(place)
        else:
            tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False, **options)
    except ModelError:
        raise
    except Exception as error:  # transformers raises many kinds for a bad folder or no network
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if isinstance(place, str):
            first = f"there is no such folder, and the hub did not give it: {first}"
        raise ModelError(f"{place}: the model can't be loaded: {first}") from error
    _check_kind(place, model.config, tokenizer)
    if gguf_file:
        _forget_quantisation(model)
    generation = generation_of(place) if isinstance(place, Path) and place.is_dir() else {}
    return model, tokenizer, generation


def _check_kind(place: Path | str, config: Any, tokenizer: Any) -> None:
    """ModelError for what our forward pass and decoder would get wrong."""
    kind = config.model_type
    if kind == "llama" and config.hidden_act not in ("silu", "swish"):
        kind = f"Llama-like {config.hidden_act}"
    elif kind == "llama" and (config.attention_bias or config.mlp_bias):
        kind = "Llama-like biased"
    if kind != "llama":
        raise ModelError(f"{place}: it is a {kind} model; stentor works on Llama-shaped ones")
    if tokenizers.is_bundled(tokenizer) and config.vocab_size != len(tokenizer):
        raise ModelError(
            f"{place}: there is no tokenizer.json or tokenizer.model in it, and ours does not fit "
            f"its vocabulary of {config.vocab_size:,}; add its own"
        )


def _forget_quantisation(model: Any) -> None:
    """After reading a GGUF file the weights are plain; transformers would refuse to save them."""
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.hf_quantizer = None
    model.is_quantized = False
    model.quantization_method = None


def _template(tokenizer: Any, wanted: str, model: Any) -> Template:
    stops = model.generation_config.eos_token_id if model.generation_config else None
    ids = [stops] if isinstance(stops, int) else list(stops or [])
    if wanted == "stentor":
        if not tokenizers.is_ours(tokenizer):
            tokenizers.put_on(tokenizer, JINJA)
            # The new rows are drawn from the spread of the old ones. Under LoRA they stay as
            # they are: fixed vectors, which the adapter learns to read.
            torch.manual_seed(0)
            with quiet():
                model.resize_token_embeddings(len(tokenizer), mean_resizing=True)
        return SegmentTemplate(tokenizer)
    if wanted == "own":
        return OwnTemplate(tokenizer, ids)
    return template_for(tokenizer, stop_ids=ids)
