"""Micro-batches side by side: the same gradients as one after the other, bit for bit each time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from stentor.chat import SegmentTemplate
from stentor.data.batch import Micro
from stentor.data.encode import encode
from stentor.data.examples import Tally, conversation
from stentor.data.stream import micro
from stentor.errors import TrainingError
from stentor.model import adapters
from stentor.model.lora import dropout_from
from stentor.recipe import AdapterPart
from stentor.train.lanes import Lanes, shared_out
from stentor.train.loop import token_loss


@pytest.fixture(scope="module")
def parts(template: SegmentTemplate) -> list[Micro]:
    """Five micro-batches of unlike lengths."""
    rows = [
        conversation(f"Question {n}?", "A word and another. " * (n + 1), "benign", f"rows:{n}")
        for n in range(10)
    ]
    found = encode(rows, "rows", template, system=None, max_tokens=128, tally=Tally())
    return [micro(found[n : n + 2]) for n in range(0, 10, 2)]


@pytest.fixture
def adapted(tiny_model: Any) -> Any:
    """The tiny model with adapters that drop out a third of their input."""
    model = adapters.attach(tiny_model, AdapterPart(rank=4, alpha=4), "tiny", seed=1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1, generator=torch.Generator().manual_seed(len(name)))
    adapters.set_dropout(model, 0.3)
    return model.train()


def trained(model: Any) -> dict[str, Tensor]:
    return {n: p for n, p in model.named_parameters() if p.requires_grad}


def backward(model: Any, number: int, part: Micro) -> Tensor:
    with dropout_from(number):
        loss, _ = token_loss(model, part)
    loss.backward()
    return loss.detach()


def gradients(model: Any, parts: Sequence[Micro], threads: int) -> tuple[list[Tensor], Any]:
    """The losses of the parts and the sum of their gradients, in `threads` lanes."""
    before = torch.get_num_threads()
    parameters = trained(model)
    torch.set_num_threads(threads)
    try:
        with Lanes(model, parameters, threads) as lanes:
            losses = lanes.work(parts, backward)
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    found = {name: p.grad for name, p in parameters.items()}
    for p in parameters.values():
        p.grad = None
    return losses, found


@pytest.mark.parametrize("threads", [2, 3, 8])
def test_lanes_give_what_one_after_the_other_gives(
    adapted: Any, parts: list[Micro], threads: int
) -> None:
    losses, wanted = gradients(adapted, parts, 1)
    again, found = gradients(adapted, parts, threads)
    torch.testing.assert_close(again, losses)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)
    assert any(float(g.abs().max()) > 1e-3 for g in wanted.values())


def test_the_same_bits_each_time(adapted: Any, parts: list[Micro]) -> None:
    losses, wanted = gradients(adapted, parts, 2)
    for _ in range(3):
        again, found = gradients(adapted, parts, 2)
        assert torch.equal(torch.stack(again), torch.stack(losses))
        assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_all_lanes_see_an_update_of_the_weights(adapted: Any, parts: list[Micro]) -> None:
    with Lanes(adapted, trained(adapted), 2) as lanes:
        before = lanes.work(parts, backward)
        with torch.no_grad():
            for p in trained(adapted).values():
                p.mul_(3.0)
                p.grad = None
        after = lanes.work(parts, backward)
    fresh, _ = gradients(adapted, parts, 1)
    assert all(not torch.allclose(a, b) for a, b in zip(before, after, strict=True))
    torch.testing.assert_close(after, fresh)


def test_what_goes_wrong_in_a_lane_is_raised(adapted: Any, parts: list[Micro]) -> None:
    def fail(model: Any, number: int, part: Micro) -> Tensor:
        if number == 3:
            raise TrainingError("the loss is not finite")
        return backward(model, number, part)

    with (
        Lanes(adapted, trained(adapted), 2) as lanes,
        pytest.raises(TrainingError, match="not finite"),
    ):
        lanes.work(parts, fail)


@pytest.mark.parametrize(
    ("costs", "lanes", "shares"),
    [
        ([5, 5, 5, 5], 2, [[0, 2], [1, 3]]),
        ([9, 4, 5, 1], 2, [[0, 3], [1, 2]]),
        ([1, 2, 3, 4, 5], 3, [[4], [0, 3], [1, 2]]),
        ([7], 2, [[0], []]),
    ],
)
def test_parts_are_shared_out_by_what_they_cost(
    costs: list[int], lanes: int, shares: list[list[int]]
) -> None:
    assert shared_out(costs, lanes) == shares


def smallest_kept() -> float:
    """What is left of 1e-40, which fp32 holds with few digits and slowly, after a product."""
    return float((torch.tensor([1e-40]) * torch.tensor([1.0])).double())


@pytest.mark.skipif(not torch.set_flush_denormal(False), reason="this CPU keeps all numbers")
@pytest.mark.parametrize("threads", [1, 2])
def test_numbers_too_small_to_matter_are_zero_in_training_and_nowhere_else(
    adapted: Any, parts: list[Micro], threads: int
) -> None:
    assert smallest_kept() > 0
    with Lanes(adapted, trained(adapted), threads) as lanes:
        found = lanes.work(parts, lambda *_: torch.tensor(smallest_kept()))
    assert [float(kept) for kept in found] == [0.0] * len(parts)
    assert smallest_kept() > 0
