"""One step of a Llama model over cached keys and values, for a batch of rows of any length.

Row r holds `length[r]` tokens; its next token is written at that place and sees everything
before it. Nothing is padded on the left and no mask is kept: a row sees its first
`length[r]` places.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from stentor.model.forward import bare


def _joined(*projections: nn.Linear) -> tuple[Tensor, Tensor | None]:
    """Weight and bias (some converted models have one) of projections of the same input."""
    if len(projections) == 1:
        return projections[0].weight, projections[0].bias
    biases: list[Tensor] = [p.bias for p in projections if p.bias is not None]
    return torch.cat([p.weight for p in projections]), torch.cat(biases) if biases else None


class Decoder:
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
        shape = (len(self._layers), rows, self.kv_heads, room, self.size)
        return Cache(
            torch.zeros(shape, dtype=self.dtype, device=self.device),
            torch.zeros(shape, dtype=self.dtype, device=self.device),
            torch.zeros(rows, dtype=torch.long, device=self.device),
        )

    @torch.inference_mode()
    def forward(self, ids: Tensor, counts: Tensor, cache: Cache) -> Tensor:
        """Append ids (B, T), of which the first `counts` (B,) of a row are real.

        Returns the logits (B, vocabulary) after each row's last real token.
        """
        rows, width = ids.shape
        steps = torch.arange(width, device=self.device)
        places = (cache.lengths[:, None] + steps).clamp(max=cache.room - 1)
        cos, sin = self._cos[places][:, None], self._sin[places][:, None]
        end = int((cache.lengths + counts).max())
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
        cache.lengths.add_(counts)
        last = x[torch.arange(rows, device=self.device), counts - 1]
        return functional.linear(functional.rms_norm(last, shape, self._norm, eps), self._head)

    @staticmethod
    def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        first, second = x.chunk(2, dim=-1)
        return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


class Cache:
    """Keys and values (layers, B, heads, room, size) and the length of each row.

    The storage may hold more rows and more room than are in use; rows come with `add` and go
    with `keep`.
    """

    def __init__(self, keys: Tensor, values: Tensor, lengths: Tensor) -> None:
        self._keys, self._values, self._lengths = keys, values, lengths
        self.rows = len(lengths)

    @property
    def keys(self) -> Tensor:
        return self._keys[:, : self.rows]

    @property
    def values(self) -> Tensor:
        return self._values[:, : self.rows]

    @property
    def lengths(self) -> Tensor:
        return self._lengths[: self.rows]

    @property
    def room(self) -> int:
        return self._keys.shape[3]

    def add(self, count: int, room: int) -> Cache:
        """`count` more rows of at most `room` tokens, empty, after the others.

        Returns them as a cache of their own over the same storage, to be filled before the next
        `add` or `keep`.
        """
        first, self.rows = self.rows, self.rows + count
        have, had = self._keys.shape[1], self.room
        if self.rows > have or room > had:
            # where rows come and go, storage grows in leaps, and seldom
            rows = self.rows if first == 0 else max(self.rows, have if room > had else 2 * have)
            self._keys = self._moved(self._keys, first, max(rows, have), max(room, had))
            self._values = self._moved(self._values, first, max(rows, have), max(room, had))
            lengths = self._lengths.new_zeros(max(rows, have))
            lengths[:first] = self._lengths[:first]
            self._lengths = lengths
        part = slice(first, self.rows)
        self._lengths[part] = 0
        return Cache(self._keys[:, part], self._values[:, part], self._lengths[part])

    @staticmethod
    def _moved(old: Tensor, used: int, rows: int, room: int) -> Tensor:
        # zeros and not empty: a masked place counts nothing, unless it is not a number
        new = old.new_zeros((old.shape[0], rows, old.shape[2], room, old.shape[4]))
        new[:, :used, :, : old.shape[3]] = old[:, :used]
        return new

    def keep(self, alive: list[int]) -> list[int]:
        """Keep only these rows, in place; returns which of the old rows stands where now.

        The last rows move into the gaps, so dropping a row copies one row at most.
        """
        count = len(alive)
        kept = set(alive)
        gaps = [place for place in range(count) if place not in kept]
        order = list(range(count))
        for gap, moved in zip(gaps, sorted(row for row in alive if row >= count), strict=True):
            order[gap] = moved
            for part in (self._keys, self._values):
                part[:, gap] = part[:, moved]
            self._lengths[gap] = self._lengths[moved]
        self.rows = count
        return order

    def start_from(self, prefix: Cache) -> None:
        """Begin every row with the one row of `prefix`."""
        used = int(prefix.lengths[0])
        self.keys[:, :, :, :used] = prefix.keys[:, :, :, :used]
        self.values[:, :, :, :used] = prefix.values[:, :, :, :used]
        self.lengths.fill_(used)
