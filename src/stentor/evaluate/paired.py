"""Two models on the same prompts: which differences are real?"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from stentor.errors import InputError
from stentor.evaluate.probe import Record


@dataclass(frozen=True)
class Paired:
    """How a yes-or-no outcome moved from model A to model B over the same prompts."""

    n: int
    both: int
    only_a: int
    only_b: int

    @property
    def p_value(self) -> float:
        """McNemar's exact test, two-sided: are the changes as likely either way?"""
        changed = self.only_a + self.only_b
        if changed == 0:
            return 1.0
        tail = sum(math.comb(changed, k) for k in range(min(self.only_a, self.only_b) + 1))
        p_value: float = min(1.0, 2 * tail / 2**changed)
        return p_value

    def figures(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "a": (self.both + self.only_a) / self.n if self.n else None,
            "b": (self.both + self.only_b) / self.n if self.n else None,
            "n": self.n,
            "only_a": self.only_a,
            "only_b": self.only_b,
            "p_value": self.p_value,
        }


def paired(a: Sequence[Record], b: Sequence[Record], holds: Callable[[Record], bool]) -> Paired:
    """Compare greedy records of two probes of the same prompts."""
    first = {(r.suite, r.id): r for r in a if r.sample == 0}
    second = {(r.suite, r.id): r for r in b if r.sample == 0}
    if first.keys() != second.keys():
        raise InputError("the two probes asked different prompts; probe both with the same suites")
    sides = [(holds(first[key]), holds(second[key])) for key in first]
    return Paired(
        n=len(sides),
        both=sum(x and y for x, y in sides),
        only_a=sum(x and not y for x, y in sides),
        only_b=sum(y and not x for x, y in sides),
    )
