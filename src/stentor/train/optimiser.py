"""Optimisers: AdamW from torch (or bitsandbytes), and Muon for hidden matrices.

torch.optim.Muon orthogonalises one matrix at a time in bfloat16, which a processor without
bf16 units has to emulate (measured in docs/LOG.md). `Muon` here is the same rule with the
matrices of one shape stacked; in bfloat16 where the run computes in it, else in float32, where
wide matrices go by way of their small Gram matrices.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from stentor.recipe import OptimiserPart

# Keller Jordan's coefficients, as in torch.optim.Muon.
_A, _B, _C = 3.4445, -4.7750, 2.0315
_ITERATIONS = 5
_TOGETHER = {torch.float32: 4, torch.bfloat16: 8}  # in one product on a CPU; more leave its cache


def orthogonalise(matrices: Tensor, *, dtype: torch.dtype = torch.float32) -> Tensor:
    """Newton–Schulz: each of `matrices` (B, m, n) with its singular values moved near 1."""
    x = matrices.to(dtype)
    transposed = x.shape[-2] > x.shape[-1]
    if transposed:
        x = x.mT
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    by_gram = dtype is torch.float32 and x.shape[-1] >= 2 * x.shape[-2]
    x = _iterate_gram(x) if by_gram else _iterate(x)
    result: Tensor = (x.mT if transposed else x).to(matrices.dtype)
    return result


def _iterate(x: Tensor) -> Tensor:
    """X ← (a + b G + c G²) X with G = X X', five times."""
    for _ in range(_ITERATIONS):
        gram = torch.bmm(x, x.mT)
        x = torch.baddbmm(x, _even_terms(gram), x, beta=_A)
    return x


def _iterate_gram(x: Tensor) -> Tensor:
    """The same with the small m × m matrices alone; worth it where n ≥ 2 m.

    All factors P = a + b G + c G² are polynomials of the first G, so they commute: the next G is
    P G P, and the result is the product of all P, times X. Squaring the singular values costs
    digits: 1e-4 is left of fp32's accuracy, where bf16 has 1e-2.
    """
    gram = torch.bmm(x, x.mT)
    product: Tensor | None = None
    for left in reversed(range(_ITERATIONS)):
        factor = _even_terms(gram)
        factor.diagonal(dim1=-2, dim2=-1).add_(_A)
        product = factor if product is None else torch.bmm(factor, product)
        if left:
            gram = torch.bmm(factor, torch.bmm(gram, factor))
    assert product is not None
    return torch.bmm(product, x)


def _even_terms(gram: Tensor) -> Tensor:
    """b G + c G²."""
    return torch.baddbmm(gram, gram, gram, beta=_B, alpha=_C)


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised (Jordan et al. 2024), with decoupled weight decay.

    The rate is scaled by sqrt(max(1, rows / columns)), torch.optim.Muon's "original" rule.
    """

    def __init__(
        self,
        parameters: Iterable[Tensor],
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self._dtype = dtype
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[Tensor]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape.setdefault(parameter.shape, []).append(parameter)
            for shape, parameters in by_shape.items():
                on_cpu = parameters[0].device.type == "cpu"
                count = _TOGETHER[self._dtype] if on_cpu else len(parameters)
                for first in range(0, len(parameters), count):
                    self._step_together(group, shape, parameters[first : first + count])

    def _step_together(self, group: dict[str, Any], shape: torch.Size, ps: list[Tensor]) -> None:
        momentum, lr = group["momentum"], group["lr"]
        directions = []
        for p in ps:
            state = self.state[p]
            if not state:
                state["momentum_buffer"] = torch.zeros_like(p)
            buffer = state["momentum_buffer"]
            gradient = p.grad
            assert gradient is not None  # the caller left those out
            buffer.lerp_(gradient, 1.0 - momentum)
            directions.append(torch.lerp(gradient, buffer, momentum))
        updates = orthogonalise(torch.stack(directions), dtype=self._dtype)
        scale = max(1.0, shape[0] / shape[1]) ** 0.5
        for p, update in zip(ps, updates, strict=True):
            p.mul_(1.0 - lr * group["weight_decay"])
            p.add_(update, alpha=-lr * scale)


def build(
    parameters: Mapping[str, Tensor],
    part: OptimiserPart,
    learning_rate: float,
    *,
    compute: torch.dtype = torch.float32,
) -> list[torch.optim.Optimizer]:
    """The optimisers for named trainable `parameters`; each group keeps its peak `base_lr`.

    `compute`: the precision of the run's products; Muon's are in bfloat16 where it is that.
    """
    device = next(iter(parameters.values())).device
    matrices: list[Tensor] = []
    rest: list[Tensor] = []
    for name, parameter in parameters.items():
        hidden = parameter.ndim == 2 and "embed" not in name and "lm_head" not in name
        (matrices if part.name == "muon" and hidden else rest).append(parameter)
    optimisers: list[torch.optim.Optimizer] = []
    if matrices:
        native = compute if compute is torch.bfloat16 else torch.float32
        optimisers.append(
            Muon(matrices, part.muon_rate, part.muon_momentum, part.weight_decay, native)
        )
    decayed = [p for p in rest if p.ndim >= 2]
    kept = [p for p in rest if p.ndim < 2]
    groups = [{"params": decayed, "weight_decay": part.weight_decay}] if decayed else []
    groups += [{"params": kept, "weight_decay": 0.0}] if kept else []
    if groups:
        optimisers.append(_adamw(groups, part, learning_rate, device))
    for optimiser in optimisers:
        for group in optimiser.param_groups:
            group["base_lr"] = group["lr"]
    return optimisers


def _adamw(
    groups: list[dict[str, Any]], part: OptimiserPart, lr: float, device: torch.device
) -> torch.optim.Optimizer:
    options: dict[str, Any] = {"lr": lr, "betas": part.betas, "eps": part.epsilon}
    if part.name == "paged_adamw" and device.type == "cuda":
        try:
            import bitsandbytes
        except ImportError:
            pass  # plain AdamW keeps the same 32-bit states, only not paged
        else:
            paged: torch.optim.Optimizer = bitsandbytes.optim.PagedAdamW32bit(groups, **options)
            return paged
    return torch.optim.AdamW(groups, fused=device.type in ("cpu", "cuda"), **options)


def peaks(optimisers: Iterable[torch.optim.Optimizer]) -> str:
    """The peak rates in words: "rate 0.001", or each with its optimiser where Muon is one."""
    rates = {type(o).__name__: o.param_groups[0]["base_lr"] for o in optimisers}
    if "Muon" not in rates:
        (rate,) = rates.values()
        return f"rate {rate:g}"
    return "rate " + ", ".join(f"{rate:g} ({name})" for name, rate in rates.items())


def set_rates(optimisers: Iterable[torch.optim.Optimizer], factor: float) -> None:
    """Set every group's rate to `factor` times its peak."""
    for optimiser in optimisers:
        for group in optimiser.param_groups:
            group["lr"] = group["base_lr"] * factor
