"""What a draft does for a larger target: acceptance, speed with and without, the same text or not.

    python benchmarks/drafting.py TARGET DRAFT [--prompts 20] [--tokens 64] [--draft-tokens 3 5 8]

Asks every so-many-th benign prompt of probe-500 greedily, with and without the draft, in turns
(transformers' assisted generation, `stentor.generate.speculate`), and the target alone by our own
engine. Prints a table in Markdown: a row for each number of drafted tokens. Sums over prompts, not
means of ratios.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

from stentor.evaluate import suites
from stentor.generate import Decoding
from stentor.generate.choice import engine_of
from stentor.generate.onnx_backend import threads
from stentor.generate.speculate import Speculation, speculate
from stentor.model.load import LoadedModel, load


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("target")
    parser.add_argument("draft")
    parser.add_argument("--prompts", type=int, default=20)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--draft-tokens", type=int, nargs="+", default=[3, 5, 8])
    options = parser.parse_args()
    torch.set_num_threads(threads())
    target, draft = load(options.target), load(options.draft)
    benign = [p.text for p in suites.load("probe-500").prompts if p.kind == "benign"]
    prompts = benign[:: max(1, len(benign) // options.prompts)][: options.prompts]
    print(
        f"{options.target} ({millions(target)} M parameters), drafted for by {options.draft} "
        f"({millions(draft)} M); {len(prompts)} prompts, at most {options.tokens} new tokens, "
        f"{torch.get_num_threads()} threads\n"
    )
    heads = ("drafted at a time", "accepted", "tokens a call of the target", "tokens/s with",
             "without", "times", "the target's own text")  # fmt: skip
    print(f"| {' | '.join(heads)} |\n|{' --- |' * len(heads)}")
    for count in options.draft_tokens:
        print(row(count, [
            speculate(target, draft, text, max_new_tokens=options.tokens, draft_tokens=count)
            for text in prompts
        ]), flush=True)  # fmt: skip
    alone = own_speed(target, prompts, options.tokens)
    print(f"\nThe target alone by our engine (ONNX Runtime, fp32): {alone:.0f} tokens/s")


def millions(loaded: LoadedModel) -> str:
    return f"{sum(p.numel() for p in loaded.model.parameters()) / 1e6:.1f}"


def row(count: int, found: list[Speculation]) -> str:
    """One line of the table."""
    tokens = sum(f.tokens for f in found)
    accepted, drafted = sum(f.accepted for f in found), sum(f.drafted for f in found)
    with_ = tokens / sum(f.seconds for f in found)
    without = tokens / sum(f.seconds_alone for f in found)
    same = sum(f.identical for f in found)
    each = [f.speed_up for f in found]
    parted = [f.first_difference[1] for f in found if f.first_difference]
    gaps = (
        f" (others part where the two best are {max(parted):.3f} apart at most)" if parted else ""
    )
    return (
        f"| {count} | {100 * accepted / max(1, drafted):.0f} % of {drafted:,} | "
        f"{tokens / sum(f.target_calls for f in found):.2f} | {with_:.1f} | {without:.1f} | "
        f"**{with_ / without:.2f}** ({min(each):.2f}–{max(each):.2f}) | "
        f"{same} of {len(found)}{gaps} |"
    )


def own_speed(target: LoadedModel, prompts: list[str], tokens: int) -> float:
    """Tokens a second of one stream, median over the prompts."""
    engine = engine_of(target, "onnx")
    rates = []
    for text in prompts:
        started = time.perf_counter()
        (reply,) = engine.replies([[{"role": "user", "content": text}]], Decoding.greedy(tokens))
        rates.append(len(reply.ids) / (time.perf_counter() - started))
    return statistics.median(rates)


if __name__ == "__main__":
    main()
