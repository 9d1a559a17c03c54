"""Weights in blocks of 8 or 4 bit, for `MatMulNBits` and for standard operators.

A block of B numbers along a row shares a scale; a stored number u means (u - half) · scale. The
head multiplies through `MatMulNBits`, the embedding reads its rows of the same stored tensor
with standard operators, which also run in a browser (its runtime lacks GatherBlockQuantized).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from stentor.export.format import Floats
from stentor.export.onnx_graph import Graph, once

_CANDIDATES = 12


def quantise(values: Floats, bits: int, block: int) -> tuple[Any, Floats]:
    """Numbers (out, blocks, block) in 0 … 2^bits - 1, and scales (out, blocks).

    The scale of a block is the one, of those that map its largest number to nearly the end of
    the range on either side, that loses least in squares: the plain choice costs 4-bit copies a
    quarter of their quality.
    """
    half = 2 ** (bits - 1)
    split = values.reshape(len(values), -1, block)
    largest = np.take_along_axis(split, np.abs(split).argmax(-1, keepdims=True), -1)
    best = np.full(largest.shape, np.inf, np.float32)
    scales = np.zeros(largest.shape, np.float32)
    # one more number lies below zero than above, so the largest should fall there
    ends = -half * np.linspace(1.25, 0.85, _CANDIDATES) if bits == 4 else np.array([-half + 0.0])
    for end in ends.astype(np.float32):
        scale = largest / end
        turned = np.divide(split, scale, out=np.zeros_like(split), where=scale != 0)
        loss = ((np.clip(np.rint(turned), -half, half - 1) * scale - split) ** 2).sum(
            -1, keepdims=True
        )
        better = loss < best
        best, scales = np.where(better, loss, best), np.where(better, scale, scales)
    turned = np.divide(split, scales, out=np.zeros_like(split), where=scales != 0)
    numbers = np.clip(np.rint(turned), -half, half - 1) + half
    return numbers.astype(np.uint8), scales[..., 0]


class Blocks:
    """A weight (out, in) in blocks; `in` is a multiple of the block."""

    def __init__(self, name: str, values: Floats, *, bits: int, block: int) -> None:
        self._name, self._bits, self._block = name, bits, block
        self._out, self._in = values.shape
        numbers, self._scales = quantise(values, bits, block)
        if bits == 4:  # the even places in the low halves of the bytes
            numbers = numbers[..., ::2] | (numbers[..., 1::2] << 4)
        self._numbers = numbers

    def _stored(self, graph: Graph) -> tuple[str, str]:
        return (
            graph.store(f"{self._name}.q{self._bits}", self._numbers),
            graph.store(f"{self._name}.scales", self._scales.reshape(-1)),
        )

    def times(self, graph: Graph, x: str, *, out: str | None = None) -> str:
        return graph(
            "MatMulNBits", x, *self._stored(graph), out=out, domain="com.microsoft",
            K=self._in, N=self._out, bits=self._bits, block_size=self._block,
            accuracy_level=4,  # products in 8 bit: many times as fast as widening the weights
        )  # fmt: skip

    def rows(self, graph: Graph, ids: str) -> str:
        numbers, scales = self._stored(graph)
        blocks = self._in // self._block
        found = graph("Gather", numbers, ids, axis=0)  # (B, T, blocks, bytes)
        if self._bits == 4:
            sixteen = graph.store("sixteen", np.array(16, np.uint8))
            parts = [graph("Mod", found, sixteen), graph("Div", found, sixteen)]
            wide = [graph("Unsqueeze", p, graph.ints(-1)) for p in parts]
            pairs = graph("Concat", *wide, axis=-1)
            found = graph("Reshape", pairs, graph.ints(0, 0, blocks, self._block))
        half = graph.store(f"half_{self._bits}", np.array(2.0 ** (self._bits - 1), np.float32))
        signed = graph("Sub", graph("Cast", found, to=1), half)
        grid = graph("Reshape", scales, graph.ints(self._out, blocks))
        factors = graph("Unsqueeze", graph("Gather", grid, ids, axis=0), graph.ints(-1))
        return graph("Reshape", graph("Mul", signed, factors), graph.ints(0, 0, self._in))


class WidenedBlocks(Blocks):
    """The same stored numbers, widened to fp32 once, when a session folds its constants.

    Rows are still read from the stored numbers: widening them for that too would keep a second,
    transposed copy of the embedding.
    """

    def _wide(self, graph: Graph) -> str:
        """The weight (out, in) in fp32."""
        out = f"{self._name}.wide"
        if any(out in node.output for node in graph.nodes):
            return out
        numbers, scales = self._stored(graph)
        blocks = self._in // self._block
        if self._bits == 4:
            sixteen = graph.store("sixteen", np.array(16, np.uint8))
            parts = [graph("Mod", numbers, sixteen), graph("Div", numbers, sixteen)]
            pairs = graph(
                "Concat", *[graph("Unsqueeze", p, graph.ints(-1)) for p in parts], axis=-1
            )
            numbers = graph("Reshape", pairs, graph.ints(self._out, blocks, self._block))
        half = graph.store(f"half_{self._bits}", np.array(2.0 ** (self._bits - 1), np.float32))
        signed = graph("Sub", graph("Cast", numbers, to=1), half)
        factors = graph("Reshape", scales, graph.ints(self._out, blocks, 1))
        widened = graph("Mul", signed, factors)
        return graph("Reshape", widened, graph.ints(self._out, self._in), out=out)

    def times(self, graph: Graph, x: str, *, out: str | None = None) -> str:
        return graph("MatMul", x, once(graph, "Transpose", self._wide(graph), perm=[1, 0]), out=out)
