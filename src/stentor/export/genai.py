"""`genai`: the layout of onnxruntime-genai, a folder with `genai_config.json`.

The graph is the one of `onnx`: genai takes any whose inputs and outputs its configuration names,
so the tied embedding is stored once here too, and quantised, which genai's own model builder
does not do at 8 bit.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from stentor.errors import MissingExtra
from stentor.export.chat_files import write_model_folder
from stentor.export.format import Floats, Message, Provenance, Runtime

_FILE = "model.onnx"


def write(loaded: Any, folder: Path, kind: str, provenance: Provenance) -> list[str]:
    """`model.onnx`, `genai_config.json`, tokenizer."""
    from stentor.data.files import write_json
    from stentor.export.onnx import draw, stamped

    write_model_folder(loaded, folder, "f16", provenance, weights=False)
    size = stamped(draw(loaded.model, kind), folder / _FILE, provenance)
    write_json(folder / "genai_config.json", _config(loaded))
    return [f"{_FILE} holds {size / 1e6:.1f} MB"]


def _config(loaded: Any) -> dict[str, Any]:
    from stentor.generate.sampling import from_generation

    config, tokenizer = loaded.model.config, loaded.tokenizer
    heads = config.num_attention_heads
    decoding = from_generation(loaded.generation)
    return {
        "model": {
            "type": "llama",
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": sorted(loaded.template.stop_ids),
            "pad_token_id": tokenizer.pad_token_id,
            "context_length": loaded.window,
            "vocab_size": config.vocab_size,
            "decoder": {
                "session_options": {"log_id": "onnxruntime-genai", "provider_options": []},
                "filename": _FILE,
                "head_size": getattr(config, "head_dim", None) or config.hidden_size // heads,
                "hidden_size": config.hidden_size,
                "num_attention_heads": heads,
                "num_hidden_layers": config.num_hidden_layers,
                "num_key_value_heads": config.num_key_value_heads,
                "inputs": {
                    "input_ids": "input_ids",
                    "attention_mask": "attention_mask",
                    "position_ids": "position_ids",
                    "past_key_names": "past_key_values.%d.key",
                    "past_value_names": "past_key_values.%d.value",
                },
                "outputs": {
                    "logits": "logits",
                    "present_key_names": "present.%d.key",
                    "present_value_names": "present.%d.value",
                },
            },
        },
        "search": {
            "do_sample": decoding.temperature > 0,
            "temperature": decoding.temperature or 1.0,
            "top_p": decoding.top_p,
            "top_k": 0,
            "repetition_penalty": decoding.repetition_penalty,
            "max_length": loaded.window,
            "num_beams": 1,
            "num_return_sequences": 1,
            "past_present_share_buffer": False,
        },
    }


def open_runtime(folder: Path, kind: str, *, threads: int = 0) -> Runtime:
    """onnxruntime-genai, on the CPU."""
    return GenaiRuntime(folder, threads)


class GenaiRuntime:
    """A folder in onnxruntime-genai, one sequence at a time, with its own tokenizer."""

    def __init__(self, folder: Path, threads: int) -> None:
        try:
            import onnxruntime_genai
        except ImportError:
            raise MissingExtra("onnxruntime-genai", "genai", "running a genai copy") from None
        self._genai = onnxruntime_genai
        self.name = f"onnxruntime-genai {version('onnxruntime-genai')}"
        config = onnxruntime_genai.Config(str(folder))
        if threads:
            session = {"intra_op_num_threads": threads}
            config.overlay(json.dumps({"model": {"decoder": {"session_options": session}}}))
        self._model = onnxruntime_genai.Model(config)
        self._tokenizer: Any = None
        told = json.loads((folder / "genai_config.json").read_text("utf-8"))
        self._window = int(told["model"]["context_length"])

    def ids(self, messages: Sequence[Message]) -> list[int]:
        """The template and the tokenizer of genai itself; control pieces are parsed."""
        self._tokenizer = self._tokenizer or self._genai.Tokenizer(self._model)
        text = self._tokenizer.apply_chat_template(
            json.dumps(list(messages), ensure_ascii=False), add_generation_prompt=False
        )
        return [int(i) for i in self._tokenizer.encode(text)]

    def _started(self, ids: Sequence[int], count: int) -> Any:
        settings = self._genai.GeneratorParams(self._model)
        settings.set_search_options(
            max_length=min(len(ids) + count, self._window), do_sample=False, repetition_penalty=1.0
        )
        generator = self._genai.Generator(self._model, settings)
        generator.append_tokens(np.array(ids, np.int32))
        return generator

    def logits(self, ids: Sequence[int]) -> Floats:
        found = self._started(ids, 1).get_output("logits")
        return np.array(found[0], np.float32)

    def greedy(self, prompts: Sequence[Sequence[int]], count: int) -> list[list[int]]:
        return [self._reply(prompt, count) for prompt in prompts]

    def _reply(self, prompt: Sequence[int], count: int) -> list[int]:
        generator, reply = self._started(prompt, count), list[int]()
        while len(reply) < count and not generator.is_done():
            generator.generate_next_token()
            reply.append(int(generator.get_next_tokens()[0]))
        return reply

    def close(self) -> None:
        del self._model
