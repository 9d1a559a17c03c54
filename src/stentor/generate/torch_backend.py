"""The reference backend: torch, on any device, in the precision of the model's weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from stentor.generate.backend import Cache, Floats, Ints
from stentor.model.forward import bare


def _joined(*projections: nn.Linear) -> tuple[Tensor, Tensor | None]:
    """Weight and bias (some converted models have one) of projections of the same input."""
    if len(projections) == 1:
        return projections[0].weight, projections[0].bias
    biases: list[Tensor] = [p.bias for p in projections if p.bias is not None]
    return torch.cat([p.weight for p in projections]), torch.cat(biases) if biases else None


class TorchBackend:
    """The weights of a model joined for decoding."""

    def __init__(self, model: Any) -> None:
        core = bare(model)
        config = core.config
        self.config = config
        self.heads = config.num_attention_heads
        self.kv_heads = config.num_key_value_heads
        self.size = getattr(config, "head_dim", None) or config.hidden_size // self.heads
        self.window = config.max_position_embeddings
        self.device = core.lm_head.weight.device
        self.dtype = core.lm_head.weight.dtype
        kind = str(self.dtype).removeprefix("torch.")
        self.precision = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}.get(kind, kind)
        self.name = f"torch {torch.__version__}, {self.precision}, {self.device.type}"
        self._embedding = core.model.embed_tokens.weight
        self._head = core.lm_head.weight
        self._norm = core.model.norm.weight
        self._layers = [
            (
                layer.input_layernorm.weight,
                _joined(*(getattr(layer.self_attn, f"{name}_proj") for name in "qkv")),
                _joined(layer.self_attn.o_proj),
                layer.post_attention_layernorm.weight,
                _joined(layer.mlp.gate_proj, layer.mlp.up_proj),
                _joined(layer.mlp.down_proj),
            )
            for layer in core.model.layers
        ]
        rotary = core.model.rotary_emb
        turns = torch.arange(self.window, device=self.device)[:, None] * rotary.inv_freq.float()
        scale = rotary.attention_scaling
        self._cos = (turns.cos() * scale).to(self.dtype)
        self._sin = (turns.sin() * scale).to(self.dtype)

    def new_cache(self, rows: int, room: int) -> Cache:
        """An empty cache of `rows` rows of at most `room` tokens."""
        return Cache.empty(len(self._layers), rows, self.kv_heads, room, self.size, self._zeros)

    def _zeros(self, shape: tuple[int, ...]) -> Tensor:
        return torch.zeros(shape, dtype=self.dtype, device=self.device)

    def forward(self, ids: Ints, counts: Ints, cache: Cache) -> Floats:
        """Append ids (B, T), of which the first `counts` (B,) of a row are real.

        Returns the logits (B, V) after each row's last real token.
        """
        end = int((cache.lengths + counts).max())
        ids_, counts_, lengths = (
            torch.from_numpy(array).to(self.device) for array in (ids, counts, cache.lengths)
        )
        logits = self._forward(ids_, counts_, lengths, end, cache)
        cache.lengths[:] += counts
        found: Floats = logits.float().cpu().numpy()
        return found

    @torch.inference_mode()
    def _forward(
        self, ids: Tensor, counts: Tensor, lengths: Tensor, end: int, cache: Cache
    ) -> Tensor:
        rows, width = ids.shape
        steps = torch.arange(width, device=self.device)
        places = (lengths[:, None] + steps).clamp(max=cache.room - 1)
        cos, sin = self._cos[places][:, None], self._sin[places][:, None]
        seen = torch.arange(end, device=self.device)[None, None] <= places[:, :, None]
        mask = seen[:, None]  # (B, 1, T, end)
        row = torch.arange(rows, device=self.device)[:, None]
        x = self._embedding[ids]
        eps = self.config.rms_norm_eps
        shape = (x.shape[-1],)
        kv = self.kv_heads * self.size
        all_keys, all_values = cache.keys, cache.values
        for number, (norm1, qkv, out, norm2, gate_up, down) in enumerate(self._layers):
            h = functional.rms_norm(x, shape, norm1, eps)
            q, k, v = functional.linear(h, *qkv).split([self.heads * self.size, kv, kv], dim=-1)
            q = self._rotate(q.unflatten(-1, (-1, self.size)).transpose(1, 2), cos, sin)
            k = self._rotate(k.unflatten(-1, (-1, self.size)).transpose(1, 2), cos, sin)
            v = v.unflatten(-1, (-1, self.size))
            keys, values = all_keys[number], all_values[number]
            # padded places are overwritten by the row's next token before anything sees them
            keys[row, :, places] = k.transpose(1, 2)
            values[row, :, places] = v
            attended = functional.scaled_dot_product_attention(
                q,
                keys[:, :, :end],
                values[:, :, :end],
                attn_mask=mask,
                enable_gqa=self.heads != self.kv_heads,
            )
            x = x + functional.linear(attended.transpose(1, 2).flatten(2), *out)
            h = functional.rms_norm(x, shape, norm2, eps)
            gate, up = functional.linear(h, *gate_up).chunk(2, dim=-1)
            x = x + functional.linear(functional.silu(gate) * up, *down)
        last = x[torch.arange(rows, device=self.device), counts - 1]
        return functional.linear(functional.rms_norm(last, shape, self._norm, eps), self._head)

    @staticmethod
    def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        first, second = x.chunk(2, dim=-1)
        return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
