"""Products of the projections of one input, with or without LoRA adapters, as few as may be.

A LoRA layer is y = x W' + s · drop(x) A' B', three small products where `peft` forms it, each
projection for itself and its dropout in several passes. Here projections of the same input are
one product; an adapter without dropout is merged into it, W + s B A; with dropout the passes
that remain are written out, gradients included.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class _Adapter:
    """One plain LoRA adapter of a projection: a (r, in), b (out, r)."""

    a: Tensor
    b: Tensor
    scale: float
    dropout: float


def project(x: Tensor, modules: Sequence[nn.Module]) -> list[Tensor]:
    """Each projection (N, out) of `x` (N, in)."""
    parts = [_take_apart(module) for module in modules]
    known = [part for part in parts if part is not None]
    if len(known) < len(modules):
        return [module(x) for module in modules]
    sizes = [weight.shape[0] for weight, _ in known]
    rates = {0.0 if adapter is None else adapter.dropout for _, adapter in known}
    frozen = not any(weight.requires_grad for weight, _ in known)
    if len(rates) == 1 and rates != {0.0} and frozen:
        return list(_with_dropout(x, known).split(sizes, dim=-1))
    if rates != {0.0}:
        return [module(x) for module in modules]
    merged = [w if ad is None else torch.addmm(w, ad.b, ad.a, alpha=ad.scale) for w, ad in known]
    if len(merged) == 1:
        return [functional.linear(x, merged[0])]
    return list(functional.linear(x, torch.cat(merged)).split(sizes, dim=-1))


def _take_apart(module: nn.Module) -> tuple[Tensor, _Adapter | None] | None:
    """(weight, adapter) of a projection, or None when it needs its own forward."""
    if type(module) is nn.Linear:
        return None if module.bias is not None else (module.weight, None)
    layer: Any = module  # PEFT's LoRA layer, or something that we know nothing of
    names: Sequence[str] = getattr(layer, "active_adapters", ())
    if len(names) != 1 or getattr(layer, "disable_adapters", True):
        return None
    name, base = names[0], layer.base_layer
    plain = type(base) is nn.Linear and base.bias is None and not layer.merged
    if not plain or name not in getattr(layer, "lora_A", ()) or layer.use_dora.get(name):
        return None
    rate = getattr(layer.lora_dropout[name], "p", 0.0) if layer.training else 0.0
    a, b = layer.lora_A[name].weight, layer.lora_B[name].weight
    return base.weight, _Adapter(a, b, layer.scaling[name], rate)


def _with_dropout(x: Tensor, parts: Sequence[tuple[Tensor, _Adapter | None]]) -> Tensor:
    """(N, all outputs) of adapted projections, their adapters' input dropped out.

    Projections of the same input see the same dropout; each for itself that is what PEFT does.
    """
    adapters = [adapter for _, adapter in parts if adapter is not None]
    device = x.device.type
    compute = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
    kept, rate = _kept(x, adapters[0].dropout, compute)
    out: Tensor = _LoraProduct.apply(  # type: ignore[no-untyped-call]
        x.to(compute),
        torch.cat([weight for weight, _ in parts]).to(compute),
        kept,
        [adapter.scale / (1 - rate) if rate < 1 else 0.0 for adapter in adapters],
        torch.cat([adapter.a for adapter in adapters]).to(compute),
        *(adapter.b.to(compute) for adapter in adapters),
    )
    return out


def _kept(x: Tensor, rate: float, dtype: torch.dtype) -> tuple[Tensor, float]:
    """(1 where dropout keeps an element of `x` and 0 elsewhere; the rate that was drawn with).

    On a CPU one number of the generator serves four elements: drawing them singly takes a fifth
    of a step. The rate is then a multiple of 1 / 65,536.
    """
    if x.device.type != "cpu":
        return torch.empty_like(x, dtype=dtype).bernoulli_(1 - rate), rate
    dropped = max(1, round(rate * 65_536))
    words = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
    numbers = words.view(torch.int16)[: x.numel()].view(x.shape)
    return (numbers > dropped - 32_769).to(dtype), dropped / 65_536


class _LoraProduct(torch.autograd.Function):
    """x W' + [sᵢ (x ∘ kept) Aᵢ' Bᵢ' for each i]: (N, outputs).

    x, kept (N, in); W (outputs, in), frozen; A (Σ rᵢ, in), all Aᵢ on each other; Bᵢ (outᵢ, rᵢ).
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        kept: Tensor,
        scales: list[float],
        a: Tensor,
        *b: Tensor,
    ) -> Tensor:
        dropped = x * kept
        inner = torch.mm(dropped, a.t())
        out = torch.mm(x, weight.t())
        for to, low, each, scale in _slices(out, inner, b, scales):
            to.addmm_(low, each.t(), alpha=scale)
        ctx.scales = scales
        ctx.save_for_backward(dropped, weight, kept, inner, a, *b)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        dropped, weight, kept, inner, a, *b = ctx.saved_tensors
        grad_inner = torch.empty_like(inner)
        grad_b = []
        for part, low, _, scale in _slices(grad, inner, b, ctx.scales):
            grad_b.append(torch.mm(part.t(), low).mul_(scale))
        for part, low, each, scale in _slices(grad, grad_inner, b, ctx.scales):
            torch.addmm(low, part, each, beta=0, alpha=scale, out=low)
        grad_a = torch.mm(grad_inner.t(), dropped)
        grad_x = torch.mm(grad_inner, a).mul_(kept).addmm_(grad, weight)
        return (grad_x, None, None, None, grad_a, *grad_b)


def _slices(
    outputs: Tensor, inner: Tensor, b: Sequence[Tensor], scales: Sequence[float]
) -> Iterator[tuple[Tensor, Tensor, Tensor, float]]:
    """For each adapter its columns of `outputs` and of `inner`, its Bᵢ and its scale."""
    wide = outputs.split([len(each) for each in b], dim=1)
    low = inner.split([each.shape[1] for each in b], dim=1)
    return zip(wide, low, b, scales, strict=True)
