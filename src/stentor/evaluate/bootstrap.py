"""How sure a difference is that is no rate: a paired bootstrap over prompts or rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
DRAWS = 2000


def paired_bootstrap(
    a: Sequence[tuple[float, float]],
    b: Sequence[tuple[float, float]],
    *,
    seed: int = 0,
    of: Callable[[Floats], Floats] = lambda quotient: quotient,
) -> dict[str, Any]:
    """A figure of model B less that of A on the same rows, with a 95 % percentile interval.

    `a`, `b`: for each row what is added up and what the sum is divided by, such as nats and
    tokens; (0, 0) where a model's row has nothing to count. `of` makes the figure of the quotient.
    Rows are drawn anew with both models' values together (Efron, 1979); draws in which one of
    them has nothing to count are left out. All None where one has nothing at all; one row alone
    has no interval.
    """
    found: dict[str, Any] = {"difference": None, "low": None, "high": None}
    rows = np.array([a, b], dtype=np.float64).reshape(2, -1, 2)
    if not rows[:, :, 1].sum(axis=1).all():
        return found
    found["difference"] = float(_less(rows.sum(axis=1, keepdims=True), of)[0])
    if rows.shape[1] > 1:
        drawn = _less(_how_often(rows.shape[1], seed) @ rows, of)
        low, high = np.nanquantile(drawn, [0.025, 0.975])
        found |= {"low": float(low), "high": float(high)}
    return found


def _less(sums: Floats, of: Callable[[Floats], Floats]) -> Floats:
    """B − A for `sums` (2 models, draws, 2)."""
    with np.errstate(invalid="ignore"):  # 0 / 0: nothing to count
        first, second = of(sums[:, :, 0] / sums[:, :, 1])
    less: Floats = second - first
    return less


def _how_often(n: int, seed: int) -> Floats:
    """(DRAWS, n): how many times each of n rows is in each draw of n with replacement."""
    rows = np.random.default_rng(seed).integers(n, size=(DRAWS, n))
    places = rows + n * np.arange(DRAWS)[:, None]
    return np.bincount(places.ravel(), minlength=DRAWS * n).reshape(DRAWS, n).astype(np.float64)
