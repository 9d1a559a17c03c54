"""Shapes of models by name. All share the vocabulary, the head size of 64 and tied embeddings."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from transformers import LlamaConfig

from stentor.errors import ModelError

VOCABULARY = 32_768
WINDOW = 512
HEAD_SIZE = 64


@dataclass(frozen=True)
class Preset:
    """A Llama shape: `layers` blocks of width `hidden`, feed-forward width `intermediate`."""

    layers: int
    hidden: int
    intermediate: int

    @property
    def heads(self) -> int:
        return self.hidden // HEAD_SIZE

    @property
    def parameters(self) -> int:
        """Parameters with the embedding, shared with the head, counted once."""
        attention = 4 * self.hidden * self.hidden
        feed_forward = 3 * self.hidden * self.intermediate
        norms = 2 * self.hidden
        return (
            VOCABULARY * self.hidden
            + self.layers * (attention + feed_forward + norms)
            + self.hidden
        )

    def config(self) -> LlamaConfig:
        """The configuration for `transformers`."""
        return LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=self.hidden,
            intermediate_size=self.intermediate,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.heads,
            head_dim=HEAD_SIZE,
            hidden_act="silu",
            max_position_embeddings=WINDOW,
            rms_norm_eps=1e-5,
            rope_theta=10_000.0,
            tie_word_embeddings=True,
            attention_bias=False,
            mlp_bias=False,
            bos_token_id=1,
            eos_token_id=2,
            pad_token_id=16,
        )


PRESETS = {
    "stentor-2m": Preset(layers=6, hidden=64, intermediate=192),
    "stentor-6m": Preset(layers=10, hidden=128, intermediate=384),
    # 12 layers: only this depth gives the public adapter's 1,474,560 parameters.
    "stentor-12m": Preset(layers=12, hidden=192, intermediate=576),
    "stentor-30m": Preset(layers=21, hidden=256, intermediate=1024),
}


def preset(name: str) -> Preset:
    """The preset called `name`; ModelError with the nearest name when there is none."""
    try:
        return PRESETS[name]
    except KeyError:
        near = difflib.get_close_matches(name, PRESETS, n=1, cutoff=0.0)[0]
        names = ", ".join(PRESETS)
        raise ModelError(
            f"no preset is called {name!r}; did you mean {near!r}? Presets: {names}"
        ) from None
