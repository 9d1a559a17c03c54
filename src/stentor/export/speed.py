"""Load time, memory and tokens/s of one copy, on one core, in a process that holds nothing else.

    echo '[1, 3, …]' | python -m stentor.export.speed gguf:q8_0 FOLDER [PICTURE]

prints one JSON object; of a page, PICTURE becomes a screenshot. Memory is how much the process
grew at its largest, from when the runtime's library was imported until 64 tokens were generated.
On a machine that does other things too, tokens per second of the processor are the better figure:
on a free core one thread takes no other time.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stentor.errors import StentorError
from stentor.export.format import Target, parse

TOKENS = 64
_PATIENCE = 20.0  # seconds after which a slow runtime is not asked again
_LIMIT = 600.0
_STATUS = Path("/proc/self/status")


class NotMeasured(StentorError):
    """The measuring process failed; the text says of what."""


def picture(target: Target) -> str:
    """The file, beside the folder of a copy that is a page, that shows the page."""
    return f"{target.folder}.png"


def measure(target: Target, folder: Path, prompt: Sequence[int]) -> dict[str, float]:
    """`load_seconds`, `memory_bytes` (where the system tells it) and `tokens_per_second`.

    NotMeasured when the process failed.
    """
    beside = str(folder.parent / picture(target))
    call = [sys.executable, "-m", "stentor.export.speed", target.name, str(folder), beside]
    one = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    try:
        done = subprocess.run(
            call, input=json.dumps(list(prompt)), capture_output=True, text=True,
            env=os.environ | one, timeout=_LIMIT,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise NotMeasured(f"it took more than {_LIMIT:g} s") from None
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip()]
        code = f"the measuring process ended with {done.returncode}"
        raise NotMeasured(f"{code}: {said[-1].strip()}" if said else code)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def _peak() -> int | None:
    """The largest resident size so far, in bytes; None where the system doesn't tell it."""
    if _STATUS.is_file():  # getrusage counts what the process held before it became this one
        line = next(x for x in _STATUS.read_text().splitlines() if x.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    try:
        resource: Any = importlib.import_module("resource")
    except ImportError:  # on Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * unit


def _here(
    target: Target, folder: Path, prompt: Sequence[int], shown: Path | None = None
) -> dict[str, float]:
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
    peak = _peak()
    grown = outside() if outside else peak - before if peak and before else None
    found = {"load_seconds": loaded, "tokens_per_second": statistics.median(speeds[1:] or speeds)}
    if grown is not None:
        found["memory_bytes"] = grown
    if first := getattr(runtime, "first_token", None):  # of a page: from opening it to its word
        found["first_token_seconds"] = first("Why is the sky blue?", shown)
    if not outside:
        found["tokens_per_processor_second"] = statistics.median(alone[1:] or alone)
    runtime.close()
    return found


def main() -> None:
    """The measuring process."""
    (target,) = parse(sys.argv[1:2])
    prompt = json.load(sys.stdin)
    with contextlib.redirect_stdout(sys.stderr):  # libraries print what they like
        found = _here(target, Path(sys.argv[2]), prompt, *map(Path, sys.argv[3:4]))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
