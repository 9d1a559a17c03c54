"""How many tokens a second the server gives to one stream, and to 32 at once.

    python benchmarks/serve_speed.py [MODEL]

Starts `stentor serve` in a process of its own and asks over HTTP with greedy decoding, so both
sides of the comparison draw the same tokens. The promise: 32 streams at once get at least 4
times the tokens a second of one stream. Beside other work on the machine the seconds of the clock
say little; so the seconds of processor that the server used are given too.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import httpx

TOKENS = 64


@contextlib.contextmanager
def serving(model: str, *flags: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """A server of its own; its address and process."""
    command = Path(sys.executable).with_name("stentor")
    process = subprocess.Popen(
        [command, "serve", model, "--port", "0", *flags], stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    try:
        yield process.stderr.readline().split(" at ")[1].split()[0], process
    finally:
        process.terminate()
        process.wait(60)


async def stream(client: httpx.AsyncClient, number: int, tokens: int = TOKENS) -> int:
    """Read one reply to its end; how many tokens it had."""
    asked: dict[str, Any] = {
        "prompt": f"{number}. Once upon a time there was a", "max_tokens": tokens,
        "temperature": 0, "repetition_penalty": 1.3, "stream": True,
        "stream_options": {"include_usage": True},
    }  # fmt: skip
    used = 0
    async with client.stream("POST", "/v1/completions", json=asked) as answer:
        answer.raise_for_status()
        async for line in answer.aiter_lines():
            if line.startswith("data: {"):
                usage = json.loads(line[6:]).get("usage")
                used = usage["completion_tokens"] if usage else used
    if not used:
        raise SystemExit("a reply was not complete; the machine is too busy to measure")
    return used


def worked(process: subprocess.Popen[str]) -> float:
    """Seconds of processor that a process has used so far, all its threads together."""
    fields = (
        Path(f"/proc/{process.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    )
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def rates(
    client: httpx.AsyncClient, process: subprocess.Popen[str], streams: int, rounds: int
) -> tuple[float, float]:
    """Tokens a second of the clock, and of the server's processor, of `streams` at once."""
    started, before, tokens = time.perf_counter(), worked(process), 0
    for turn in range(rounds):
        numbers = range(turn * streams, (turn + 1) * streams)
        tokens += sum(await asyncio.gather(*(stream(client, n) for n in numbers)))
    return tokens / (time.perf_counter() - started), tokens / (worked(process) - before)


async def measure(url: str, process: subprocess.Popen[str]) -> None:
    limits = httpx.Limits(max_connections=64)
    async with httpx.AsyncClient(base_url=url, timeout=600, limits=limits) as client:
        await rates(client, process, 32, 1)  # warm
        one, many = [], []
        for _ in range(3):  # by turns, as other work on the machine comes and goes
            one.append(await rates(client, process, 1, 4))
            many.append(await rates(client, process, 32, 1))
    for name, kind in enumerate(("clock", "processor")):
        print(f"tokens a second of {kind}, median of three:")
        single, together = ([pair[name] for pair in found] for found in (one, many))
        for label, found in (("one stream", single), ("32 at once", together)):
            print(f"  {label}  {median(found):.0f}  ({', '.join(f'{r:.0f}' for r in found)})")
        print(f"  ratio       {median(together) / median(single):.1f}")


if __name__ == "__main__":
    with serving(sys.argv[1] if len(sys.argv) > 1 else "stentor-12m") as found:
        asyncio.run(measure(*found))
