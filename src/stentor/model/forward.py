"""One lean forward pass over a Llama model of `transformers`, on a flat stream of tokens.

Training, evaluation and pretraining use it. It reads the parameters of the `transformers`
modules where they lie (PEFT adapters included), so nothing is copied or converted, and differs
from the stock forward in what it does not do: no padding is multiplied, the keys and values of
a prefix that many sequences share are computed once, and the head is applied only where a loss
is wanted, in chunks, so that all logits are never held at once.

A *stream* is the tokens of all sequences one after the other, shape (N,). A `Layout` says which
tokens see each other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from stentor.model.lora import project

_BUCKET = 32  # sequences are attended together when they round up to the same multiple


@dataclass(frozen=True)
class Group:
    """Sequences that are attended together.

    `index` (B, L): place in the stream of each token; right padding repeats a real place.
    `prefix` (P,): places of the tokens that every sequence of the group sees first, or None.
    """

    index: Tensor
    prefix: Tensor | None


@dataclass(frozen=True)
class Layout:
    """How a stream of N tokens falls into sequences.

    `positions` (N,): the position of each token in its sequence, prefix counted.
    `inverse` (N,): where each token stands among the flattened outputs of all groups.
    """

    positions: Tensor
    groups: tuple[Group, ...]
    inverse: Tensor
    dense: tuple[int, int] | None
    """(B, L) when the stream is B sequences of L tokens in order: no gathering is needed."""


@dataclass(frozen=True)
class Span:
    """`length` tokens of the stream from `start`; they also see the sequence number `prefix`."""

    start: int
    length: int
    prefix: int | None = None


def lay_out(sequences: Sequence[Span], device: torch.device | str = "cpu") -> Layout:
    """The layout of a stream whose `sequences` follow each other without gaps."""
    total = sum(s.length for s in sequences)
    positions = torch.empty(total, dtype=torch.long)
    buckets: dict[tuple[int, int | None], list[Span]] = {}
    for s in sequences:
        offset = 0 if s.prefix is None else sequences[s.prefix].length
        positions[s.start : s.start + s.length] = torch.arange(offset, offset + s.length)
        rounded = -(-s.length // _BUCKET) * _BUCKET
        buckets.setdefault((rounded, s.prefix), []).append(s)
    lengths = {s.length for s in sequences}
    if len(lengths) == 1 and all(s.prefix is None for s in sequences):
        shape = (len(sequences), lengths.pop())
        empty = torch.empty(0, dtype=torch.long, device=device)
        return Layout(positions.to(device), (), empty, shape)
    inverse = torch.empty(total, dtype=torch.long)
    groups = []
    base = 0
    for (_, prefix), members in buckets.items():
        width = max(s.length for s in members)
        steps = torch.arange(width)
        starts = torch.tensor([s.start for s in members])
        sizes = torch.tensor([s.length for s in members])
        index = starts[:, None] + torch.minimum(steps[None], sizes[:, None] - 1)
        real = steps[None] < sizes[:, None]
        places = base + torch.arange(len(members) * width).view(len(members), width)
        inverse[index[real]] = places[real]
        base += len(members) * width
        seen = None
        if prefix is not None:
            owner = sequences[prefix]
            seen = torch.arange(owner.start, owner.start + owner.length, device=device)
        groups.append(Group(index.to(device), seen))
    return Layout(positions.to(device), tuple(groups), inverse.to(device), None)


def padded_rows(ids: Tensor, layout: Layout) -> Iterator[tuple[int, Tensor]]:
    """(length of the prefix in front, ids (B, prefix + L)) of each group of a stream."""
    if layout.dense is not None:
        yield 0, ids.view(*layout.dense)
    for group in layout.groups:
        if group.prefix is None:
            yield 0, ids[group.index]
        else:
            before = ids[group.prefix].expand(len(group.index), -1)
            yield len(group.prefix), torch.cat([before, ids[group.index]], dim=1)


class _Rotate(torch.autograd.Function):
    """Rotary position embedding on (N, H, D), halves rotated as Llama does; saves only angles."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _rotate(x, cos, sin)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _rotate(grads[0], cos, -sin), None, None


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    out: Tensor = _Rotate.apply(x, cos, sin)  # type: ignore[no-untyped-call]
    return out


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    first, second = x[..., :half], x[..., half:]
    out = torch.empty_like(x)
    torch.mul(first, cos, out=out[..., :half]).addcmul_(second, sin, value=-1)
    torch.mul(second, cos, out=out[..., half:]).addcmul_(first, sin)
    return out


def _attend(q: Tensor, k: Tensor, v: Tensor, layout: Layout) -> Tensor:
    """Causal attention within each sequence (and its prefix); all of shape (N, H, D)."""
    heads, size = q.shape[1:]
    repeat = heads // k.shape[1]
    if repeat > 1:
        k, v = (t.repeat_interleave(repeat, dim=1) for t in (k, v))
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
            seen = len(group.prefix)
            pk, pv = (t[group.prefix[0] : group.prefix[0] + seen].transpose(0, 1) for t in (k, v))
            gk = torch.cat([pk.expand(rows, -1, -1, -1), gk], dim=2)
            gv = torch.cat([pv.expand(rows, -1, -1, -1), gv], dim=2)
            mask = torch.ones(width, seen + width, dtype=torch.bool, device=q.device)
            mask = mask.tril(diagonal=seen)
            out = functional.scaled_dot_product_attention(gq, gk, gv, attn_mask=mask)
        outputs.append(out.transpose(1, 2).reshape(rows * width, heads * size))
    return torch.cat(outputs).index_select(0, layout.inverse)


def angles(model: Any, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine and sine (N, 1, D/2) of the rotary angles at `positions`."""
    frequencies = model.model.rotary_emb.inv_freq
    scaling = model.model.rotary_emb.attention_scaling
    turns = positions[:, None].float() * frequencies[None].float()
    return (turns.cos() * scaling)[:, None], (turns.sin() * scaling)[:, None]


def hidden_states(model: Any, ids: Tensor, layout: Layout) -> Tensor:
    """The normalised output (N, hidden) of the last block for a stream `ids` (N,).

    `model` is a `LlamaForCausalLM`, bare or inside a PEFT model.
    """
    core = bare(model)
    config = core.config
    cos, sin = angles(core, layout.positions)
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    x = core.model.embed_tokens(ids)
    cos, sin = cos.to(x.dtype), sin.to(x.dtype)
    eps = config.rms_norm_eps
    width = (config.hidden_size,)
    for layer in core.model.layers:
        attention, feed_forward = layer.self_attn, layer.mlp
        h = functional.rms_norm(x, width, layer.input_layernorm.weight, eps)
        q, k, v = (
            t.unflatten(-1, (-1, size))
            for t in project(h, (attention.q_proj, attention.k_proj, attention.v_proj))
        )
        q, k = _rotated(q, cos, sin), _rotated(k, cos, sin)
        x = x + project(_attend(q, k, v, layout), (attention.o_proj,))[0]
        h = functional.rms_norm(x, width, layer.post_attention_layernorm.weight, eps)
        gate, up = project(h, (feed_forward.gate_proj, feed_forward.up_proj))
        x = x + project(functional.silu(gate) * up, (feed_forward.down_proj,))[0]
    return functional.rms_norm(x, width, core.model.norm.weight, eps)


def bare(model: Any) -> Any:
    """The `transformers` model inside a PEFT or accelerate wrapper (adapters stay in place)."""
    while hasattr(model, "module"):
        model = model.module
    return model.get_base_model() if hasattr(model, "get_base_model") else model


class _HeadLoss(torch.autograd.Function):
    """Sum of cross entropies of `hidden` @ `weight`.T against `targets`, in chunks.

    The gradients are formed chunk by chunk while the logits are at hand, so the backward
    pass multiplies nothing again, and only `chunk` × vocabulary logits exist at a time.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        offset: Tensor | None,
        token_weights: Tensor | None,
        chunk: int,
    ) -> tuple[Tensor, Tensor]:
        losses = torch.empty(len(targets), dtype=torch.float32, device=hidden.device)
        needs_hidden, needs_weight = ctx.needs_input_grad[:2]
        grad_hidden = torch.empty_like(hidden) if needs_hidden else None
        grad_weight = torch.zeros_like(weight) if needs_weight else None
        buffer = hidden.new_empty(min(chunk, len(targets)), weight.shape[0])
        for start in range(0, len(targets), chunk):
            part = slice(start, min(start + chunk, len(targets)))
            rows, wanted = hidden[part], targets[part]
            logits = torch.mm(rows, weight.t(), out=buffer[: len(rows)])
            if offset is not None:
                logits.add_(offset)
            top = logits.amax(dim=-1, keepdim=True)
            at_target = logits.gather(1, wanted[:, None])
            probabilities = logits.sub_(top).exp_()
            total = probabilities.sum(dim=-1, keepdim=True, dtype=torch.float32)
            losses[part] = (total.log() + top.float() - at_target.float()).squeeze(1)
            if grad_hidden is None and grad_weight is None:
                continue
            probabilities.div_(total.to(probabilities.dtype))
            ones = torch.ones_like(wanted[:, None], dtype=probabilities.dtype)
            probabilities.scatter_add_(1, wanted[:, None], -ones)
            if token_weights is not None:
                probabilities.mul_(token_weights[part, None])
            if grad_hidden is not None:
                torch.mm(probabilities, weight, out=grad_hidden[part])
            if grad_weight is not None:
                grad_weight.addmm_(probabilities.t(), rows)
        ctx.save_for_backward(grad_hidden, grad_weight)
        ctx.mark_non_differentiable(losses)
        weighted = losses if token_weights is None else losses * token_weights
        return weighted.sum(), losses

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad_hidden, grad_weight = ctx.saved_tensors
        scale = grads[0]
        return (
            None if grad_hidden is None else grad_hidden * scale,
            None if grad_weight is None else grad_weight * scale,
            None,
            None,
            None,
            None,
        )


def head_loss(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    offset: Tensor | None = None,
    token_weights: Tensor | None = None,
    chunk: int = 256,
) -> tuple[Tensor, Tensor]:
    """(sum, each) of the cross entropies in nats of predicting `targets` (M,).

    hidden (M, H): normalised states at the supervised places; weight (V, H): the head;
    offset (V,): added to the logits; token_weights (M,): of each in the sum (1). Only the sum
    carries a gradient.
    """
    out: tuple[Tensor, Tensor] = _HeadLoss.apply(  # type: ignore[no-untyped-call]
        hidden, weight, targets, offset, token_weights, chunk
    )
    return out
