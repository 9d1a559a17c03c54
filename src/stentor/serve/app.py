"""The application: which path answers what."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from fastapi.routing import APIRoute
from starlette.routing import Route
from starlette.types import ASGIApp

from stentor import __version__
from stentor.serve import refusals
from stentor.serve.answers import ChatWriter, TextWriter
from stentor.serve.guard import Guard
from stentor.serve.limits import Limits
from stentor.serve.metrics import Metrics
from stentor.serve.openai import (
    ChatCompletion,
    ChatRequest,
    Common,
    Completion,
    CompletionRequest,
    Health,
    JudgeRequest,
    ModelCard,
    ModelDefaults,
    ModelFacts,
    ModelList,
    Verdict,
)
from stentor.serve.page_files import page_files
from stentor.serve.refusals import Refused, documented
from stentor.serve.scheduler import Client
from stentor.serve.served import Served
from stentor.serve.streams import streamed, whole

_GATE = (401, 421)
_WORK = (400, *_GATE, 404, 408, 413, 415, 429, 500, 503, 504)
_STREAM: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}
}

_PLAIN: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/plain": {"schema": {"type": "string"}}}}
}


def build(
    models: Sequence[Served],
    limits: Limits,
    metrics: Metrics,
    *,
    api_key: str | None = None,
    loopback: bool = True,
) -> ASGIApp:
    """The whole server as one ASGI application; the first model is the default one."""

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        for model in models:
            model.start()
        yield
        for model in models:
            await asyncio.to_thread(model.scheduler.close, timeout=limits.grace)

    app = FastAPI(
        title="Stentor", version=__version__, docs_url=None, redoc_url=None, lifespan=life,
        description="OpenAI-compatible chat and text completions of small models.",
    )  # fmt: skip
    refusals.install(app)
    _api(app, {model.name: model for model in models}, metrics)
    files = page_files()
    for path, (content, kind) in files.items():
        app.add_api_route(path, _static(content, kind), methods=["GET"], include_in_schema=False)
    _describe_key(app, api_key)
    routes = [route for route in app.routes if isinstance(route, Route | APIRoute)]
    posts = frozenset(route.path for route in routes if "POST" in (route.methods or ()))
    public = frozenset(files)
    guarded = Guard(app, limits, api_key=api_key, loopback=loopback, public=public, posts=posts)
    return _Counted(guarded, metrics, {route.path_format for route in routes})


def _api(app: FastAPI, models: dict[str, Served], metrics: Metrics) -> None:
    def find(name: str | None) -> Served:
        found = next(iter(models.values())) if name is None else models.get(name)
        if found is None:
            raise Refused(
                404, f"there is no model {name!r} here; /v1/models lists what there is",
                param="model", code="model_not_found",
            )  # fmt: skip
        return found

    @app.post(
        "/v1/chat/completions",
        response_model=ChatCompletion,
        responses=documented(*_WORK) | _STREAM,
        summary="Reply to a conversation",
    )
    async def chat(asked: ChatRequest, request: Request) -> Any:
        served = find(asked.model)
        served.admit(asked, _client(request, asked))
        requests, dropped = await asyncio.to_thread(served.chat, asked)
        writer = ChatWriter(
            served.name, served.fingerprint, served.tokens,
            logprobs=asked.likeliest is not None, dropped=dropped,
        )  # fmt: skip
        return await _reply(request, asked, served, requests, writer)

    @app.post(
        "/v1/completions",
        response_model=Completion,
        responses=documented(*_WORK) | _STREAM,
        summary="Continue a text",
    )
    async def complete(asked: CompletionRequest, request: Request) -> Any:
        served = find(asked.model)
        served.admit(asked, _client(request, asked))
        requests = await asyncio.to_thread(served.complete, asked)
        writer = TextWriter(
            served.name, served.fingerprint, served.tokens, logprobs=asked.likeliest is not None
        )
        return await _reply(request, asked, served, requests, writer)

    @app.get("/v1/models", responses=documented(*_GATE), summary="The models that are served")
    async def list_models() -> ModelList:
        return ModelList(data=[_card(served) for served in models.values()])

    @app.get("/v1/models/{name:path}", responses=documented(400, *_GATE, 404), summary="One model")
    async def one_model(name: str) -> ModelCard:
        return _card(find(name))

    @app.post(
        "/v1/judge",
        responses=documented(400, *_GATE, 408, 413, 415),
        summary="Label a reply, as the probe does",
    )
    async def judge(asked: JudgeRequest) -> Verdict:
        from stentor.evaluate.judge import JUDGE_VERSION
        from stentor.evaluate.judge import judge as label

        found = await asyncio.to_thread(label, asked.prompt, asked.response, system=asked.system)
        return Verdict(
            outcome=found.outcome, supportive=found.supportive, reason=found.reason,
            span=found.span, version=JUDGE_VERSION,
        )  # fmt: skip

    @app.get(
        "/health",
        responses={503: {"model": Health}, **documented(421)},
        summary="Whether the server works",
        response_model=Health,
    )
    async def health() -> Any:
        works = all(served.scheduler.working for served in models.values())
        found = Health(
            status="ok" if works else "failed",
            running=sum(served.scheduler.running for served in models.values()),
            waiting=sum(served.scheduler.waiting for served in models.values()),
        )
        return found if works else JSONResponse(found.model_dump(), 503)

    @app.get(
        "/metrics",
        responses=documented(*_GATE) | _PLAIN,
        response_class=Response,
        summary="Figures for Prometheus",
    )
    async def figures() -> Response:
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _client(request: Request, asked: Common) -> Client:
    return (request.client.host if request.client else "", asked.user or "")


async def _reply(
    request: Request, asked: Common, served: Served, requests: Any, writer: Any
) -> Any:
    continues = isinstance(asked, CompletionRequest)
    ticket = served.submit(requests, asked.stops, _client(request, asked), continues=continues)
    if not asked.stream:
        return await whole(request, ticket, writer)
    options = asked.stream_options
    return await streamed(request, ticket, writer, usage=bool(options and options.include_usage))


def _card(served: Served) -> ModelCard:
    names = ("temperature", "top_p", "repetition_penalty", "max_new_tokens")
    defaults = {name: getattr(served.engine.defaults, name) for name in names}
    facts = ModelFacts(
        window=served.engine.window, system=served.system, defaults=ModelDefaults(**defaults)
    )
    return ModelCard(id=served.name, created=served.created, stentor=facts)


def _static(content: bytes, kind: str) -> Any:
    async def file() -> Response:
        return Response(content, media_type=kind, headers={"cache-control": "no-cache"})

    return file


def _describe_key(app: FastAPI, api_key: str | None) -> None:
    """Say in the OpenAPI description that a key is needed, where one is."""
    if api_key is None:
        return
    schema = app.openapi()
    schema.setdefault("components", {})["securitySchemes"] = {
        "key": {"type": "http", "scheme": "bearer"}
    }
    schema["security"] = [{"key": []}]


class _Counted:
    """Counts answers by route and status; a path that there is not counts as `other`."""

    def __init__(self, app: ASGIApp, metrics: Metrics, routes: set[str]) -> None:
        self._app, self._metrics, self._routes = app, metrics, routes

    def _route(self, path: str) -> str:
        if path in self._routes:
            return path
        begun = (r for r in self._routes if "{" in r and path.startswith(r[: r.index("{")]))
        return next(begun, "other")

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def sending(message: Any) -> None:
            if message["type"] == "http.response.start":
                self._metrics.answered(self._route(scope["path"]), message["status"])
            await send(message)

        await self._app(scope, receive, sending if scope["type"] == "http" else send)
