"""Where does a step of fine-tuning spend its time, and how far is that from the processor's limit?

    STENTOR_DATA=DIR python benchmarks/finetune_profile.py [--recipe open] [--phase 1]

Runs one optimiser step's examples through the model, forward and backward, with the recipe's own
dropout, and prints a table in Markdown: the share of each kind of work, the rate of the matrix
products, and beside it what the same processor reaches on large products alone.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile

from stentor.data import mix
from stentor.data.stream import ExampleStream
from stentor.model import adapters
from stentor.model.load import load
from stentor.recipe import Recipe, TrainPart
from stentor.recipe import load as load_recipe
from stentor.train.device import machine
from stentor.train.loop import token_loss

KINDS = {
    "matrix products": ("aten::mm", "aten::addmm", "aten::addmm_", "aten::bmm"),
    "attention": ("aten::_scaled_dot_product", "_Attention"),
    "random numbers and masks": ("aten::random_", "aten::bernoulli_", "aten::gt", "aten::ge"),
    "softmax of the head": ("aten::_softmax", "aten::amax"),
    "sigmoid of the feed-forward": ("aten::sigmoid",),
    "other passes over memory": ("aten::mul", "aten::add", "aten::copy_", "aten::fill_"),
}  # an event belongs to the first kind that a beginning of its name is listed for
REST = "all else (calls, small tensors)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--recipe", default="open")
    parser.add_argument("--phase", type=int, default=1, help="counted from 0")
    parser.add_argument("--examples", type=int, default=96)
    options = parser.parse_args()
    recipe = load_recipe(options.recipe, Recipe)
    phase = recipe.phases[options.phase]
    base = load(recipe.model.base)
    prepared = mix.prepare(recipe.data, base.template, recipe.seed)
    computer = machine(TrainPart())
    stream = ExampleStream(
        mix.phase_examples(phase, prepared, recipe.seed), batch=options.examples,
        micro_batch=phase.micro_batch, epochs=1, seed=1, micro_tokens=computer.micro_tokens,
    )  # fmt: skip
    assert recipe.adapter is not None
    model = adapters.attach(base.model, recipe.adapter, "base", seed=1).train()
    adapters.set_dropout(model, phase.dropout)
    batch = stream.batch(0)

    def step() -> None:
        for part in batch.parts:
            loss, _ = token_loss(model, part)
            (loss / batch.supervised).backward()
        model.zero_grad()

    step()  # the first one warms up
    seconds = median(step)
    with profile(activities=[ProfilerActivity.CPU], with_flops=True) as seen:
        step()
    events = seen.key_averages()
    total = sum(event.self_cpu_time_total for event in events)
    print(f"{options.examples} examples, {batch.tokens:,} tokens in {len(batch.parts)} streams, "
          f"{batch.supervised:,} supervised; dropout {phase.dropout:g}: "
          f"{options.examples / seconds:.1f} samples/s\n")  # fmt: skip
    shares = dict.fromkeys([*KINDS, REST], 0.0)
    for event in events:
        kind = next((k for k, names in KINDS.items() if event.key.startswith(names)), REST)
        shares[kind] += event.self_cpu_time_total / total
    print("| work | share |\n| --- | --- |")
    for kind, share in shares.items():
        print(f"| {kind} | {100 * share:.1f} % |")
    products = [e for e in events if e.key in KINDS["matrix products"] and e.flops]
    rate = sum(e.flops for e in products) / sum(e.self_cpu_time_total for e in products) / 1e3
    print(f"\nmatrix products: {rate:.0f} GFLOP/s; large ones alone: {limit():.0f} GFLOP/s")


def median(work: Callable[[], None], times: int = 3) -> float:
    took = []
    for _ in range(times):
        started = time.perf_counter()
        work()
        took.append(time.perf_counter() - started)
    return statistics.median(took)


def limit(size: int = 2048) -> float:
    """GFLOP/s of a large product in fp32."""
    a, b = torch.randn(size, size), torch.randn(size, size)
    out = torch.empty(size, size)
    torch.mm(a, b, out=out)

    def product() -> None:
        torch.mm(a, b, out=out)

    return 2 * size**3 / median(product, 5) / 1e9


if __name__ == "__main__":
    main()
