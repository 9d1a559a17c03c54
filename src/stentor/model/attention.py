"""Causal attention with rotary positions over a flat stream of tokens.

On a CPU it works on slices of the stream, so nothing is padded, gathered or repeated: every run of
sequences attends to itself; then all tokens that share a prefix attend to it at once. The two are
merged by their softmax sums, which is exact, and so are the gradients (see `_Attention`). Other
devices want few and large calls and get padded groups.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from stentor.model.layout import Layout, Run
from stentor.model.lora import by_hand, project

_LONG = 512
"""From this length on a CPU attends faster in bf16 than in fp32; below, the flash kernel needs up
to three times as long for its small products in bf16 (docs/LOG.md)."""


@dataclass(frozen=True)
class Attention:
    """What the layers of a model have in common for one stream.

    `heads` of queries and `kv_heads` of keys and values, of `size` D; cos, sin (N, 1, D/2).
    """

    layout: Layout
    heads: int
    kv_heads: int
    size: int
    cos: Tensor
    sin: Tensor
    turns: Tensor | None
    """cos + i sin, where attention works on slices."""

    def __call__(self, x: Tensor, projections: Sequence[nn.Module], scale: Tensor | None) -> Tensor:
        """(N, heads · D) for `x` (N, hidden), which `scale` (hidden,) multiplies if given.

        projections: to queries, keys and values.
        """
        if self.turns is not None:
            qkv = project(x, projections, scale=scale, pairs=(self.size, self.size, None))
            if qkv.dtype is torch.bfloat16 and self.layout.longest < _LONG:
                qkv = qkv.float()
            out: Tensor = _Attention.apply(qkv, self.turns, self)[0]  # type: ignore[no-untyped-call]
            return out.flatten(1)
        q, k, v = self.split(project(x, projections, scale=scale))
        q, k = (_rotated(t, self.cos, self.sin) for t in (q, k))
        k, v = self.repeated(k, v)
        return _attend_padded(q, k, v, self.layout)

    def split(self, qkv: Tensor) -> tuple[Tensor, ...]:
        """Queries, keys and values (N, heads or kv_heads, D), views of what the product gave."""
        sizes = [self.heads, self.kv_heads, self.kv_heads]
        return tuple(torch.split(qkv.unflatten(1, (-1, self.size)), sizes, dim=1))

    def gathered(self, gradient: Tensor, like: Tensor) -> Tensor:
        """The gradient (B, heads, L, D) of repeated keys or values, summed to that of `like`."""
        if gradient.shape == like.shape:
            return gradient
        return torch.sum(gradient.unflatten(1, (self.kv_heads, -1)), dim=2)

    def repeated(self, *tensors: Tensor) -> Iterator[Tensor]:
        """Keys or values (N, kv_heads, D), each for all the queries that look at it."""
        times = self.heads // self.kv_heads
        return (t if times == 1 else t.repeat_interleave(times, dim=1) for t in tensors)


def attention(model: Any, layout: Layout, x: Tensor) -> Attention:
    """The attention of a `LlamaForCausalLM` over a stream embedded as `x` (N, hidden)."""
    config, rotary = model.config, model.model.rotary_emb
    angles = layout.positions[:, None].float() * rotary.inv_freq[None].float()
    cos, sin = (
        (wave * rotary.attention_scaling)[:, None].to(x.dtype)
        for wave in (angles.cos(), angles.sin())
    )
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    sliced = by_hand(x) and x.dtype in (torch.float32, torch.float64)
    turns = torch.complex(cos, sin) if sliced else None
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    return Attention(layout, heads, kv_heads, size, cos, sin, turns)


class _Attention(torch.autograd.Function):
    """Softmax attention over slices of a stream; one buffer for q, k and v and their gradients.

    With s the scores of a query, attention is Σ exp(sᵢ − l) vᵢ, l = log Σ exp(sᵢ). The sum over a
    prefix and over the query's own sequence are formed apart, each with its own l, and merged by
    exp(l₁ − l) and exp(l₂ − l). The gradient of a score is exp(sᵢ − l) (∂vᵢ − ∂·out): it needs
    the merged l and output alone, so each part's backward gives its share of the gradients when
    it is handed these. (The softmax merging of FlashAttention, Dao et al. 2022.)
    """

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, turns: Tensor, shared: Attention) -> tuple[Tensor, Tensor]:
        _turn_(qkv, turns, shared)
        q, k, v = shared.split(qkv)
        k, v = shared.repeated(k, v)
        out = torch.empty_like(q, memory_format=torch.contiguous_format)
        sums = torch.empty(q.shape[:2], dtype=turns.real.dtype)
        for *inputs, o, s in _rows(shared.layout.runs, q, k, v, out, sums):
            part, part_sum = _flash(*inputs, is_causal=True)
            o.copy_(part)
            s.copy_(part_sum)
        for reach in shared.layout.reaches:
            before, before_sum = _flash(
                *_row(reach.tokens, q), *_row(reach.prefix, k, v), is_causal=False
            )
            own, own_sum = _row(reach.tokens, out, sums)
            own.lerp_(before, torch.sigmoid(before_sum - own_sum)[..., None].to(own.dtype))
            own_sum.copy_(torch.logaddexp(own_sum, before_sum))
        ctx.shared = shared
        ctx.mark_dirty(qkv)
        ctx.save_for_backward(qkv, turns, out, sums)
        return out, qkv

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        qkv, turns, out, sums = ctx.saved_tensors
        shared: Attention = ctx.shared
        q, k, v = shared.split(qkv)
        k, v = shared.repeated(k, v)
        given = grads[0]
        gradient = torch.empty_like(qkv)
        wanted = shared.split(gradient)
        for *inputs, to_q, to_k, to_v in _rows(
            shared.layout.runs, given, q, k, v, out, sums, *wanted
        ):
            found = _flash_backward(*inputs, 0.0, is_causal=True)
            for whole, part in zip((to_q, to_k, to_v), found, strict=True):
                whole.copy_(shared.gathered(part, whole))
        for reach in shared.layout.reaches:
            g, queries, o, s = _row(reach.tokens, given, q, out, sums)
            keys, values = _row(reach.prefix, k, v)
            found = _flash_backward(g, queries, keys, values, o, s, 0.0, is_causal=False)
            targets = (*_row(reach.tokens, wanted[0]), *_row(reach.prefix, *wanted[1:]))
            for whole, part in zip(targets, found, strict=True):
                whole.add_(shared.gathered(part, whole))
        _turn_(gradient, turns.conj(), shared)
        return gradient, None, None


_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default
_flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward.default


def _rows(runs: Sequence[Run], *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """For each run its tokens in each of `tensors` (N, H, …), as (rows, H, length, …)."""
    sizes = [run.rows * run.length for run in runs]
    for run, *parts in zip(runs, *(t.split(sizes) for t in tensors), strict=True):
        yield tuple(
            part.view(run.rows, run.length, *part.shape[1:]).transpose(1, 2) for part in parts
        )


def _row(part: slice, *tensors: Tensor) -> list[Tensor]:
    """A slice of each of `tensors` (N, H, …), as one row (1, H, length, …)."""
    return [t[part].transpose(0, 1)[None] for t in tensors]


def _turn_(qkv: Tensor, turns: Tensor, shared: Attention) -> None:
    """Rotate the pairs of queries and keys, which stand side by side, in place."""
    turned = qkv[:, : (shared.heads + shared.kv_heads) * shared.size]
    pairs = turned.unflatten(1, (shared.heads + shared.kv_heads, -1, 2))
    if pairs.dtype is turns.real.dtype:
        torch.view_as_complex(pairs).mul_(turns)
    else:  # halves of precision have no complex numbers
        wide = torch.view_as_complex(pairs.to(turns.real.dtype)).mul_(turns)
        pairs.copy_(torch.view_as_real(wide))


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """`x` (N, H, D) with its halves rotated, as Llama does."""
    cos, sin = cos.to(x.dtype), sin.to(x.dtype)
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def _attend_padded(q: Tensor, k: Tensor, v: Tensor, layout: Layout) -> Tensor:
    """Attention (N, heads · D) of q, k, v (N, heads, D) over padded groups of sequences."""
    heads, size = q.shape[1:]
    if layout.dense is not None:
        q, k, v = (t.view(*layout.dense, heads, size).transpose(1, 2) for t in (q, k, v))
        out = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return out.transpose(1, 2).reshape(-1, heads * size)
    outputs = []
    for group in layout.groups:
        rows, width = group.index.shape
        flat = group.index.reshape(-1)
        gq, gk, gv = (
            t.index_select(0, flat).view(rows, width, heads, size).transpose(1, 2)
            for t in (q, k, v)
        )
        if group.prefix is None:
            out = functional.scaled_dot_product_attention(gq, gk, gv, is_causal=True)
        else:
            pk, pv = (t[group.prefix].transpose(0, 1) for t in (k, v))
            seen = pk.shape[1]
            gk = torch.cat([pk.expand(rows, -1, -1, -1), gk], dim=2)
            gv = torch.cat([pv.expand(rows, -1, -1, -1), gv], dim=2)
            mask = torch.ones(width, seen + width, dtype=torch.bool, device=q.device)
            mask = mask.tril(diagonal=seen)
            out = functional.scaled_dot_product_attention(gq, gk, gv, attn_mask=mask)
        outputs.append(out.transpose(1, 2).reshape(rows * width, heads * size))
    return torch.cat(outputs).index_select(0, layout.inverse)
