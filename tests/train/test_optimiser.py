"""Muon against torch's own, and which parameter goes to which optimiser and group."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from stentor.recipe import OptimiserPart
from stentor.train import optimiser as optimisers
from stentor.train.optimiser import Muon, orthogonalise

SHAPES = [(8, 8), (8, 24), (24, 8), (64, 192)]


def test_muon_takes_the_steps_of_torch_optim_muon() -> None:
    torch.manual_seed(0)
    start = [torch.randn(shape) for shape in (*SHAPES, *SHAPES[:2])]
    ours = [torch.nn.Parameter(t.clone()) for t in start]
    theirs = [torch.nn.Parameter(t.clone()) for t in start]
    options: dict[str, Any] = {"lr": 0.02, "momentum": 0.9, "weight_decay": 0.1}
    mine = Muon(ours, dtype=torch.bfloat16, **options)
    reference = torch.optim.Muon(theirs, nesterov=True, adjust_lr_fn="original", **options)
    for step in range(5):
        torch.manual_seed(step)
        for a, b in zip(ours, theirs, strict=True):
            a.grad = torch.randn_like(a)
            b.grad = a.grad.clone()
        mine.step()
        reference.step()
    for a, b, before in zip(ours, theirs, start, strict=True):
        moved = (b - before).norm()
        # stacked and single products round differently in bf16, which iterating magnifies
        assert (a - b).norm() / moved < 0.02


def test_muon_in_float32_agrees_with_bfloat16_within_its_precision() -> None:
    torch.manual_seed(1)
    matrices = torch.randn(3, 16, 40)
    exact = orthogonalise(matrices)
    rounded = orthogonalise(matrices, dtype=torch.bfloat16)
    assert rounded.dtype == matrices.dtype
    assert (exact - rounded).norm() / exact.norm() < 0.06


@pytest.mark.parametrize("shape", SHAPES)
def test_orthogonalising_moves_every_singular_value_near_one_and_keeps_directions(
    shape: tuple[int, int],
) -> None:
    torch.manual_seed(2)
    left, _ = torch.linalg.qr(torch.randn(max(shape), min(shape)))
    right, _ = torch.linalg.qr(torch.randn(min(shape), min(shape)))
    values = torch.linspace(0.05, 30.0, min(shape))
    matrix = (left * values) @ right.T
    nearest = left @ right.T  # the polar factor, which Newton–Schulz tends to
    if shape[0] < shape[1]:
        matrix, nearest = matrix.T, nearest.T
    found = orthogonalise(matrix[None])[0]
    large = torch.linalg.svdvals(found)[: min(shape) // 2]
    assert large.min() > 0.6 and large.max() < 1.3
    cosine = (found * nearest).sum() / found.norm() / nearest.norm()
    assert cosine > 0.95


@pytest.mark.parametrize("shape", [(24, 24), (24, 72), (72, 24), (24, 40)])
def test_float32_agrees_with_the_plain_iteration_in_float64(shape: tuple[int, int]) -> None:
    """Also for ill-conditioned matrices, as momentum is: a few directions and a little noise."""
    torch.manual_seed(4)
    few = torch.randn(7, shape[0], 3) @ torch.randn(7, 3, shape[1])
    matrices = few + 1e-3 * torch.randn(7, *shape)
    x = matrices.double()
    x = x / x.norm(dim=(-2, -1), keepdim=True)
    for _ in range(5):
        gram = x @ x.mT if shape[0] <= shape[1] else x.mT @ x
        p = -4.7750 * gram + 2.0315 * gram @ gram
        x = 3.4445 * x + (p @ x if shape[0] <= shape[1] else x @ p)
    found = orthogonalise(matrices).double()
    assert (found - x).norm() / x.norm() < 1e-3


def test_each_matrix_of_a_stack_is_orthogonalised_by_itself() -> None:
    torch.manual_seed(3)
    matrices = torch.randn(4, 6, 10)
    together = orthogonalise(matrices)
    for matrix, found in zip(matrices, together, strict=True):
        torch.testing.assert_close(orthogonalise(matrix[None])[0], found)


def test_a_parameter_without_a_gradient_is_left_alone() -> None:
    used, unused = (torch.nn.Parameter(torch.ones(4, 4)) for _ in range(2))
    used.grad = torch.randn(4, 4)
    Muon([used, unused], lr=0.1, weight_decay=0.5).step()
    assert torch.equal(unused, torch.ones(4, 4)) and not torch.equal(used, torch.ones(4, 4))


def names(model: Any, optimiser: torch.optim.Optimizer, group: int) -> set[str]:
    wanted = {id(p) for p in optimiser.param_groups[group]["params"]}
    return {name for name, p in model.named_parameters() if id(p) in wanted}


def test_adamw_decays_matrices_and_never_norms(tiny_model: Any) -> None:
    parameters = dict(tiny_model.named_parameters())
    part = OptimiserPart(name="adamw", weight_decay=0.1, betas=(0.8, 0.95), epsilon=1e-6)
    (found,) = optimisers.build(parameters, part, 3e-4)
    decayed, kept = found.param_groups
    assert (decayed["weight_decay"], kept["weight_decay"]) == (0.1, 0.0)
    assert names(tiny_model, found, 1) == {name for name in parameters if "norm" in name}
    assert names(tiny_model, found, 0) | names(tiny_model, found, 1) == set(parameters)
    for group in found.param_groups:
        assert (group["lr"], group["betas"], group["eps"]) == (3e-4, (0.8, 0.95), 1e-6)


def test_muon_gets_the_hidden_matrices_and_never_the_embedding_the_head_or_a_norm(
    tiny_model: Any,
) -> None:
    tiny_model.lm_head.weight = torch.nn.Parameter(tiny_model.lm_head.weight.clone())  # untied
    parameters = dict(tiny_model.named_parameters())
    part = OptimiserPart(name="muon", muon_rate=0.03, muon_momentum=0.8, weight_decay=0.01)
    muon, adamw = optimisers.build(parameters, part, 2e-3)
    assert isinstance(muon, Muon)
    hidden = names(tiny_model, muon, 0)
    assert {name.rsplit(".", 2)[1] for name in hidden} == {
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj",
    }  # fmt: skip
    assert len(hidden) == 2 * 7
    assert names(tiny_model, adamw, 0) == {"model.embed_tokens.weight", "lm_head.weight"}
    assert muon.param_groups[0]["lr"] == 0.03 and muon.param_groups[0]["momentum"] == 0.8
    assert adamw.param_groups[0]["lr"] == 2e-3


def test_muon_without_any_matrix_is_plain_adamw() -> None:
    norm = {"norm.weight": torch.nn.Parameter(torch.ones(4))}
    (found,) = optimisers.build(norm, OptimiserPart(name="muon"), 1e-3)
    assert isinstance(found, torch.optim.AdamW)


@pytest.mark.skipif(torch.cuda.is_available(), reason="bitsandbytes may be there on a GPU")
def test_paged_adamw_is_adamw_where_there_is_no_gpu(tiny_model: Any) -> None:
    parameters = dict(tiny_model.named_parameters())
    (found,) = optimisers.build(parameters, OptimiserPart(name="paged_adamw"), 1e-3)
    assert isinstance(found, torch.optim.AdamW)


def test_rates_are_always_the_factor_times_the_peak_of_each_group(tiny_model: Any) -> None:
    parameters = dict(tiny_model.named_parameters())
    built = optimisers.build(parameters, OptimiserPart(name="muon", muon_rate=0.02), 1e-3)
    for factor in (0.5, 0.1, 0.1, 1.0):  # not multiplied up
        optimisers.set_rates(built, factor)
        muon, adamw = (o.param_groups[0]["lr"] for o in built)
        assert (muon, adamw) == (0.02 * factor, 1e-3 * factor)


@pytest.mark.parametrize(
    ("name", "names", "said"),
    [
        ("adamw", ["q_proj.weight"], "rate 0.001"),
        ("muon", ["lora_A.weight"], "rate 0.02 (Muon)"),  # learning_rate does nothing
        ("muon", ["q_proj.weight", "embed.weight"], "rate 0.02 (Muon), 0.001 (AdamW)"),
    ],
)
def test_the_peak_rates_are_told_as_they_are(name: str, names: list[str], said: str) -> None:
    parameters = {n: torch.nn.Parameter(torch.ones(2, 2)) for n in names}
    part = OptimiserPart.model_validate({"name": name})
    assert optimisers.peaks(optimisers.build(parameters, part, 1e-3)) == said


def test_adamw_steps_as_torchs_plain_adamw_does() -> None:
    torch.manual_seed(4)
    start = {"a.weight": torch.randn(5, 3), "norm.weight": torch.randn(5)}
    ours = {name: torch.nn.Parameter(t.clone()) for name, t in start.items()}
    theirs = {name: torch.nn.Parameter(t.clone()) for name, t in start.items()}
    part = OptimiserPart(name="adamw", weight_decay=0.1)
    (mine,) = optimisers.build(ours, part, 0.01)
    groups: list[dict[str, Any]] = [
        {"params": [theirs["a.weight"]], "weight_decay": 0.1},
        {"params": [theirs["norm.weight"]], "weight_decay": 0.0},
    ]
    reference = torch.optim.AdamW(groups, lr=0.01, fused=False, foreach=False)

    def set_gradient(parameters: dict[str, torch.nn.Parameter], step: int) -> None:
        for name, p in parameters.items():
            generator = torch.Generator().manual_seed(step + len(name))
            p.grad = torch.randn(p.shape, generator=generator)

    for step in range(4):
        set_gradient(ours, step)
        set_gradient(theirs, step)
        mine.step()
        reference.step()
    for name, found in ours.items():
        wanted: Tensor = theirs[name]
        torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-7)
