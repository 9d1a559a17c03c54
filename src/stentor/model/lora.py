"""Products of the projections of one input, with or without LoRA adapters, as few as may be.

A LoRA layer is y = x W' + s · drop(x) A' B', three small products where `peft` forms it, each
projection for itself and its dropout in several passes. Here projections of the same input are
one product; an adapter without dropout is merged into it, W + s B A, where products are in full
precision (in half of it, small changes of W would be rounded away); in all other cases the few
passes that remain are written out, gradients included.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy
import torch
from torch import Tensor, nn

_draws = threading.local()


@contextmanager
def dropout_from(seed: int) -> Iterator[None]:
    """Dropout on a CPU is drawn from a generator of this block's own, in this thread alone."""
    _draws.generator = numpy.random.SFC64(seed)
    try:
        yield
    finally:
        _draws.generator = None


@dataclass(frozen=True)
class _Adapter:
    """One plain LoRA adapter of a projection: a (r, in), b (out, r)."""

    a: Tensor
    b: Tensor
    scale: float
    dropout: float


def by_hand(x: Tensor) -> bool:
    """Whether gradients written by hand pay: on a CPU, where every pass over memory counts."""
    return x.device.type == "cpu"


def project(
    x: Tensor,
    modules: Sequence[nn.Module],
    *,
    scale: Tensor | None = None,
    residual: Tensor | None = None,
    pairs: Sequence[int | None] | None = None,
) -> Tensor:
    """The projections of `x` (N, in) side by side, (N, outputs).

    scale (in,): `x` is first multiplied by it; residual (N, outputs): added; pairs: for each
    projection the size of the heads whose halves are to be interleaved, or None.
    """
    halved = torch.is_autocast_enabled(x.device.type)
    if residual is not None and halved:
        return residual + project(x, modules, scale=scale, pairs=pairs)  # kept in full precision
    sizes = pairs or [None] * len(modules)
    parts = [_take_apart(module, size) for module, size in zip(modules, sizes, strict=True)]
    known = [part for part in parts if part is not None]
    adapters = [adapter for _, adapter in known if adapter is not None]
    rates = {adapter.dropout for adapter in adapters}
    if len(known) == len(modules) and not any(rates) and not (adapters and halved):
        weight = _joined([_merged(*part) for part in known], 0)
        weight = weight if scale is None else weight * scale
        return x @ weight.t() if residual is None else torch.addmm(residual, x, weight.t())
    frozen = not any(t.requires_grad for t in (scale, *(w for w, _ in known)) if t is not None)
    if len(known) == len(modules) and len(rates) == 1 and frozen:
        return _beside(x, known, rates.pop(), scale, residual)
    given = x if scale is None else x * scale
    outs = [
        _interleaved(module(given).t(), n).t() for module, n in zip(modules, sizes, strict=True)
    ]
    return _joined(outs, 1) if residual is None else residual + _joined(outs, 1)


def _interleaved(rows: Tensor, size: int | None) -> Tensor:
    """The rows (outputs, …) of heads of `size` with the second half of each between the first.

    The pairs that rotary positions turn then stand side by side, like complex numbers.
    """
    if size is None:
        return rows
    heads = rows.unflatten(0, (-1, 2, size // 2))
    return torch.flatten(heads.transpose(1, 2), 0, 2)


def _joined(tensors: Sequence[Tensor], dim: int) -> Tensor:
    return tensors[0] if len(tensors) == 1 else torch.cat(list(tensors), dim=dim)


def _merged(weight: Tensor, adapter: _Adapter | None) -> Tensor:
    if adapter is None:
        return weight
    return torch.addmm(weight, adapter.b, adapter.a, alpha=adapter.scale)


def _take_apart(module: nn.Module, pairs: int | None) -> tuple[Tensor, _Adapter | None] | None:
    """(weight, adapter) of a projection, or None when it needs its own forward."""
    if type(module) is nn.Linear:
        return None if module.bias is not None else (_interleaved(module.weight, pairs), None)
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
    weight = _interleaved(base.weight, pairs)
    return weight, _Adapter(a, _interleaved(b, pairs), layer.scaling[name], rate)


def _beside(
    x: Tensor,
    parts: Sequence[tuple[Tensor, _Adapter | None]],
    rate: float,
    scale: Tensor | None,
    residual: Tensor | None,
) -> Tensor:
    """(N, all outputs) of projections and, beside them, their adapters, whose input drops out.

    Projections of the same input see the same dropout; each for itself that is what PEFT does.
    """
    device = x.device.type
    compute = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
    kept = None
    if rate:
        kept, rate = _kept(x, rate, compute)
    weight = _joined([weight for weight, _ in parts], 0)
    adapters = [adapter or _no_adapter(weight) for weight, adapter in parts]
    a = _joined([adapter.a for adapter in adapters], 0)
    if scale is not None:
        weight, a = weight * scale, a * scale
    out: Tensor = _LoraProduct.apply(  # type: ignore[no-untyped-call]
        x.to(compute),
        residual,
        weight.to(compute),
        kept,
        [adapter.scale / (1 - rate) if rate < 1 else 0.0 for adapter in adapters],
        a.to(compute),
        *(adapter.b.to(compute) for adapter in adapters),
    )
    return out


def _no_adapter(weight: Tensor) -> _Adapter:
    """An adapter of rank 0."""
    outputs, inputs = weight.shape
    return _Adapter(weight.new_empty(0, inputs), weight.new_empty(outputs, 0), 0.0, 0.0)


def _kept(x: Tensor, rate: float, dtype: torch.dtype) -> tuple[Tensor, float]:
    """(1 where dropout keeps an element of `x` and 0 elsewhere; the rate that was drawn with).

    On a CPU one number of the generator serves four elements: drawing them singly takes a fifth
    of a step. The rate is then a multiple of 1 / 65,536. NumPy's SFC64 takes half of the time of
    torch's generator.
    """
    if x.device.type != "cpu":
        return torch.empty_like(x, dtype=dtype).bernoulli_(1 - rate), rate
    dropped = max(1, round(rate * 65_536))
    generator = getattr(_draws, "generator", None)
    if generator is None:  # outside of `dropout_from` torch's own numbers decide
        generator = numpy.random.SFC64(int(torch.randint(2**63 - 1, ())))
    words = generator.random_raw(-(-x.numel() // 4))
    numbers = torch.from_numpy(words.view(numpy.int16))[: x.numel()].view(x.shape)
    kept = torch.empty(x.shape, dtype=dtype)
    return torch.gt(numbers, dropped - 32_769, out=kept), dropped / 65_536


class _LoraProduct(torch.autograd.Function):
    """residual + x W' + [sᵢ (x ∘ kept) Aᵢ' Bᵢ' for each i]: (N, outputs).

    x, kept (N, in), None keeps all; W (outputs, in), frozen; A (Σ rᵢ, in), all Aᵢ on each other;
    Bᵢ (outᵢ, rᵢ).
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        residual: Tensor | None,
        weight: Tensor,
        kept: Tensor | None,
        scales: list[float],
        a: Tensor,
        *b: Tensor,
    ) -> Tensor:
        dropped = x if kept is None else x * kept
        inner = torch.mm(dropped, a.t())
        if x.dtype in (torch.float32, torch.float64):
            out = x @ weight.t() if residual is None else torch.addmm(residual, x, weight.t())
            for to, low, each, scale in _slices(out, inner, b, scales):
                to.addmm_(low, each.t(), alpha=scale)
        else:
            out = _rounded_once(x, inner, weight, b, scales, residual)
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
        grad_x = None
        if ctx.needs_input_grad[0]:  # the first layer's input comes from a frozen embedding
            grad_x = torch.mm(grad_inner, a)
            grad_x = grad_x if kept is None else grad_x.mul_(kept)
            grad_x.addmm_(grad, weight)
        grad_residual = grad if ctx.needs_input_grad[1] else None
        return (grad_x, grad_residual, None, None, None, grad_a, *grad_b)


def _rounded_once(
    x: Tensor,
    inner: Tensor,
    weight: Tensor,
    b: Sequence[Tensor],
    scales: list[float],
    residual: Tensor | None,
) -> Tensor:
    """[x | inner] times [W | s B]' as one product, whose sums are kept in full precision.

    An adapter that adds less than half a step of half precision would be lost if its part were
    added to outputs that are rounded already.
    """
    beside = torch.block_diag(*(each * scale for each, scale in zip(b, scales, strict=True)))
    out = torch.cat([x, inner], 1) @ torch.cat([weight, beside], 1).t()
    return out if residual is None else residual + out


def _slices(
    outputs: Tensor, inner: Tensor, b: Sequence[Tensor], scales: Sequence[float]
) -> Iterator[tuple[Tensor, Tensor, Tensor, float]]:
    """For each adapter its columns of `outputs` and of `inner`, its Bᵢ and its scale."""
    wide = outputs.split([len(each) for each in b], dim=1)
    low = inner.split([each.shape[1] for each in b], dim=1)
    return zip(wide, low, b, scales, strict=True)
