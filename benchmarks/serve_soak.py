"""A soak of the server: 64 clients for ten minutes, some of whom leave, crawl or send garbage.

    python benchmarks/serve_soak.py [MODEL] [SECONDS]

Every reply that was read to its end must be the greedy reply of the engine, computed before; of
a reply that was left, what was read must be its beginning. At the end nothing may run or wait,
and the server's memory must have stayed within 5 % of what it was after the first tenth.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
from serve_speed import serving

from stentor.generate import Decoding
from stentor.generate.choice import open_engine

CLIENTS = 64
QUESTIONS = [f"Tell me {n} things about the {w}." for n in (1, 2, 3, 4)
             for w in ("sea", "sky", "moon", "city", "river", "cat", "train", "bread")]  # fmt: skip
GARBAGE = [
    b"", b"{", b"[" * 5000, b"\xff" * 900, b'{"messages": 3}', b'{"messages": []}', b"null",
    b'{"messages": [{"role": "user", "content": "' + b"x " * 3000 + b'"}]}', b"{}" * 200_000,
]  # fmt: skip


def references(model: str) -> dict[str, str]:
    engine = open_engine(model)
    replies = engine.replies(
        [[{"role": "user", "content": q}] for q in QUESTIONS], Decoding.greedy(60)
    )
    return {q: r.text for q, r in zip(QUESTIONS, replies, strict=True)}


def memory(process: subprocess.Popen[str]) -> int:
    """Resident KiB of the server."""
    status = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8")
    return int(status.split("VmRSS:")[1].split()[0])


def asked(question: str, *, streamed: bool) -> dict[str, Any]:
    return {
        "messages": [{"role": "user", "content": question}], "max_tokens": 60, "temperature": 0,
        "top_p": 1, "repetition_penalty": 1, "stream": streamed,
    }  # fmt: skip


class Soak:
    def __init__(self, expected: dict[str, str], until: float) -> None:
        self.expected, self.until = expected, until
        self.seen: Counter[str] = Counter()
        self.mixed: list[tuple[str, str, str]] = []

    async def client(self, client: httpx.AsyncClient, number: int) -> None:
        draw = random.Random(number)
        while time.monotonic() < self.until:
            kind = draw.choices(
                ("stream", "whole", "leave", "crawl", "garbage"), (50, 20, 15, 5, 10)
            )[0]
            try:
                await self.act(client, draw, kind)
            except (httpx.HTTPError, AssertionError) as error:
                self.seen[f"{kind}: {type(error).__name__} {error}"[:90]] += 1

    async def act(self, client: httpx.AsyncClient, draw: random.Random, kind: str) -> None:
        if kind == "garbage":
            got = await client.post(
                "/v1/chat/completions", content=draw.choice(GARBAGE),
                headers={"content-type": "application/json"},
            )  # fmt: skip
            self.seen[f"garbage {got.status_code}"] += 1
            return
        question = draw.choice(QUESTIONS)
        body = asked(question, streamed=kind != "whole")
        if kind == "whole":
            got = await client.post("/v1/chat/completions", json=body)
            if got.status_code != 200:
                self.seen[f"whole {got.status_code}"] += 1
                return
            text, complete = got.json()["choices"][0]["message"]["content"], True
        else:
            text, complete = await self.read(client, draw, kind, body)
        right = self.expected[question]
        if text != right and (complete or not right.startswith(text)):
            self.mixed.append((question, right, text))
        self.seen[f"{kind} {'complete' if complete else 'left'}"] += 1

    async def read(
        self, client: httpx.AsyncClient, draw: random.Random, kind: str, body: dict[str, Any]
    ) -> tuple[str, bool]:
        text, pieces, leaving = "", 0, draw.randint(0, 12)
        async with client.stream("POST", "/v1/chat/completions", json=body) as answer:
            assert answer.status_code == 200, answer.status_code
            async for line in answer.aiter_lines():
                if line == "data: [DONE]":
                    return text, True
                if line.startswith("data: "):
                    chunk = json.loads(line[6:])
                    assert "error" not in chunk, chunk
                    text += chunk["choices"][0]["delta"].get("content", "")
                    pieces += 1
                if kind == "leave" and pieces > leaving:
                    return text, False
                if kind == "crawl":
                    await asyncio.sleep(draw.random() * 0.3)
        return text, False


async def run(url: str, process: subprocess.Popen[str], model: str, seconds: float) -> bool:
    expected = references(model)
    soak = Soak(expected, time.monotonic() + seconds)
    sizes = [memory(process)]
    limits = httpx.Limits(max_connections=CLIENTS)
    async with httpx.AsyncClient(base_url=url, timeout=120, limits=limits) as client:
        tasks = [asyncio.create_task(soak.client(client, n)) for n in range(CLIENTS)]
        while time.monotonic() < soak.until:
            await asyncio.sleep(seconds / 20)
            sizes.append(memory(process))
            print(f"{sizes[-1] / 1024:.0f} MiB", dict(soak.seen), file=sys.stderr, flush=True)
        await asyncio.gather(*tasks)
        for _ in range(100):
            health = (await client.get("/health")).json()
            if health["running"] == health["waiting"] == 0:
                break
            await asyncio.sleep(0.1)
    sizes.append(memory(process))
    warm, last = sizes[2], max(sizes[3:])
    print(f"after {seconds:g} s: {dict(sorted(soak.seen.items()))}")
    print(f"health: {health}; alive: {process.poll() is None}; cores: {os.cpu_count()}")
    print(
        f"memory: {warm / 1024:.0f} MiB warm, {last / 1024:.0f} MiB most ({last / warm - 1:+.1%})"
    )
    print(f"replies that are not their reference: {len(soak.mixed)}")
    for question, right, text in soak.mixed[:5]:
        print(f"  {question!r}: {right!r} but {text!r}")
    return not soak.mixed and process.poll() is None and last <= 1.05 * warm


if __name__ == "__main__":
    name = sys.argv[1] if len(sys.argv) > 1 else "stentor-12m"
    time_given = float(sys.argv[2]) if len(sys.argv) > 2 else 600.0
    with serving(name) as (address, server):
        sys.exit(not asyncio.run(run(address, server, name, time_given)))
