"""The loss over 32,768 words: ours against PyTorch's, forward and backward, in turns.

    python benchmarks/head_loss.py [--rows 2048] [--times 5]

States (rows, 192), a head of (32,768, 192) that is trained too, fp32. Processor time, which other
work disturbs less than time; all arms run on the same number of threads (OMP_NUM_THREADS). Peak
memory is what a process of its own needs above the states and the head.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import LinearCrossEntropyOptions
from torch.nn.functional import cross_entropy, linear, linear_cross_entropy

from stentor.model.head import head_loss

HIDDEN, WORDS = 192, 32_768
Loss = Callable[[Tensor, Tensor, Tensor], Tensor]

ARMS: dict[str, Loss] = {
    "ours (head_loss)": lambda x, w, t: head_loss(x, w, t)[0],
    "PyTorch, in chunks": lambda x, w, t: linear_cross_entropy(
        x, w, t, reduction="sum", options=LinearCrossEntropyOptions()
    ),
    "PyTorch, linear_cross_entropy as it comes": lambda x, w, t: linear_cross_entropy(
        x, w, t, reduction="sum"
    ),
    "PyTorch, linear and cross_entropy": lambda x, w, t: cross_entropy(
        linear(x, w), t, reduction="sum"
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rows", type=int, default=2048)
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--memory-of", choices=[*ARMS], help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.manual_seed(0)
    states = torch.randn(options.rows, HIDDEN, requires_grad=True)
    head = torch.nn.Parameter(torch.randn(WORDS, HIDDEN) * 0.05)
    targets = torch.randint(WORDS, (options.rows,))

    def step(loss: Loss) -> tuple[float, Tensor]:
        states.grad = None
        head.grad = None
        started = time.process_time()
        value = loss(states, head, targets)
        value.backward()
        return time.process_time() - started, value.detach()

    if options.memory_of:
        before = peak()
        step(ARMS[options.memory_of])
        print(peak() - before)
        return
    # first of all: a process starts with the peak of the one that started it
    memory = {name: memory_of(name, options.rows) for name in ARMS}
    took: dict[str, list[float]] = {name: [] for name in ARMS}
    values = {name: step(loss)[1] for name, loss in ARMS.items()}
    for _ in range(options.times):
        for name, loss in ARMS.items():
            took[name].append(step(loss)[0])
    ours = statistics.median(took[next(iter(ARMS))])
    print(f"{options.rows} rows, {torch.get_num_threads()} threads\n")
    print("| | processor time, s (each) | times ours | peak memory, MiB | loss a row |")
    print("| --- | --- | --- | --- | --- |")
    for name, each in took.items():
        middle = statistics.median(each)
        print(f"| {name} | {middle:.3f} ({', '.join(f'{t:.3f}' for t in each)}) | "
              f"{middle / ours:.2f} | {memory[name]:,.0f} | "
              f"{float(values[name]) / options.rows:.5f} |")  # fmt: skip


def memory_of(name: str, rows: int) -> float:
    asked = [sys.executable, __file__, f"--rows={rows}", f"--memory-of={name}"]
    return float(subprocess.run(asked, capture_output=True, text=True, check=True).stdout)


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
