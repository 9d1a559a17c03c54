"""Rates with their uncertainty."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

Z95 = 1.959963984540054  # the 97.5 % point of the normal distribution


def wilson(share: float, n: int) -> tuple[float, float]:
    """Wilson's 95 % score interval (1927) of a share seen in `n` > 0 trials."""
    z2 = Z95 * Z95
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    spread = Z95 * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    return max(0.0, centre - spread), min(1.0, centre + spread)


@dataclass(frozen=True)
class Rate:
    """`count` of `n`, with Wilson's 95 % interval."""

    count: int
    n: int
    prompts: int | None = None
    """How many prompts the `n` replies are to, where some are to the same one; None: to `n`.

    Replies to one prompt are much alike, so that they tell hardly more than one of them: the
    interval is that of the rate in so many trials as there are prompts.
    """

    @property
    def value(self) -> float | None:
        return self.count / self.n if self.n else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """Wilson's score interval (1927); None where nothing was counted."""
        return wilson(self.count / self.n, self.prompts or self.n) if self.n else None

    def figures(self) -> dict[str, Any]:
        """For JSON."""
        interval = self.interval
        return {
            "rate": self.value,
            "count": self.count,
            "n": self.n,
            "prompts": self.n if self.prompts is None else self.prompts,
            "low": interval[0] if interval else None,
            "high": interval[1] if interval else None,
        }

    def __str__(self) -> str:
        if not self.n or self.interval is None:
            return "– (n 0)"
        low, high = self.interval
        return f"{100 * self.count / self.n:.1f} % [{100 * low:.0f}–{100 * high:.0f}] (n {self.n})"


# The 97.5 % points of Student's t for 1 to 30 degrees of freedom (Fisher and Yates, table III).
_T95 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160,
    2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056,
    2.052, 2.048, 2.045, 2.042,
)  # fmt: skip


def mean_interval(values: Sequence[float]) -> tuple[float, float | None, float | None]:
    """(mean, low, high) of `values` with Student's 95 % interval; None where one value has none."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return mean, None, None
    freedom = len(values) - 1
    t = _T95[freedom - 1] if freedom <= len(_T95) else Z95 + 2.5 / freedom
    half = t * statistics.stdev(values) / math.sqrt(len(values))
    return mean, mean - half, mean + half
