"""A server in a thread of this process, over models whose replies are known."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import openai
import pytest
import uvicorn

from conftest import build_tiny_model
from stentor.chat import SegmentTemplate
from stentor.generate import Engine
from stentor.model.load import LoadedModel
from stentor.serve.app import build
from stentor.serve.command import bind, configured
from stentor.serve.limits import Limits
from stentor.serve.metrics import Metrics
from stentor.serve.served import Served


@dataclass
class Running:
    """A server that answers at `url`."""

    url: str
    models: list[Served]
    server: uvicorn.Server
    thread: threading.Thread
    app: Any
    clients: list[openai.OpenAI] = field(default_factory=list)

    def client(self, **options: Any) -> openai.OpenAI:
        options = {"api_key": "none", "max_retries": 0, "timeout": 120} | options
        self.clients.append(openai.OpenAI(base_url=f"{self.url}/v1", **options))
        return self.clients[-1]

    def post(self, path: str, **options: Any) -> httpx.Response:
        return httpx.post(self.url + path, timeout=120, **options)

    def settled(self, seconds: float = 10) -> bool:
        """Whether nothing runs and nothing waits, at the latest after `seconds`."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if all(m.scheduler.running + m.scheduler.waiting == 0 for m in self.models):
                return True
            time.sleep(0.01)
        return False

    def stop(self) -> None:
        for client in self.clients:
            client.close()
        self.server.should_exit = True
        self.thread.join(30)
        assert not self.thread.is_alive()


def launch(models: list[LoadedModel], limits: Limits | None = None, **options: Any) -> Running:
    limits = limits or Limits()
    metrics = Metrics()
    served = [Served(m.origin, Engine(m), limits, metrics) for m in models]
    app = build(served, limits, metrics, **options)
    listener = bind("127.0.0.1", 0)
    server = uvicorn.Server(configured(app, limits))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.005)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    return Running(url, served, server, thread, app)


@pytest.fixture
def serve() -> Iterator[Callable[..., Running]]:
    """Starts a server that is stopped when the test ends."""
    started: list[Running] = []

    def serve(*models: LoadedModel, limits: Limits | None = None, **options: Any) -> Running:
        started.append(launch(list(models), limits, **options))
        return started[-1]

    yield serve
    for running in started:
        running.stop()


@pytest.fixture(scope="session")
def tiny(tokenizer: Any, template: SegmentTemplate) -> LoadedModel:
    """Random weights: replies are nonsense, never end, and depend on every token before."""
    return LoadedModel(build_tiny_model(), tokenizer, template, "tiny", {})


@pytest.fixture(scope="module")
def shared(tiny: LoadedModel, scripted: Callable[..., LoadedModel]) -> Iterator[Running]:
    """One server for tests that leave nothing behind: `tiny`, and `scripted`, which can stop."""
    said = scripted("It is.", weather="Rain falls today", quiet="", generation={"system": "Say."})
    running = launch([tiny, said])
    yield running
    running.stop()


@pytest.fixture(scope="module")
def client(shared: Running) -> openai.OpenAI:
    return shared.client()
