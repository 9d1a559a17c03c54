"""Rates with their uncertainty."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

_Z95 = 1.959963984540054  # the 97.5 % point of the normal distribution


@dataclass(frozen=True)
class Rate:
    """`count` of `n`, with Wilson's 95 % interval."""

    count: int
    n: int

    @property
    def value(self) -> float | None:
        return self.count / self.n if self.n else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """Wilson's score interval (1927); None where nothing was counted."""
        if not self.n:
            return None
        share, z2 = self.count / self.n, _Z95 * _Z95
        centre = (share + z2 / (2 * self.n)) / (1 + z2 / self.n)
        spread = (
            _Z95
            * math.sqrt(share * (1 - share) / self.n + z2 / (4 * self.n * self.n))
            / (1 + z2 / self.n)
        )
        return max(0.0, centre - spread), min(1.0, centre + spread)

    def figures(self) -> dict[str, Any]:
        """For JSON."""
        interval = self.interval
        return {
            "rate": self.value,
            "count": self.count,
            "n": self.n,
            "low": interval[0] if interval else None,
            "high": interval[1] if interval else None,
        }

    def __str__(self) -> str:
        if not self.n or self.interval is None:
            return "– (n 0)"
        low, high = self.interval
        return f"{100 * self.count / self.n:.1f} % [{100 * low:.0f}–{100 * high:.0f}] (n {self.n})"
