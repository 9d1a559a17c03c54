"""How long until the page of `--to web` says its first word?

    stentor export stentor-12m --to web --out copies
    python benchmarks/web_start.py copies/web-int8 [ROUNDS]

Opens the page in Chromium with an empty cache, sends a message at once, and waits for the first
piece of the reply. Prints the seconds of each round, and the processor seconds that the browser
and the file server spent on it: on a machine that does other things too, what a quiet core would
need lies between the two.
"""

from __future__ import annotations

import statistics
import sys
from pathlib import Path

import psutil

from stentor.export.browser_runtime import BrowserRuntime


def spent() -> float:
    """Processor seconds so far of this process and all below it."""
    total = 0.0
    for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
        try:
            times = process.cpu_times()
        except psutil.Error:
            continue
        total += times.user + times.system
    return total


def main() -> None:
    runtime = BrowserRuntime(Path(sys.argv[1]))
    seconds, processor = [], []
    for _ in range(int(sys.argv[2]) if len(sys.argv) > 2 else 5):
        before = spent()
        seconds.append(runtime.first_token("Why is the sky blue?"))
        processor.append(spent() - before)
        print(f"{seconds[-1]:.2f} s, {processor[-1]:.2f} s of processor", flush=True)
    print(f"median {statistics.median(seconds):.2f} s, {statistics.median(processor):.2f} s")
    runtime.close()


if __name__ == "__main__":
    main()
