"""llama.cpp as the runtime of a GGUF file, through the prebuilt wheel `cyllama`."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from stentor.errors import MissingExtra
from stentor.export.format import Floats, Message
from stentor.generate.onnx_backend import threads as available_threads

_WINDOW = 512


def module() -> Any:
    """cyllama's binding, quiet; MissingExtra when it is not installed."""
    try:
        from cyllama.llama import llama_cpp
    except ImportError:
        raise MissingExtra("cyllama", "llamacpp", "running llama.cpp") from None
    llama_cpp.disable_logging()  # it tells its whole life on standard error
    return llama_cpp


def plain_jinja(template: str) -> str:
    """A template without the tags that mark the reply for training: no part of Jinja proper.

    llama.cpp passes over them; the Jinja of Python does not.
    """
    for tag in ("{%- generation -%}", "{%- endgeneration -%}"):
        template = template.replace(tag, "")
    return template


class LlamaCppRuntime:
    """A GGUF file in llama.cpp, on the CPU, one sequence at a time."""

    def __init__(self, file: Path, threads: int) -> None:
        self._cy = module()
        self.name = f"llama.cpp (cyllama {version('cyllama')})"
        settings = self._cy.LlamaModelParams()
        settings.n_gpu_layers = 0

        class Model(self._cy.LlamaModel):  # type: ignore[misc, name-defined]
            """cyllama 0.2.18 reads logits through an attribute that its model lacks."""

            n_vocab = 0

        self._model = Model(str(file), settings)
        self._vocab = self._model.get_vocab()
        self._model.n_vocab = self._vocab.n_vocab
        context = self._cy.LlamaContextParams()
        context.n_ctx = context.n_batch = context.n_ubatch = _WINDOW
        # its own default are four threads, which on fewer cores wait for each other for ever
        context.n_threads = context.n_threads_batch = threads or available_threads()
        self._context = self._cy.LlamaContext(self._model, context)
        self._likeliest = self._cy.LlamaSampler(self._cy.LlamaSamplerChainParams())
        self._likeliest.add_greedy()

    def ids(self, messages: Sequence[Message]) -> list[int]:
        """The file's own template through Jinja, then llama.cpp's tokenizer.

        That is how llama.cpp's server and llama-cpp-python do it: control pieces in the
        rendered text are parsed, wherever they came from.
        """
        import jinja2.sandbox

        environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True
        )
        stored = self._model.meta_val_str("tokenizer.chat_template")
        template = environment.from_string(plain_jinja(stored))
        text = template.render(
            messages=list(messages), bos_token="<s>", eos_token="</s>",
            add_generation_prompt=False,
        )  # fmt: skip
        return [int(i) for i in self._vocab.tokenize(text, False, True)]

    def logits(self, ids: Sequence[int]) -> Floats:
        self._context.kv_cache_clear()
        self._decode(ids, 0, every=True)
        rows = [self._context.get_logits_ith(place) for place in range(len(ids))]
        return np.asarray(rows, dtype=np.float32)

    def greedy(self, prompts: Sequence[Sequence[int]], count: int) -> list[list[int]]:
        return [self._reply(prompt, count) for prompt in prompts]

    def _reply(self, prompt: Sequence[int], count: int) -> list[int]:
        self._context.kv_cache_clear()
        reply: list[int] = []
        new, place = list(prompt), 0
        while len(reply) < count and place + len(new) <= _WINDOW:
            self._decode(new, place, every=False)
            place += len(new)
            reply.append(int(self._likeliest.sample(self._context, -1)))
            if self._vocab.is_eog(reply[-1]):
                break
            new = reply[-1:]
        return reply

    def _decode(self, ids: Sequence[int], start: int, *, every: bool) -> None:
        """Append `ids`, the first at place `start`; logits after the last or after every one."""
        batch = self._cy.LlamaBatch(n_tokens=len(ids), embd=0, n_seq_max=1)
        for place, token in enumerate(ids):
            batch.add(token, start + place, [0], every or place == len(ids) - 1)
        self._context.decode(batch)

    def close(self) -> None:
        self._context.close()
        self._model.close()
