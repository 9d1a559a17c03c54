"""Processor time of one forward and backward pass, on made-up tokens: for comparing two versions.

    python benchmarks/step_time.py pretrain|examples|adapter|adapter-merged [--precision bf16]

`pretrain`: 2,048 tokens in six documents, a softmax over 6,000 pieces, all weights trained.
`examples`: 19 of 60 to 145 tokens behind one prompt of 134, the softmax over all pieces, all
weights trained; `adapter`: the same with LoRA of rank 32 and dropout 0.1 (`adapter-merged`:
without). Run it in turns from two checkouts (PYTHONPATH=CHECKOUT/src): processor time is disturbed
less by other work than time is.
"""

from __future__ import annotations

import argparse
import random
import resource
import statistics
import time
from typing import Any

import torch
from transformers import LlamaForCausalLM

from stentor.data.batch import Micro
from stentor.model import adapters
from stentor.model.layout import Span, lay_out
from stentor.model.presets import preset
from stentor.recipe import AdapterPart, TrainPart
from stentor.train.device import machine
from stentor.train.loop import token_loss


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("work", choices=["pretrain", "examples", "adapter", "adapter-merged"])
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    options = parser.parse_args()
    torch.manual_seed(0)
    model: Any = LlamaForCausalLM(preset("stentor-12m").config()).train()
    part = documents() if options.work == "pretrain" else examples()
    computer = machine(TrainPart(device="cpu", precision=options.precision))
    if options.work.startswith("adapter"):
        model = adapters.attach(model, AdapterPart(rank=32, alpha=32, rslora=True), "base", seed=1)
        adapters.set_dropout(model.train(), 0.1 if options.work == "adapter" else 0.0)

    def step() -> float:
        model.zero_grad()
        started = time.process_time()
        with computer.autocast():
            loss, _ = token_loss(model, part)
        (loss / part.supervised).backward()
        return time.process_time() - started

    step()
    took = [step() for _ in range(options.times)]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{options.work}, {options.precision}: {statistics.median(took):.3f} s of processor time "
          f"({', '.join(f'{t:.3f}' for t in took)}), peak memory {peak:,.0f} MiB")  # fmt: skip


def documents() -> Micro:
    spans: list[Span] = []
    for length in (512, 300, 212, 512, 90, 422):
        spans.append(Span(sum(s.length for s in spans), length))
    pieces = 6000
    targets = torch.randint(pieces, (2048,))
    ids, places = torch.randint(32_768, (2048,)), torch.arange(2048)
    return Micro(ids, lay_out(spans), places, targets, torch.arange(pieces), torch.zeros(pieces))


def examples() -> Micro:
    draw = random.Random(1)
    spans, places, end = [Span(0, 134)], [], 134
    for length in sorted(draw.randint(60, 145) for _ in range(19)):
        spans.append(Span(end, length, 0))
        places += range(end + length - int(length * 0.72), end + length)
        end += length
    targets = torch.randint(32_768, (len(places),))
    return Micro(torch.randint(32_768, (end,)), lay_out(spans), torch.tensor(places), targets)


if __name__ == "__main__":
    main()
