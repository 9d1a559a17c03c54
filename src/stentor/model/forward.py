"""One lean forward pass over a Llama model of `transformers`, on a flat stream of tokens.

Training, evaluation and pretraining use it. It reads the parameters of the `transformers`
modules where they lie (PEFT adapters included), so nothing is copied or converted, and differs
from the stock forward in what it does not do: no padding is multiplied, the keys and values of
a prefix that many sequences share are computed once, and between the matrix products as few
passes over memory are made as may be, gradients included.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from stentor.model.attention import attention
from stentor.model.layout import Layout
from stentor.model.lora import by_hand, project
from stentor.model.shapes import compiles_for_shapes, rounded_up


def hidden_states(model: Any, ids: Tensor, layout: Layout, places: Tensor | None = None) -> Tensor:
    """The normalised output (N, hidden) of the last block for a stream `ids` (N,).

    `model` is a `LlamaForCausalLM`, bare or inside a PEFT model. With `places` (M,) of the stream
    only their outputs (M, hidden) are wanted, and the last block does no more than these need.
    """
    core = bare(model)
    wanted = len(ids) if places is None else len(places)
    if compiles_for_shapes(ids.device.type):
        layout = layout.lengthened(rounded_up(len(ids)))
        ids = functional.pad(ids, (0, len(layout.positions) - len(ids)))
        if places is not None:
            places = functional.pad(places, (0, rounded_up(wanted) - wanted))
    x = core.model.embed_tokens(ids)
    attend = attention(core, layout, x)
    for layer in core.model.layers:
        block, feed_forward = layer.self_attn, layer.mlp
        n, scale, x = normalised(x, layer.input_layernorm)
        mixed = attend(n, (block.q_proj, block.k_proj, block.v_proj), scale)
        if places is not None and layer is core.model.layers[-1]:
            mixed, x = mixed.index_select(0, places), x.index_select(0, places)
        x = project(mixed, (block.o_proj,), residual=x)
        n, scale, x = normalised(x, layer.post_attention_layernorm)
        gate_up = project(n, (feed_forward.gate_proj, feed_forward.up_proj), scale=scale)
        x = project(gated(gate_up), (feed_forward.down_proj,), residual=x)
    n, scale, _ = normalised(x[:wanted], core.model.norm)
    return n if scale is None else n * scale


def normalised(x: Tensor, norm: Any) -> tuple[Tensor, Tensor | None, Tensor]:
    """(n, scale, x): the root-mean-square norm of `x` (N, hidden) is n, times `scale` if given.

    On a CPU the norm's weight is left to the product that follows, whose matrix is smaller than
    n. The third result is `x`, to be used from there on: so its gradient is added up in one pass.
    """
    eps = norm.variance_epsilon
    if not by_hand(x) or x.dtype not in (torch.float32, torch.float64):
        return functional.rms_norm(x, x.shape[-1:], norm.weight, eps), None, x
    n, x = _Norm.apply(x, eps)  # type: ignore[no-untyped-call]
    return n, norm.weight, x


class _Norm(torch.autograd.Function):
    """(x / sqrt(mean x² + ε), x): with n the first and r the factor, ∂x = ∂₂ + r (∂₁ − n⟨∂₁n⟩)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        factor = (length.square() / x.shape[-1]).add_(eps).rsqrt_()
        n = x * factor
        ctx.save_for_backward(n, factor)
        ctx.set_materialize_grads(False)
        return n, x

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, None]:
        n, factor = ctx.saved_tensors
        through, past = grads
        if through is None:
            return past, None
        along = (through * n).mean(dim=-1, keepdim=True).mul_(factor)
        out = through * factor if past is None else torch.addcmul(past, through, factor)
        return out.addcmul_(n, along, value=-1), None


def gated(gate_up: Tensor) -> Tensor:
    """silu(gate) · up (N, I) of the two side by side (N, 2 I)."""
    if not by_hand(gate_up):
        gate, up = gate_up.chunk(2, dim=-1)
        return functional.silu(gate) * up
    out: Tensor = _Gated.apply(gate_up)  # type: ignore[no-untyped-call]
    return out


class _Gated(torch.autograd.Function):
    """silu(gate) · up; both gradients go into one buffer, and silu is kept, not formed again."""

    @staticmethod
    def forward(ctx: Any, gate_up: Tensor) -> Tensor:
        gate, up = gate_up.chunk(2, dim=-1)
        silu = functional.silu(gate)
        ctx.save_for_backward(gate_up, silu)
        return silu * up

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        gate_up, silu = ctx.saved_tensors
        gate, up = gate_up.chunk(2, dim=-1)
        gradient = torch.empty_like(gate_up)
        to_gate, to_up = gradient.chunk(2, dim=-1)
        torch.mul(grads[0], silu, out=to_up)
        torch.ops.aten.silu_backward.grad_input(grads[0] * up, gate, grad_input=to_gate)
        return gradient


def bare(model: Any) -> Any:
    """The `transformers` model inside a PEFT or accelerate wrapper (adapters stay in place)."""
    while hasattr(model, "module"):
        model = model.module
    return model.get_base_model() if hasattr(model, "get_base_model") else model
