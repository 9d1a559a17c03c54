"""How fast our decoding is, side by side with llama.cpp and transformers, in one run.

    python benchmarks/decoding_speed.py [MODEL] [--tokens 64] [--rounds 3] [--probe 500]
                                        [--processor-time]

All decode the same weights, greedily, on the same number of threads (OMP_NUM_THREADS, or all
cores), and take turns, since other work on a machine comes and goes; medians are reported. On a
busy machine set OMP_NUM_THREADS=1 and add --processor-time: seconds are then those that the
process computed, not those that passed. `--probe N` asks N prompts of probe-500 (all of them for
the promise), greedy and three samples each. Needs the extras onnx, gguf and llamacpp; what is
missing is left out and said.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from stentor.errors import InputError
from stentor.evaluate import suites
from stentor.evaluate.probe import probe
from stentor.export.format import Provenance, parse
from stentor.generate import Decoding, Engine
from stentor.generate.choice import engine_of
from stentor.generate.onnx_backend import threads
from stentor.generate.running import Request
from stentor.model.load import LoadedModel, load

PROMPT = "Tell me a story about a dog who lived in a small town near the sea."
LLAMA_CPP = {"f16": "gguf:f16", "8 bit": "gguf:q8_0", "4 bit": "gguf:q4_0_all"}
OURS = {"fp32": "onnx", "8 bit": "onnx:int8", "4 bit": "onnx:int4", "torch": "torch"}

Clock = Callable[[], float]
Contestant = Callable[[], int]
"""Decodes once; returns how many tokens it drew."""


def asked(engine: Engine, rows: int) -> list[list[int]]:
    """Prompts that are all different, as those of a batch are: nothing of them can be shared."""
    texts = [PROMPT] if rows == 1 else [f"{n + 1}. {PROMPT}" for n in range(rows)]
    return [engine.prompt_ids([{"role": "user", "content": text}]) for text in texts]


def endless(engine: Engine, tokens: int, rows: int) -> Contestant:
    """So many tokens for each row, whatever they are."""
    prompts = asked(engine, rows)
    decoding = Decoding.greedy(tokens)

    def run() -> int:
        running = engine.running()
        running._stop_ids = frozenset()
        drawn = len(running.join([Request(ids, decoding, 0) for ids in prompts]))
        while running:
            drawn += len(running.step())
        return drawn

    return run


def stock(loaded: LoadedModel, prompts: list[list[int]], tokens: int) -> Contestant:
    """`generate` of transformers, rows padded on the left."""
    longest = max(map(len, prompts))
    prompt = torch.tensor([[0] * (longest - len(ids)) + ids for ids in prompts])
    mask = torch.tensor([[0] * (longest - len(ids)) + [1] * len(ids) for ids in prompts])

    def run() -> int:
        out = loaded.model.generate(
            prompt, attention_mask=mask, do_sample=False, repetition_penalty=1.0,
            max_new_tokens=tokens, min_new_tokens=tokens, pad_token_id=0,
        )  # fmt: skip
        return int((out.shape[1] - prompt.shape[1]) * len(prompts))

    return run


def llama_cpp(loaded: LoadedModel, target: str, folder: Path, ids: list[int], tokens: int) -> Any:
    """A contestant over a GGUF copy of the same weights."""
    (wanted,) = parse([target])
    wanted.format.require(wanted.kind)
    writer = wanted.format.writer()
    place = folder / wanted.folder
    place.mkdir()
    writer.write(loaded, place, wanted.kind, Provenance("m", "", "", "", "", ""))
    runtime = writer.open_runtime(place, wanted.kind, threads=threads())

    def run() -> int:
        drawn = 0
        while drawn < tokens:  # a reply that ends is begun again
            drawn += len(runtime.greedy([ids], tokens - drawn)[0])
        return drawn

    return run


def race(contestants: dict[str, Contestant], rounds: int, clock: Clock) -> dict[str, list[float]]:
    """Tokens a second of each, taking turns."""
    speeds: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(rounds + 1):
        for name, run in contestants.items():
            start = clock()
            drawn = run()
            if turn:  # the first warms up
                speeds[name].append(drawn / (clock() - start))
    return speeds


def first_token(engine: Engine, rounds: int, clock: Clock) -> list[float]:
    """Milliseconds from a request to its first token, loaded and with the system prompt known."""
    found = []
    for turn in range(rounds + 1):
        asked = [{"role": "user", "content": f"{turn}. {PROMPT}"}]
        start = clock()
        request = engine.request(asked, Decoding.greedy(1), system=engine.system or CARD)
        next(iter(engine.tokens([request])))
        found.append(1000 * (clock() - start))
    return found[1:]


CARD = "You are a helpful assistant. Answer in one to four sentences, kindly and plainly. " * 6


def cold_start(model: str, rounds: int) -> list[float]:
    """Seconds from starting `stentor generate --prompt` to the first byte of its reply."""
    found = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-m", "stentor.cli", "generate", model, "--prompt", PROMPT,
             "--greedy"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        assert process.stdout is not None
        process.stdout.read(1)
        found.append(time.perf_counter() - start)
        process.stdout.read()
        process.wait()
    return found[1:]


def probed(engine: Engine, prompts: int, clock: Clock) -> tuple[float, int, int]:
    """Seconds, replies and tokens of a probe, greedy and three samples."""
    suite = suites.load("probe-500")
    step = max(1, len(suite.prompts) // prompts)
    part = type(suite)(**{**vars(suite), "prompts": suite.prompts[::step][:prompts]})
    start = clock()
    result = probe(engine, [part], samples=3)
    return clock() - start, len(result.records), sum(r.tokens for r in result.records)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", nargs="?", default="stentor-12m")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--probe", type=int, default=0)
    parser.add_argument("--processor-time", action="store_true")
    options = parser.parse_args()
    clock = time.process_time if options.processor_time else time.perf_counter
    torch.set_num_threads(threads())
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    loaded = load(options.model)
    engines = {name: engine_of(loaded, backend) for name, backend in OURS.items()}
    ids = engines["fp32"].prompt_ids([{"role": "user", "content": PROMPT}])
    alone: dict[str, Contestant] = {
        f"stentor {name}": endless(engine, options.tokens, 1) for name, engine in engines.items()
    }
    with tempfile.TemporaryDirectory() as folder:
        for name, target in LLAMA_CPP.items():
            try:
                alone[f"llama.cpp {name}"] = llama_cpp(
                    loaded, target, Path(folder), ids, options.tokens
                )
            except InputError as error:
                print(f"left out: llama.cpp {name}: {error}", file=sys.stderr)
        alone["transformers"] = stock(loaded, [ids], options.tokens)
        show("one stream", race(alone, options.rounds, clock))
    together = {
        f"stentor {name}": endless(engine, options.tokens // 2, 32)
        for name, engine in engines.items()
    }
    together["transformers"] = stock(loaded, asked(engines["fp32"], 32), options.tokens // 2)
    show("32 at once", race(together, max(1, options.rounds // 2), clock))
    print("\nfirst token after a request, ms")
    for name, engine in engines.items():
        print(f"  {name:<20}{statistics.median(first_token(engine, 5, clock)):>9.1f}")
    cold = cold_start(options.model, options.rounds)
    print(f"\ncold start to the first token: {statistics.median(cold):.2f} s (wall clock)")
    if options.probe:
        seconds, replies, tokens = probed(engines["fp32"], options.probe, clock)
        print(f"probe: {replies:,} replies, {tokens:,} tokens in {seconds:.1f} s")


def show(title: str, speeds: dict[str, list[float]]) -> None:
    """Medians, and each as a multiple of transformers."""
    middle = {name: statistics.median(found) for name, found in speeds.items()}
    print(f"\n{title}, tokens/s (each round), times transformers")
    for name, value in middle.items():
        each = ", ".join(f"{s:.0f}" for s in speeds[name])
        print(f"  {name:<20}{value:>9.0f}  ({each})  {value / middle['transformers']:.1f}")
    for bits in ("8 bit", "4 bit"):
        if f"llama.cpp {bits}" in middle:
            ratio = middle[f"stentor {bits}"] / middle[f"llama.cpp {bits}"]
            print(f"  {bits}: {ratio:.2f} times llama.cpp")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
