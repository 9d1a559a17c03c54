"""A moving average of the trained weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor


class MovingAverage:
    """Averages `parameters` with decay min(limit, (1 + t) / (10 + t)) at update t (from 0).

    The rising decay keeps the random start of a short phase out of the average.
    """

    def __init__(self, parameters: Mapping[str, Tensor], limit: float) -> None:
        self.limit = limit
        self.updates = 0
        self.average = {name: p.detach().clone() for name, p in parameters.items()}

    @torch.no_grad()
    def update(self, parameters: Mapping[str, Tensor]) -> None:
        """Move the average towards `parameters`."""
        decay = min(self.limit, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        for name, parameter in parameters.items():
            self.average[name].lerp_(parameter, 1.0 - decay)

    @contextmanager
    def applied(self, parameters: Mapping[str, Tensor]) -> Iterator[None]:
        """The averages stand in for `parameters` inside the block."""
        raw = {name: p.detach().clone() for name, p in parameters.items()}
        copy_into(parameters, self.average)
        try:
            yield
        finally:
            copy_into(parameters, raw)


@torch.no_grad()
def copy_into(parameters: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    """Set each parameter to its value."""
    for name, parameter in parameters.items():
        parameter.copy_(values[name])
