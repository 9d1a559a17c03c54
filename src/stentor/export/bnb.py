"""`bnb`: bitsandbytes, 8 bit (LLM.int8) and 4 bit (nf4, double quantisation).

bitsandbytes quantises the linear layers and leaves the embedding, which the head shares, in 16
bit: for a model that is mostly embedding that is most of the file. Tying is kept: quantising
the head as well fails in transformers.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from stentor.errors import MissingExtra
from stentor.export.chat_files import stamp_safetensors, write_model_folder
from stentor.export.format import Provenance, Runtime


def write(loaded: Any, folder: Path, kind: str, provenance: Provenance) -> list[str]:
    """The quantised weights, which need bitsandbytes to load, with configuration and tokenizer."""
    import json

    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    from stentor.model.quiet import quiet

    settings = BitsAndBytesConfig(
        **(
            {"load_in_8bit": True}
            if kind == "8bit"
            else {
                "load_in_4bit": True,
                "bnb_4bit_quant_type": "nf4",
                "bnb_4bit_use_double_quant": True,
                "bnb_4bit_compute_dtype": torch.float32,
            }
        )
    )
    with tempfile.TemporaryDirectory(dir=folder) as plain, quiet():
        write_model_folder(loaded, Path(plain), "f16", provenance)
        model = AutoModelForCausalLM.from_pretrained(
            plain, quantization_config=settings, dtype=torch.float16, device_map="cpu"
        )
        model.save_pretrained(folder)
        footprint = model.get_memory_footprint()
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        for file in Path(plain).iterdir():
            if file.name not in ("model.safetensors", "config.json"):
                file.rename(folder / file.name)
    config["torch_dtype"] = "float16"
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    stamp_safetensors(folder / "model.safetensors", provenance)
    embedding = 2 * loaded.model.get_input_embeddings().weight.numel()
    return [
        f"{footprint / 1e6:.1f} MB of weights, of which {embedding / 1e6:.1f} MB are the "
        "embedding in 16 bit; gguf, onnx and litert quantise it too"
    ]


def open_runtime(folder: Path, kind: str, *, threads: int = 0) -> Runtime:
    """transformers with bitsandbytes, on the CPU."""
    try:
        import bitsandbytes
    except ImportError:
        raise MissingExtra("bitsandbytes", "bnb", "running a bnb copy") from None
    from stentor.export.torch_runtime import TorchRuntime

    return TorchRuntime(folder, threads, f" + bitsandbytes {bitsandbytes.__version__}")
