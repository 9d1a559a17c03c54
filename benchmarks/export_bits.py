"""What 4 bits cost: size against quality, for group sizes and for tensors kept at 8 bits.

    python benchmarks/export_bits.py stentor-12m

Each row quantises the weights as `stentor export --to onnx:int4` does, puts what they stand for
back into the torch model, and reads the held-out text of the parity check with it. So products
in 8 bit, which a runtime may form, are not in these figures; the export's own table has them.
Rows that another row beats in both size and quality are marked with a dot.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from stentor.export.onnx_blocks import quantise
from stentor.export.reference import Reference, log_softmax
from stentor.model.load import load

Plan = Callable[[str], tuple[int, int]]
"""Name of a weight → bits and group size."""


def plan(body: int, embedding: int, block: int, eight: tuple[str, ...] = ()) -> Plan:
    def of(name: str) -> tuple[int, int]:
        if "embed" in name or "lm_head" in name:
            return embedding, block
        return (8 if any(part in name for part in eight) else body), block

    return of


PLANS = {
    "all 8, groups of 32": plan(8, 8, 32),
    "all 4, groups of 16": plan(4, 4, 16),
    "all 4, groups of 32": plan(4, 4, 32),
    "all 4, groups of 64": plan(4, 4, 64),
    "embedding 8, rest 4, groups of 32": plan(4, 8, 32),
    "embedding 8, rest 4, groups of 64": plan(4, 8, 64),
    "embedding 4, rest 8, groups of 32": plan(8, 4, 32),
    "groups of 64, down 8, rest 4": plan(4, 4, 64, ("down_proj",)),
    "groups of 32, down 8, rest 4": plan(4, 4, 32, ("down_proj",)),
    "groups of 64, v and o 8, rest 4": plan(4, 4, 64, ("v_proj", "o_proj")),
    "groups of 64, layers 0 and last 8, rest 4": plan(4, 4, 64, ("layers.0.", "layers.11.")),
}


@dataclass(frozen=True)
class Row:
    name: str
    megabytes: float
    kl: float
    rise: float


def quantised(weight: torch.Tensor, bits: int, block: int) -> tuple[torch.Tensor, float]:
    """What the stored numbers stand for, and how many bytes they take with their scales."""
    numbers, scales = quantise(weight.float().numpy(), bits, block)
    back = (numbers.astype(np.float32) - 2 ** (bits - 1)) * scales[..., None]
    size = numbers.size * bits / 8 + scales.size * 4
    return torch.from_numpy(back.reshape(weight.shape)), size


def measure(reference: Reference, name: str, of: Plan) -> Row:
    model = reference.loaded.model
    kept = {n: p.detach().clone() for n, p in model.named_parameters()}
    size = 0.0
    try:
        for n, parameter in model.named_parameters():
            if parameter.ndim == 2:
                values, taken = quantised(parameter.data, *of(n))
                parameter.data.copy_(values)
                size += taken
            else:
                size += 4 * parameter.numel()
        kls, ours, theirs = [], [], []
        for passage in reference.passages:
            places = list(passage.scored)
            targets = np.array(passage.ids)[np.array(places) + 1]
            p = reference.distribution(passage).astype(np.float64)
            q = log_softmax(reference.logits(passage.ids[:-1])[places])
            rows = np.arange(len(places))
            kls.append((np.exp(p) * (p - q)).sum(-1))
            ours.append(-p[rows, targets])
            theirs.append(-q[rows, targets])
    finally:
        for n, parameter in model.named_parameters():
            parameter.data.copy_(kept[n])
    rise = float((np.concatenate(theirs) - np.concatenate(ours)).mean())
    return Row(name, size / 1e6, float(np.concatenate(kls).mean()), 100 * math.expm1(rise))


def main() -> None:
    reference = Reference(load(sys.argv[1] if len(sys.argv) > 1 else "stentor-12m"))
    for passage in reference.passages:
        reference.distribution(passage)  # of the weights as they are, before any is changed
    rows = []
    for name, of in PLANS.items():
        rows.append(measure(reference, name, of))
        print(rows[-1], file=sys.stderr)
    print("| | MB | KL | perplexity | |\n| --- | --- | --- | --- | --- |")
    for row in sorted(rows, key=lambda r: r.megabytes):
        beaten = any(r.megabytes <= row.megabytes and r.kl < row.kl for r in rows)
        dot = "·" if beaten else ""
        print(f"| {row.name} | {row.megabytes:.2f} | {row.kl:.1e} | {row.rise:+.2f} % | {dot} |")


if __name__ == "__main__":
    main()
