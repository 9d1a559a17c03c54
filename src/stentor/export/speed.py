"""Load time, memory and tokens/s of one copy, on one core, in a process that holds nothing else.

    echo '[1, 3, …]' | python -m stentor.export.speed gguf:q8_0 FOLDER

prints one JSON object. Memory is how much the process grew at its largest, from when the
runtime's library was imported until 64 tokens were generated. On a machine that does other
things too, tokens per second of the processor are the better figure: on a free core one thread
takes no other time.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from stentor.export.format import Target, parse

TOKENS = 64
_PATIENCE = 20.0  # seconds after which a slow runtime is not asked again
_LIMIT = 600.0


def measure(target: Target, folder: Path, prompt: Sequence[int]) -> dict[str, float] | None:
    """`load_seconds`, `memory_bytes`, `tokens_per_second`; None when the process failed."""
    call = [sys.executable, "-m", "stentor.export.speed", target.name, str(folder)]
    one = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    try:
        done = subprocess.run(
            call, input=json.dumps(list(prompt)), capture_output=True, text=True,
            env=os.environ | one, timeout=_LIMIT, check=True,
        )  # fmt: skip
        found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    except (subprocess.SubprocessError, ValueError, IndexError):
        return None
    return found


def _peak() -> int:
    """The largest resident size so far, in bytes."""
    status = Path("/proc/self/status")
    if status.is_file():  # getrusage counts what the process held before it became this one
        line = next(x for x in status.read_text().splitlines() if x.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _here(target: Target, folder: Path, prompt: Sequence[int]) -> dict[str, float]:
    if target.format.runs_on:
        importlib.import_module(target.format.runs_on)
    before, start = _peak(), time.perf_counter()
    runtime = target.format.writer().open_runtime(folder, target.kind, threads=1)
    loaded = time.perf_counter() - start
    speeds: list[float] = []
    alone: list[float] = []
    began = time.perf_counter()
    for _ in range(4):  # the first warms up, unless it takes too long already
        start, worked = time.perf_counter(), time.process_time()
        (reply,) = runtime.greedy([prompt], TOKENS)
        speeds.append(len(reply) / (time.perf_counter() - start))
        alone.append(len(reply) / (time.process_time() - worked))
        if time.perf_counter() - began > _PATIENCE:
            break
    outside = getattr(runtime, "grown", None)  # of runtimes that are a process of their own
    grown = outside() if outside else _peak() - before
    first = getattr(runtime, "first_token", None)  # of a page: from opening it to its first word
    extra = {"first_token_seconds": first("Why is the sky blue?")} if first else {}
    if not outside:
        extra["tokens_per_processor_second"] = statistics.median(alone[1:] or alone)
    runtime.close()
    return {
        "load_seconds": loaded,
        "memory_bytes": grown,
        "tokens_per_second": statistics.median(speeds[1:] or speeds),
    } | extra


def main() -> None:
    """The measuring process."""
    (target,) = parse(sys.argv[1:2])
    prompt = json.load(sys.stdin)
    with contextlib.redirect_stdout(sys.stderr):  # libraries print what they like
        found = _here(target, Path(sys.argv[2]), prompt)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
