"""The moving average of the weights."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from stentor.train.ema import MovingAverage, copy_into


def parameter(value: float) -> dict[str, Tensor]:
    return {"w": torch.nn.Parameter(torch.tensor([value]))}


@pytest.mark.parametrize("limit", [0.5, 0.9, 0.999, 1.0])
def test_the_decay_at_update_t_is_the_least_of_limit_and_1_plus_t_over_10_plus_t(
    limit: float,
) -> None:
    weights = parameter(0.0)
    average = MovingAverage(weights, limit)
    expected = 0.0
    for t in range(60):
        copy_into(weights, {"w": torch.tensor([float(t % 7)])})
        average.update(weights)
        decay = min(limit, (1 + t) / (10 + t))
        expected = decay * expected + (1 - decay) * (t % 7)
        assert float(average.average["w"]) == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_the_average_starts_from_the_weights_and_does_not_share_their_memory() -> None:
    weights = parameter(3.0)
    average = MovingAverage(weights, 0.999)
    copy_into(weights, {"w": torch.tensor([5.0])})
    assert float(average.average["w"]) == 3.0


def test_averages_stand_in_inside_the_block_and_the_weights_come_back_even_after_an_error() -> None:
    weights = parameter(1.0)
    average = MovingAverage(weights, 0.5)
    copy_into(weights, {"w": torch.tensor([11.0])})
    average.update(weights)
    with pytest.raises(KeyError), average.applied(weights):
        assert weights["w"].item() == pytest.approx(10.0)  # decay (1 + 0) / (10 + 0)
        raise KeyError
    assert weights["w"].item() == 11.0
