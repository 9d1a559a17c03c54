"""The joined products of projections equal PEFT's, each for itself."""

from __future__ import annotations

from typing import Any, cast

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from stentor.model import lora

WIDTHS = {"first": 10, "second": 7, "third": 12}


class Projections(nn.Module):
    def __init__(self, bias: bool = False) -> None:
        super().__init__()
        for name, width in WIDTHS.items():
            setattr(self, name, nn.Linear(8, width, bias=bias))


def adapted(dropout: float, *, targets: tuple[str, ...] = tuple(WIDTHS), bias: bool = False) -> Any:
    """Three projections with adapters of rank 3, in float64 and in training."""
    torch.manual_seed(3)
    config = LoraConfig(
        r=3, lora_alpha=5, lora_dropout=dropout, target_modules=list(targets),
        init_lora_weights=False,
    )  # fmt: skip
    return get_peft_model(Projections(bias), config).double().train()


def project(x: Tensor, used: list[nn.Module]) -> list[Tensor]:
    return list(lora.project(x, used).split([m.weight.shape[0] for m in used], dim=1))  # type: ignore[union-attr]


def modules(model: Any) -> list[nn.Module]:
    return [getattr(model.base_model.model, name) for name in WIDTHS]


class Masked(nn.Module):
    """In place of a dropout layer: a mask that is known, scaled as dropout scales."""

    def __init__(self, mask: Tensor, rate: float) -> None:
        super().__init__()
        self.mask, self.rate = mask, rate

    def forward(self, x: Tensor) -> Tensor:
        return x * self.mask / (1 - self.rate)


def gradients(model: Any, x: Tensor, outputs: list[Tensor]) -> dict[str, Tensor]:
    model.zero_grad()
    x.grad = None
    sum((out.sin() * (n + 1)).sum() for n, out in enumerate(outputs)).backward()  # type: ignore[union-attr]
    found = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    assert x.grad is not None
    return found | {"x": x.grad.clone()}


@pytest.mark.parametrize("targets", [tuple(WIDTHS), ("first", "third")], ids=["all", "some"])
def test_without_dropout_values_and_gradients_are_pefts(targets: tuple[str, ...]) -> None:
    model = adapted(0.0, targets=targets)
    x = torch.randn(20, 8, dtype=torch.float64, requires_grad=True)
    expected = [module(x) for module in modules(model)]
    wanted = gradients(model, x, expected)
    found = project(x, modules(model))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gradients(model, x, found), wanted, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("count", "targets"),
    [(1, tuple(WIDTHS)), (3, tuple(WIDTHS)), (3, ("first", "third")), (3, ("second",))],
)
def test_with_dropout_values_and_gradients_are_pefts_for_the_same_mask(
    monkeypatch: pytest.MonkeyPatch, count: int, targets: tuple[str, ...]
) -> None:
    model = adapted(0.4, targets=targets)
    used = modules(model)[:count]
    x = torch.randn(20, 8, dtype=torch.float64, requires_grad=True)
    mask = (torch.rand(20, 8) >= 0.4).double()
    monkeypatch.setattr(lora, "_kept", lambda x, rate, dtype: (mask, rate))
    found = project(x, used)
    got = gradients(model, x, found)
    for module in used:
        if hasattr(module, "lora_dropout"):
            module.lora_dropout["default"] = Masked(mask, 0.4)  # type: ignore[operator]
    expected = [module(x) for module in used]
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(got, gradients(model, x, expected), rtol=1e-10, atol=1e-10)


def test_in_half_precision_a_small_adapter_is_not_rounded_away() -> None:
    """W is on bfloat16's grid, and s B A far below half its step: merged, nothing would be left."""
    model = adapted(0.0).float()
    x = torch.randn(20_000, 8).bfloat16().float()
    with torch.no_grad():
        for module in modules(model):
            base: Any = module.base_layer
            base.weight.copy_(base.weight.sign() * 1.5)
            cast(Any, module).lora_B["default"].weight.mul_(1e-3)
    plain = torch.cat([module.base_layer(x) for module in modules(model)], dim=1)  # type: ignore[operator]
    wanted = torch.cat(project(x, modules(model)), dim=1) - plain
    with torch.autocast("cpu", torch.bfloat16):
        found = torch.cat(project(x, modules(model)), dim=1).float() - plain
    slope = ((found * wanted).sum() / wanted.square().sum()).item()
    assert slope == pytest.approx(1.0, abs=0.2)  # each output is rounded, their mean is not


def test_dropout_is_right_on_average() -> None:
    """Over many masks the mean is what the projections give in evaluation."""
    model = adapted(0.3)
    x = torch.randn(4, 8, dtype=torch.float64)
    wanted = torch.cat(project(x, modules(model.eval())), dim=1).detach()
    model.train()
    torch.manual_seed(0)
    drawn = torch.stack(
        [torch.cat(project(x, modules(model)), dim=1).detach() for _ in range(4000)]
    )
    error = drawn.std(dim=0) / 4000**0.5
    assert ((drawn.mean(dim=0) - wanted).abs() < 5 * error + 1e-12).all()


@pytest.mark.parametrize("rate", [0.1, 0.25, 0.5, 1.0])
def test_elements_are_dropped_at_the_rate_and_independently(rate: float) -> None:
    torch.manual_seed(1)
    kept, drawn_with = lora._kept(torch.empty(1003, 129), rate, torch.float32)
    assert abs(drawn_with - rate) <= 2**-17
    assert {*kept.unique().tolist()} <= {0.0, 1.0}
    n = kept.numel()
    assert abs(float(kept.mean()) - (1 - rate)) < 5 * (rate * (1 - rate) / n) ** 0.5 + 1e-9
    flat = kept.flatten() - kept.mean()
    for lag in (1, 2, 3, 4, 129):  # four neighbours come from one number of the generator
        together = float((flat[lag:] * flat[:-lag]).mean())
        assert abs(together) < 5 * rate * (1 - rate) / n**0.5 + 1e-9


def test_the_seed_decides_what_is_dropped() -> None:
    def draw(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return lora._kept(torch.empty(50, 8), 0.5, torch.float32)[0]

    assert torch.equal(draw(1), draw(1)) and not torch.equal(draw(1), draw(2))


def test_an_adapter_whose_dropout_drops_all_leaves_the_base() -> None:
    model = adapted(0.999)
    for module in modules(model):
        module.lora_dropout["default"].p = 1.0  # type: ignore[index, union-attr]
    x = torch.randn(5, 8, dtype=torch.float64)
    for out, module in zip(project(x, modules(model)), modules(model), strict=True):
        torch.testing.assert_close(out, module.base_layer(x))  # type: ignore[operator]


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_projections_with_a_bias_go_through_their_own_forward(dropout: float) -> None:
    model = adapted(dropout, bias=True)
    x = torch.randn(5, 8, dtype=torch.float64)
    torch.manual_seed(0)
    found = project(x, modules(model))
    torch.manual_seed(0)
    torch.testing.assert_close(found, [module(x) for module in modules(model)])


def test_under_autocast_products_are_in_half_precision_and_gradients_in_full() -> None:
    model = adapted(0.2).float()
    x = torch.randn(20, 8, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = project(x, modules(model))
    assert all(o.dtype is torch.bfloat16 for o in out)
    found = gradients(model, x, out)
    assert all(g.dtype is torch.float32 and g.isfinite().all() for g in found.values())
